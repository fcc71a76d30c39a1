//! Who may open one more connection: nobody keeps all of them for themselves.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

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

    /// A seat for one more connection of `peer`, unless it has enough. Behind a trusted proxy are many.
    pub fn enter(&self, peer: IpAddr) -> Option<Seat> {
        let Some(live) = &self.live else {
            return self.limits.connect(&crate::config::limits::Limits::default(), peer);
        };
        let live = live.borrow();
        let proxy = live.config.http.iter().flat_map(|http| &http.trusted_proxies).any(|proxy| proxy.contains(peer));
        if proxy { Some(Seat::uncounted()) } else { self.limits.connect(&live.config.limits, peer) }
    }
}
