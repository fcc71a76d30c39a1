//! Discord on this machine: perch's own simulator inside the test's process.

use perch::sim::{Counters, Options, Say, Settings, Simulator};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::exchange::exchange;
use super::perch::{PATIENCE, keep_secret};

/// A simulator that serves until it is dropped.
pub struct Discord {
    runtime: Runtime,
    simulator: Simulator,
}

impl Discord {
    /// As Discord is.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        keep_secret(perch::sim::DEFAULT_TOKEN);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let simulator = runtime.block_on(Simulator::start(options)).expect("a free port");
        Discord { runtime, simulator }
    }

    /// For `discord.api_url`.
    pub fn url(&self) -> String {
        self.simulator.url()
    }

    /// To break it, and to say and read what no helper here does.
    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    pub fn counters(&self) -> Counters {
        self.simulator.counters()
    }

    /// The tokens taken from now on.
    pub fn take_tokens(&self, tokens: &[&str]) {
        tokens.iter().copied().for_each(keep_secret);
        let tokens = tokens.iter().map(|token| (*token).to_owned()).collect();
        self.simulator.change(Settings { tokens: Some(tokens), ..Settings::default() }).unwrap();
    }

    /// Makes it misbehave, as `sim/faults.rs` says it can.
    pub fn fault(&self, order: &Value) {
        let url = format!("{}/sim/faults", self.simulator.control_url());
        let answer = exchange("POST", &url, &[("Content-Type", "application/json")], order.to_string().as_bytes());
        assert!((200..300).contains(&answer.status), "{order}: {}", answer.text());
    }

    pub fn clear_faults(&self) {
        let url = format!("{}/sim/faults", self.simulator.control_url());
        assert!((200..300).contains(&exchange("DELETE", &url, &[], b"").status));
    }

    /// Ada says `text` to the bot in #general; returns what the bot answers.
    #[track_caller]
    pub fn ask(&self, text: &str) -> String {
        let bot = self.simulator.state()["bot"]["id"].as_str().expect("the bot has an id").to_owned();
        let said = self.simulator.say(Say::new(format!("<@{bot}> {text}"))).unwrap();
        let reply = |state: &Value| {
            let channels = state["channels"].as_array()?;
            let messages = channels.iter().find(|channel| channel["name"] == "general")?["messages"].as_array()?;
            let reply = messages.iter().find(|message| message["message_reference"]["message_id"] == said["id"])?;
            Some(reply["content"].as_str()?.to_owned())
        };
        let answer = self.runtime.block_on(self.simulator.until(PATIENCE, reply));
        answer.unwrap_or_else(|| panic!("no answer to {text:?}: {:#}", self.simulator.state()["channels"]))
    }
}
