//! How many strangers are written down: those who come without a cookie, and may never come again.

use std::collections::HashMap;
use std::net::IpAddr;

/// So many of those who come without a cookie are written down a second, and so many of one client that has limits: who
/// writes as fast as that is no reader, and the disk is for those who are.
const STRANGERS: u32 = 100;
const STRANGERS_EACH: u32 = 20;

/// So many a second, and so many of each client.
#[derive(Default)]
pub(super) struct Allowance {
    second: u64,
    spent: u32,
    /// Those who had any: no more than there are.
    clients: HashMap<IpAddr, u32>,
}

impl Allowance {
    /// Whether one more of this client's is written down at this moment, in milliseconds since 1970.
    pub fn take(&mut self, now: u64, client: Option<IpAddr>) -> bool {
        let second = now / 1_000;
        if self.second != second {
            (self.second, self.spent) = (second, 0);
            self.clients.clear();
        }
        if self.spent >= STRANGERS {
            return false;
        }
        if let Some(client) = client {
            let own = self.clients.entry(client).or_default();
            if *own >= STRANGERS_EACH {
                return false;
            }
            *own += 1;
        }
        self.spent += 1;
        true
    }
}
