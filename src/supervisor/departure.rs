//! Leaving the work to another host before this one goes, and taking it up again when it stays.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Message, Supervisor};
use crate::aws::Announcements;
use crate::config::secret::SecretPlace;
use crate::service::{Departure, Notice};
use crate::source::Uri;

impl Supervisor {
    /// Begins or ends the watch for announcements, as the configuration and its source want it: where nothing is asked
    /// of AWS, its metadata service is not asked either.
    pub(super) fn watch_departure(&mut self) {
        let config = self.live.as_ref().map(|live| Arc::clone(&live.borrow().config));
        let secrets = config.iter().flat_map(|config| config.secrets());
        let mut places = secrets.flat_map(|secret| &secret.places);
        let aws = matches!(self.uri, Uri::S3 { .. })
            || places.any(|place| matches!(place, SecretPlace::SecretsManager { .. }));
        let wanted = config.as_ref().is_none_or(|config| config.run.departure) && aws && self.simulator.is_none();
        match (&self.departure_watch, wanted) {
            (None, true) => {
                let Some(announcements) = self.aws.announcements() else { return };
                let stop = self.stop.child_token();
                self.departure_watch = Some(stop.clone());
                let sender = self.sender.clone();
                self.tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = watch(announcements, sender) => {}
                    }
                });
            }
            (Some(watch), false) => {
                watch.cancel();
                self.turn(None);
                self.departure_watch = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Does what is announced, unless perch ends already or nobody wants to know any more.
    pub(super) fn depart(&mut self, announced: Option<Departure>) {
        if self.departure_watch.as_ref().is_some_and(|watch| !watch.is_cancelled()) {
            self.turn(announced);
        }
    }

    /// Has load balancers send nobody any more. Whatever is announced besides says the same.
    pub(super) fn be_unready(&mut self) {
        let reason = "perch was told to end".to_owned();
        self.departure.send_if_modified(|departure| {
            let fresh = departure.is_none();
            departure.get_or_insert(Departure { notice: Notice::Termination, at: None, reason });
            fresh
        });
    }

    fn turn(&mut self, announced: Option<Departure>) {
        if *self.departure.borrow() == announced || self.drain_due.is_some() {
            return;
        }
        if let Some(Departure { reason, .. }) = &announced {
            tracing::warn!(
                service = "supervisor",
                "this host is to go: {reason}; /ready answers 503, requests are served while they come, and the bot leaves \
                 Discord with its session resumable"
            );
        } else {
            tracing::info!(
                service = "supervisor",
                "this host stays: what was announced of its end is withdrawn; perch is back at work"
            );
        }
        self.report.departing(announced.clone());
        self.report.ready(self.ready && announced.is_none());
        self.departure.send_replace(announced);
    }
}

/// Tells each turn of what is announced.
async fn watch(mut announcements: Announcements, sender: mpsc::Sender<Message>) {
    let mut told = None;
    loop {
        let announced = announcements.look().await;
        if announced != told {
            told.clone_from(&announced);
            if sender.send(Message::Departing(announced)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(announcements.pause()).await;
    }
}
