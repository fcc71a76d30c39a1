//! `[http]`: the chat endpoint and its page.

use std::net::SocketAddr;

use super::document::{Place, Table, quote};

/// Where it listens unless the configuration says otherwise.
const LISTEN: &str = "0.0.0.0:8080";
/// The body limit unless the configuration says otherwise, and its bounds, in bytes.
const MAX_BODY: u64 = 64 << 10;
const MAX_BODY_BOUNDS: std::ops::RangeInclusive<u64> = 1 << 10..=16 << 20;

/// The HTTP side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    pub listen: SocketAddr,
    /// Where the configuration names the address.
    pub place: Place,
    /// The largest request body, in bytes.
    pub max_body: u64,
}

impl Http {
    pub(super) fn read(mut table: Table<'_>) -> Http {
        let place = table.entry("listen").map_or_else(|| table.place(), |entry| entry.place());
        let listen = listen(&mut table).unwrap_or_else(|| LISTEN.parse().expect("the constant is an address"));
        let max_body = table.size("max_body", MAX_BODY_BOUNDS).unwrap_or(MAX_BODY);
        table.finish();
        Http { listen, place, max_body }
    }
}

fn listen(table: &mut Table<'_>) -> Option<SocketAddr> {
    let entry = table.entry("listen")?;
    let text = entry.text("an address such as \"0.0.0.0:8080\"")?;
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            entry.mistake(format!("{} has port 0; name the port to listen on", quote(text)));
            None
        }
        Ok(address) => Some(address),
        Err(_) => {
            entry.mistake(format!("{} is not an address; write \"0.0.0.0:8080\" or \"[::]:8080\"", quote(text)));
            None
        }
    }
}
