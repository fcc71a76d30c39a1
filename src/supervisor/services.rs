//! Starting services, starting them again, and letting them drain.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::backoff::restart_delay;
use super::machine::Name;
use super::{Message, Supervisor};
use crate::service::{Blame, Context, Reporter, State};
use crate::telemetry::panics;

/// A service that ran this long without failing starts again from the shortest delay.
const STEADY: Duration = Duration::from_mins(1);

impl Supervisor {
    /// Lets the services that don't run do what they do while nothing asks for them. Not before it is known that nothing
    /// does: whoever knocks during a restart is served by what is about to start.
    pub(super) fn idle_rest(&mut self) {
        for service in self.services.iter() {
            let name = service.name();
            if self.running.contains_key(name) || self.idling.contains_key(name) {
                continue;
            }
            let (service, stop) = (Arc::clone(service), self.stop.child_token());
            self.idling.insert(name, stop.clone());
            self.tasks.spawn(panics::SERVICE.scope(name, async move { service.idle(stop).await }));
        }
    }

    pub(super) fn start(&mut self, service: Name, run: u64) {
        let Some(known) = self.services.iter().find(|known| known.name() == service).cloned() else { return };
        let Some(live) = self.live.as_ref() else { return };
        if let Some(idle) = self.idling.remove(service) {
            idle.cancel();
        }
        let stop = CancellationToken::new();
        self.running.insert(service, stop.clone());
        let context = Context {
            live: live.subscribe(),
            stop: stop.clone(),
            departure: self.departure.subscribe(),
            reporter: Reporter::new(service, run, Arc::clone(&self.board)),
        };
        let sender = self.sender.clone();
        self.tasks.spawn(panics::SERVICE.scope(service, async move {
            let steady = sender.clone();
            let serve = AssertUnwindSafe(known.run(context)).catch_unwind();
            tokio::pin!(serve);
            let early = tokio::time::timeout(STEADY, &mut serve).await;
            let result = if let Ok(result) = early {
                result
            } else {
                drop(steady.send(Message::Steady { service, run }).await);
                serve.await
            };
            let why = match result {
                Ok(Ok(())) if stop.is_cancelled() => return,
                Ok(Ok(())) => "it ended by itself".to_owned(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(payload) => format!("it panicked: {}", panics::text(payload.as_ref())),
            };
            if !stop.is_cancelled() {
                drop(sender.send(Message::ServiceEnded { service, run, why }).await);
            }
        }));
    }

    pub(super) fn delay(&mut self, service: Name, run: u64, failures: u32) {
        let delay = restart_delay(failures);
        let why = self.board.services().get(service).map(|health| health.reason.clone()).unwrap_or_default();
        let seconds = delay.as_secs_f32();
        let change = self.bake.as_ref().map(|bake| bake.change.0);
        tracing::error!(service, change, "{service} failed and is started again in {seconds:.1} s: {why}");
        self.board.restarted(service);
        let blame = Blame::Configuration;
        self.board.set(
            service,
            run,
            State::Recovering,
            blame,
            format!("{why}; it is started again after {seconds:.1} s"),
        );
        let (sender, stop) = (self.sender.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => drop(sender.send(Message::RestartDue { service, run }).await),
                () = stop.cancelled() => {}
            }
        });
    }

    pub(super) fn drain(&mut self) {
        self.stop.cancel();
        for stop in self.running.values() {
            stop.cancel();
        }
        self.tasks.close();
        let limit = self.live.as_ref().map_or(Duration::from_secs(1), |live| live.borrow().config.run.drain);
        let (tasks, sender) = (self.tasks.clone(), self.sender.clone());
        // Not in the tracker it waits for; it ends with the loop that takes its message.
        tokio::spawn(async move {
            let in_time = tokio::time::timeout(limit, tasks.wait()).await.is_ok();
            if !in_time {
                tracing::error!(
                    service = "supervisor",
                    "the drain's deadline of {} s passed with work unfinished",
                    limit.as_secs()
                );
            }
            drop(sender.send(Message::Drained { in_time }).await);
        });
    }
}
