//! A bot that many processes are, one after the other: what outlives them is its state directory and Discord.

use std::path::Path;
use std::sync::Arc;

use perch::service::Board;
use perch::sim::{DEFAULT_TOKEN, Options, RateLimits, Say};
use perch::store::{Attempt, Pace, Store};
use tempfile::TempDir;

use super::discord::Discord;
use super::exchange::exchange;
use super::perch::{Start, free_port, wait};

/// The user id of the simulator's bot.
pub const ID: u64 = 1_100_000_000_000_000_010;

pub struct Bot {
    pub discord: Discord,
    pub port: u16,
    state: TempDir,
}

/// Something the bot said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message that it replies to, if it does.
    pub to: Option<String>,
    pub text: String,
}

impl Bot {
    /// Discord's rate limits are out of the way.
    pub fn new() -> Self {
        Bot::with(Options { rate_limits: RateLimits { scale: 0, global: 0 }, ..Options::default() })
    }

    pub fn with(options: Options) -> Self {
        Bot { discord: Discord::with(options), port: free_port(), state: TempDir::new().unwrap() }
    }

    pub fn config(&self) -> String {
        format!(
            "[discord]\ntoken = {{ env = \"TOKEN\" }}\napi_url = \"{}\"\n[http]\nlisten = \"127.0.0.1:{}\"\n",
            self.discord.url(),
            self.port
        )
    }

    /// `perch run`, the next time.
    pub fn perch(&self) -> Start {
        let variables = [("TOKEN", DEFAULT_TOKEN), ("STATE_DIRECTORY", self.state.path().to_str().unwrap())];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Start::with_text(&self.config()).env(variables)
    }

    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }

    /// Adds a channel, of which the bot may or may not read the history.
    pub fn add_channel(&self, name: &str, history: bool) {
        let url = format!("{}/sim/channels", self.discord.simulator().control_url());
        let body = serde_json::json!({ "name": name, "history": history }).to_string();
        let answer = exchange("POST", &url, &[("Content-Type", "application/json")], body.as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.text());
    }

    /// Ada says `text` to the bot; returns the message's id.
    pub fn mention(&self, channel: &str, text: &str) -> String {
        let say = Say::new(format!("<@{ID}> {text}")).in_channel(channel);
        self.discord.simulator().say(say).unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// What the bot said in `channel`, in order.
    pub fn answers(&self, channel: &str) -> Vec<Answer> {
        let (mut messages, id) = (self.discord.simulator().messages(channel), ID.to_string());
        messages.retain(|message| message["author"]["id"] == id);
        let answer = |message: &serde_json::Value| Answer {
            to: message["message_reference"]["message_id"].as_str().map(str::to_owned),
            text: message["content"].as_str().unwrap().to_owned(),
        };
        messages.iter().map(answer).collect()
    }

    /// Waits until the bot has said so much in `channel`.
    #[track_caller]
    pub fn wait_answers(&self, channel: &str, count: usize) -> Vec<Answer> {
        wait(&format!("{count} answers in #{channel}"), || {
            Some(self.answers(channel)).filter(|answers| answers.len() >= count)
        })
    }

    /// What the bot began to answer and did not finish, by the messages' ids. No perch may be running.
    pub fn unsettled(&self) -> Vec<(u64, Attempt)> {
        self.remembering(async |store| store.ledger().unsettled(ID).await)
    }

    /// Makes the next process believe that so many IDENTIFYs were sent of late, the last one just now.
    pub fn spent(&self, identifies: f64) {
        self.remembering(async |store| store.identifies().spend(ID, identifies).await);
    }

    fn remembering<T>(&self, work: impl AsyncFnOnce(&Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let store = Store::new();
        store.open(self.state.path().to_owned(), Arc::new(Board::default()), Pace::default());
        let done = runtime.block_on(work(&store));
        store.close();
        done
    }
}
