//! Who may open one more connection: nobody keeps all of them for themselves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::client::trusts;
use super::patience::{IDLE, IDLE_PROXY};
use crate::limits::{Limits, Seat};
use crate::service::Live;

/// All connections, of all listeners.
#[derive(Clone)]
pub struct Crowd {
    limits: Arc<Limits>,
    /// Nothing, while no configuration asks for HTTP.
    live: Option<watch::Receiver<Arc<Live>>>,
}

impl Crowd {
    pub fn new(limits: &Arc<Limits>, live: Option<watch::Receiver<Arc<Live>>>) -> Self {
        Crowd { limits: Arc::clone(limits), live }
    }

    /// A seat for one more connection of `peer`, unless it has enough, and for how long that may be idle. Behind a trusted
    /// proxy are many.
    pub fn enter(&self, peer: IpAddr) -> Option<(Seat, Duration)> {
        let Some(live) = &self.live else {
            let seat = self.limits.connect(&crate::config::limits::Limits::default(), peer)?;
            return Some((seat, IDLE));
        };
        let live = live.borrow();
        if live.config.http.as_ref().is_some_and(|http| trusts(&http.trusted_proxies, peer.to_canonical())) {
            return Some((Seat::uncounted(), IDLE_PROXY));
        }
        Some((self.limits.connect(&live.config.limits, peer)?, IDLE))
    }
}
