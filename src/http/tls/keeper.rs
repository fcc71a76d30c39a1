//! The task that keeps the certificate fresh, apart from the service that serves it: if it dies, nobody notices but the
//! journal, and it is begun again.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::config::http_tls::Certificate;
use crate::telemetry::panics;

/// How long after a panic it is begun again.
const PAUSE: Duration = Duration::from_mins(1);

#[derive(Default)]
pub struct Keeper {
    task: JoinSet<()>,
    /// What it follows, and at which pace.
    follows: Option<(Certificate, Duration)>,
    /// When it is begun again.
    again: Option<Instant>,
}

impl Keeper {
    /// From now on it follows `wanted` at this `pace`, by what `begin` makes, if that is not what it does already. Whether it
    /// begins is returned.
    pub fn follow<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        wanted: Option<(&Certificate, Duration)>,
        begin: impl FnOnce() -> F,
    ) -> bool {
        let due = self.again.is_some_and(|again| again <= Instant::now());
        let same = match (&self.follows, wanted) {
            (Some((own, own_pace)), Some((certificate, pace))) => own.comes_from(certificate) && *own_pace == pace,
            (None, None) => true,
            _ => false,
        };
        if same && !due {
            return false;
        }
        self.task.abort_all();
        self.again = None;
        self.follows = wanted.map(|(certificate, pace)| (certificate.clone(), pace));
        if wanted.is_some() {
            self.task.spawn(panics::SERVICE.scope(crate::http::NAME, begin()));
        }
        true
    }

    /// Completes when it has to be begun again.
    pub async fn died(&mut self) {
        while let Some(ended) = self.task.join_next().await {
            // One that was replaced ends as well, by being cancelled.
            if ended.is_err_and(|error| error.is_panic()) {
                self.again = Some(Instant::now() + PAUSE);
            }
        }
        match self.again {
            Some(again) => sleep_until(again).await,
            None => std::future::pending().await,
        }
    }
}
