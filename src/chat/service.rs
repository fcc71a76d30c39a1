//! The responder as a service: what it needs is tried before it is published, and how it fares is reported.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::watch;

use super::openai::OpenAi;
use super::standing::Standing;
use super::{Answers, NAME};
use crate::config::Config;
use crate::config::chat::Backend;
use crate::service::{Blame, Context, Live, Next, Part, Problem, Readiness, Reporter, Service, State};

/// The chat service. It runs where the backend is something that can be in trouble.
#[derive(Default)]
pub struct Responding {
    /// How its answers ended, so far.
    pub answers: Arc<Answers>,
}

#[async_trait]
impl Service for Responding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, config: &Config) -> bool {
        matches!(config.chat.backend, Backend::OpenAi(_))
    }

    async fn prepare(&self, next: &Next<'_>, running: Option<&Live>) -> Result<Part, Vec<Problem>> {
        let Backend::OpenAi(config) = &next.config.chat.backend else { return Ok(Arc::new(())) };
        let running = running.and_then(|live| live.part::<OpenAi>(NAME));
        match OpenAi::prepare(config, next.secrets.get("chat.api_key"), running, next.asked, &self.answers).await {
            Ok(openai) => Ok(openai),
            Err(problem) => Err(vec![problem]),
        }
    }

    async fn run(&self, mut context: Context) -> anyhow::Result<()> {
        loop {
            let mut told = Standing::Fine;
            let live = Arc::clone(&context.live.borrow_and_update());
            let openai = live.part::<OpenAi>(NAME);
            let mut standing = openai.as_deref().map(OpenAi::standing);
            if let Some(openai) = &openai {
                context.reporter.details(json!({ "base_url": openai.base_url(), "model": openai.model() }));
            }
            loop {
                match &mut standing {
                    Some(standing) => tell(&context.reporter, &standing.borrow_and_update(), &mut told),
                    None => hold(&context.reporter, &live),
                }
                tokio::select! {
                    () = context.stop.cancelled() => return Ok(()),
                    changed = context.live.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return Ok(()),
                    },
                    () = next_standing(standing.as_mut()) => {}
                }
            }
        }
    }
}

/// Completes when the standing is another one.
async fn next_standing(standing: Option<&mut watch::Receiver<Standing>>) {
    let changed = match standing {
        Some(standing) => standing.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending::<()>().await;
    }
}

fn hold(reporter: &Reporter, live: &Live) {
    match live.parts.get(NAME) {
        Some(Readiness::Held { state, reason }) => reporter.state(*state, reason.clone()),
        _ => reporter.state(State::Waiting, "the configuration asks for no backend"),
    }
}

/// Puts the standing on the board. The journal hears of failures request by request; here it hears that they are over.
fn tell(reporter: &Reporter, standing: &Standing, told: &mut Standing) {
    match standing {
        Standing::Fine => {
            reporter.state(State::Running, "");
            if *told != Standing::Fine {
                tracing::info!(service = NAME, "messages are answered again");
            }
        }
        Standing::Refused { blame, reason } => reporter.failed(State::Recovering, *blame, reason.clone()),
        Standing::Troubled { reason } => reporter.failed(State::Recovering, Blame::Others, reason.clone()),
    }
    told.clone_from(standing);
}
