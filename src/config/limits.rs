//! `[limits]`: how much one client may have, and all of them together.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::document::{Table, quote};
use super::network::Network;

/// The network of one customer, where providers keep to RFC 6177: whoever has it has all addresses in it.
const IPV6_PREFIX: u8 = 64;
const IPV6_PREFIX_BOUNDS: RangeInclusive<u32> = 16..=128;

/// An office of a hundred behind one address can reconnect at once, and write ten messages a second.
const ADDRESS_REQUESTS: u32 = 1_200;
const ADDRESS_TOKENS: u32 = 5_000_000;
/// The page is some files and a few pictures; two hundred loads a minute.
const ADDRESS_FILES: u32 = 3_000;
/// Browsers open six, and one for the WebSocket: that is an office of more than a hundred.
const CONNECTIONS: u32 = 1_000;
/// A twentieth of all that there may be, and some for each of a hundred people.
const ROOMS: u32 = 500;
/// One a second from each of a hundred; with a tenth of them at once, all from one address is less than a room keeps.
const ADDRESS_MESSAGES: u32 = 6_000;
/// Two a second for a minute is more than anybody types, with what the page asks for by itself.
const PERSON_REQUESTS: u32 = 120;
const PERSON_TOKENS: u32 = 1_000_000;
/// What the model costs in a day has an end, however many addresses come.
const TOTAL_TOKENS: u32 = 50_000_000;

/// How much of what whoever may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IPv6 addresses with these first bits in common are one client.
    pub ipv6_prefix: u8,
    /// Addresses that are not limited as such; people who come from there are.
    pub exempt: Vec<Network>,
    /// Nobody wrote how many requests people may send, so those who come from exempt addresses may send any number.
    pub people_spared: bool,
    /// For each client address.
    pub address: Allowance,
    /// The most connections of one client address at once; `None` where they are not limited.
    pub connections: Option<NonZeroU32>,
    /// The most rooms of the chat that one client address is the first in; `None` where they are not limited.
    pub rooms: Option<NonZeroU32>,
    /// For each person.
    pub person: Allowance,
    /// For all of them together.
    pub total: Allowance,
}

/// What one client may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// `None` where requests are not limited.
    pub requests: Option<Rate>,
    /// Requests for the page, its files, and what is not there: an address alone has a limit for them.
    pub files: Option<Rate>,
    /// What is said in rooms, each KiB of a message one: an address alone has a limit for that, too.
    pub messages: Option<Rate>,
    /// Tokens of answers a day; `None` where they are not limited.
    pub tokens: Option<NonZeroU32>,
}

/// So many a minute, of which so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub per_minute: NonZeroU32,
    /// No more than in a minute.
    pub burst: NonZeroU32,
}

impl Rate {
    /// Half of them at once, where nothing else is asked for.
    fn of(per_minute: NonZeroU32) -> Rate {
        Rate { per_minute, burst: NonZeroU32::new(per_minute.get() / 2).unwrap_or(NonZeroU32::MIN) }
    }

    /// A tenth of them at once.
    fn steady(per_minute: NonZeroU32) -> Rate {
        Rate { per_minute, burst: NonZeroU32::new(per_minute.get() / 10).unwrap_or(NonZeroU32::MIN) }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a minute, {} at once", self.per_minute, self.burst)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            ipv6_prefix: IPV6_PREFIX,
            // Nobody comes from there but the host's own programs, and proxies that nobody named: those would be
            // one client in place of all who come through them.
            exempt: ["127.0.0.0/8", "::1/128"].into_iter().filter_map(Network::parse).collect(),
            people_spared: true,
            address: Allowance {
                requests: NonZeroU32::new(ADDRESS_REQUESTS).map(Rate::of),
                files: NonZeroU32::new(ADDRESS_FILES).map(Rate::of),
                messages: NonZeroU32::new(ADDRESS_MESSAGES).map(Rate::steady),
                tokens: NonZeroU32::new(ADDRESS_TOKENS),
            },
            person: Allowance {
                requests: NonZeroU32::new(PERSON_REQUESTS).map(Rate::of),
                files: None,
                messages: None,
                tokens: NonZeroU32::new(PERSON_TOKENS),
            },
            connections: NonZeroU32::new(CONNECTIONS),
            rooms: NonZeroU32::new(ROOMS),
            // perch serves more requests than an operator wants to think about; tokens are what costs money.
            total: Allowance { requests: None, files: None, messages: None, tokens: NonZeroU32::new(TOTAL_TOKENS) },
        }
    }
}

