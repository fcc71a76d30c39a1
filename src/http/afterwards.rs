//! What becomes of a connection after its last answer: one that was upgraded speaks another protocol from then on.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// What is done with the connection, until the token is cancelled and what is in flight is finished.
type Work = Box<dyn FnOnce(CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Where a handler leaves what it does with its connection once that is upgraded; it has it of the
/// [visit](super::visit::Visit). It runs in the connection's own task: it counts as a connection, is waited for in a drain,
/// and dies with the service.
#[derive(Clone, Default)]
pub struct Afterwards(Arc<Mutex<Option<Work>>>);

impl Afterwards {
    pub fn then<F>(&self, work: impl FnOnce(CancellationToken) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let work: Work = Box::new(move |leave| Box::pin(work(leave)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
    }

    /// What was left here, once.
    pub fn take(&self) -> Option<Work> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