impl Limits {
    pub(super) fn read(mut table: Table<'_>) -> Limits {
        let default = Limits::default();
        let prefix = table.integer("ipv6_prefix", IPV6_PREFIX_BOUNDS).and_then(|prefix| u8::try_from(prefix).ok());
        let exempt = table.networks("exempt");
        // Who writes what an address may have means every address, be it the host's own.
        let exempt = exempt.unwrap_or(if table.has("address") { Vec::new() } else { default.exempt });
        let people_spared = !table.has("person") && !table.has("total");
        let (address, connections, rooms) = match table.table("address") {
            Some(mut table) => {
                let connections = table.most("connections").unwrap_or(default.connections);
                let rooms = table.most("rooms").unwrap_or(default.rooms);
                (Allowance::read(table, default.address), connections, rooms)
            }
            None => (default.address, default.connections, default.rooms),
        };
        let mut allowance = |key, default| match table.table(key) {
            Some(table) => Allowance::read(table, default),
            None => default,
        };
        let person = allowance("person", default.person);
        let total = allowance("total", default.total);
        table.finish();
        let ipv6_prefix = prefix.unwrap_or(default.ipv6_prefix);
        Limits { ipv6_prefix, exempt, people_spared, address, connections, rooms, person, total }
    }

    fn exempts(&self, address: IpAddr) -> bool {
        self.exempt.iter().any(|network| network.contains(address))
    }

    /// Whether the requests of a person who comes from `address` are not limited, and not counted either.
    #[must_use]
    pub fn spares(&self, address: Option<IpAddr>) -> bool {
        self.people_spared && address.is_some_and(|address| self.exempts(address.to_canonical()))
    }

    /// The client that `address` belongs to, unless it is exempt: an IPv4 address is one of its own.
    #[must_use]
    pub fn client(&self, address: IpAddr) -> Option<IpAddr> {
        let address = address.to_canonical();
        if self.exempts(address) {
            return None;
        }
        Some(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(_) => super::network::masked(address, self.ipv6_prefix),
        })
    }
}

impl Allowance {
    fn read(mut table: Table<'_>, default: Allowance) -> Allowance {
        let requests = table.most("requests_per_minute");
        let requests = requests.map_or(default.requests, |per_minute| per_minute.map(Rate::of));
        let burst = table.integer("burst", 1..=u32::MAX);
        let requests = match (requests, burst.and_then(NonZeroU32::new)) {
            (Some(rate), Some(burst)) if burst > rate.per_minute => {
                table.mistake("burst", format!("is more than the {} requests of a whole minute", rate.per_minute));
                Some(rate)
            }
            (Some(rate), Some(burst)) => Some(Rate { burst, ..rate }),
            (requests, _) => requests,
        };
        let files = match default.files {
            Some(_) => table.most("files_per_minute").map_or(default.files, |per_minute| per_minute.map(Rate::of)),
            None => None,
        };
        let messages = match default.messages {
            Some(_) => table.most("messages_per_minute").map_or(default.messages, |most| most.map(Rate::steady)),
            None => None,
        };
        let tokens = table.most("tokens_per_day").unwrap_or(default.tokens);
        table.finish();
        Allowance { requests, files, messages, tokens }
    }
}

impl Table<'_> {
    /// How much at most: a whole number, or `"off"` or 0 for no limit.
    #[expect(clippy::option_option, reason = "not written, no limit, and a limit")]
    fn most(&mut self, key: &'static str) -> Option<Option<NonZeroU32>> {
        let entry = self.entry(key)?;
        match entry.value {
            DeValue::String(text) if text == "off" => Some(None),
            DeValue::String(text) => {
                entry.mistake(format!("{} is no number, and not \"off\"", quote(text)));
                None
            }
            DeValue::Integer(_) => self.integer(key, 0..=u32::MAX).map(NonZeroU32::new),
            _ => {
                entry.wrong_type("a whole number or \"off\"");
                None
            }
        }
    }
}

/// A limit as a step of a plan shows it.
pub(super) fn show(limit: Option<impl fmt::Display>) -> String {
    limit.map_or_else(|| "off".to_owned(), |limit| limit.to_string())
}
