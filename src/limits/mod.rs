//! How much whoever may have: requests, and tokens of answers, for each client address, for each person, and in all.
//!
//! One [`Limits`] lives as long as the process and keeps [what was used](used); how much that may be is said by the
//! configuration that is live when somebody asks. So a new configuration counts at once, against the same use.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::chat::PersonId;
use crate::config::limits as config;
use crate::telemetry::metrics::{self, Counter, Source};

mod bill;
mod open;
mod policy;
mod table;
#[cfg(test)]
mod tests;
mod under_way;
mod used;

pub use bill::{Bill, tokens_of};
pub use open::Seat;
pub use policy::{Kind, Policy, Refusal, Remaining, Scope, Standing, spell};

use open::Open;
use table::Table;
use under_way::{Party, Reservation, UnderWay};
use used::{Reached, Used};

/// Who asks for something.
#[derive(Clone, Copy, Debug)]
pub struct Who<'a> {
    /// The client's address, where there is one: nobody comes from Discord with one.
    pub address: Option<IpAddr>,
    pub person: &'a PersonId,
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// An answer, which costs tokens.
    Answer,
    /// Something else of the API.
    Request,
    /// The page, one of its files, or what is not there.
    File,
    /// A message for everybody in a room, or what was said there lately, of so many bytes.
    Message(usize),
}

/// What everybody has used.
pub struct Limits {
    /// By network: an address, or the prefix of an IPv6 address.
    addresses: Table,
    people: Table,
    total: Mutex<Used>,
    open: Arc<Open>,
    /// Locked before any of the others.
    under_way: Arc<UnderWay>,
    /// Tokens of all answers since perch started.
    tokens: Counter,
    clock: Clock,
}

/// Tells moments, in nanoseconds since perch started.
enum Clock {
    Real(Instant),
    /// Goes when a test says so.
    #[cfg(test)]
    Set(std::sync::atomic::AtomicU64),
}

impl Source for Limits {
    fn write(&self, page: &mut metrics::Page) {
        let help = "Tokens that answers took, questions included: as the model's API says, or estimated.";
        page.family("perch_chat_tokens_total", metrics::Kind::Counter, help).value(&[], self.tokens.get());
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            addresses: Table::default(),
            people: Table::default(),
            total: Mutex::new(Used::default()),
            open: Arc::default(),
            under_way: Arc::default(),
            tokens: Counter::default(),
            clock: Clock::Real(Instant::now()),
        }
    }
}

impl Limits {
    /// Lets in somebody who asks for an answer, or says when to come again. Whoever is let in has had one request; one
    /// who is refused has had none.
    ///
    /// # Errors
    /// The limit that is reached: of requests, or of tokens, where answers have cost more than there was left.
    pub fn admit(&self, config: &config::Limits, who: Who<'_>) -> Result<Standing, Refusal> {
        let Some(address) = who.address else { return self.admit_person(config, who, Errand::Answer) };
        let standing = self.admit_address(config, address, Errand::Answer)?;
        match self.admit_person(config, who, Errand::Answer) {
            Ok(person) => Ok(standing.and(person)),
            Err(refusal) => {
                self.take_back(config, address);
                Err(refusal)
            }
        }
    }

    /// The first half of [`Limits::admit`], for when the person is not known yet.
    ///
    /// # Errors
    /// The address' limit, if it is reached.
    pub fn admit_address(&self, config: &config::Limits, address: IpAddr, errand: Errand) -> Result<Standing, Refusal> {
        let Some(client) = config.client(address) else { return Ok(Standing::default()) };
        let allowance = &config.address;
        let taken = self.addresses.with(&client, self.now(), allowance, |used| used.take(allowance, errand));
        told(Scope::Address, taken)
    }

    /// The second half of [`Limits::admit`]: the person, and everybody.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn admit_person(
        &self,
        config: &config::Limits,
        Who { address, person }: Who<'_>,
        errand: Errand,
    ) -> Result<Standing, Refusal> {
        let now = self.now();
        let allowance = &config.person;
        let spared = config.spares(address);
        let person = person.as_str();
        let taken = if !spared {
            self.people.with(person, now, allowance, |used| used.take(allowance, errand))
        } else if errand == Errand::Answer && allowance.tokens.is_some() {
            self.people.with(person, now, allowance, |used| used.afford(allowance, 0)).map(|()| None)
        } else {
            Ok(None)
        };
        let standing = told(Scope::Person, taken)?;
        match told(Scope::Total, self.in_all(now, config, |used| used.take(&config.total, errand))) {
            Ok(_) => Ok(standing),
            Err(refusal) => {
                if !spared {
                    self.people.with(person, now, allowance, Used::take_back);
                }
                Err(refusal)
            }
        }
    }

    /// Undoes a request that [`Limits::admit_address`] let in, when the person is refused: who asks too fast shall not
    /// take from the others behind the same address.
    pub fn take_back(&self, config: &config::Limits, address: IpAddr) {
        if let Some(client) = config.client(address) {
            self.addresses.with(&client, self.now(), &config.address, Used::take_back);
        }
    }

    /// Puts tokens by that an answer may take, until the reservation is dropped: whoever asks meanwhile has so many fewer.
    /// However few there are left, one answer at a time may begin.
    ///
    /// # Errors
    /// The limit of tokens that is reached, or may be by answers which are being made.
    fn reserve(&self, config: &config::Limits, who: Who<'_>, tokens: u64) -> Result<Reservation, Refusal> {
        let now = self.now();
        let client = who.address.and_then(|address| config.client(address));
        let mut parties = vec![Party::Person(who.person.clone()), Party::Total];
        parties.extend(client.map(Party::Address));
        self.under_way.reserve(parties, tokens, |party, under_way| {
            let (scope, affords) = match party {
                Party::Address(client) => {
                    let affords = |used: &mut Used| used.afford(&config.address, under_way);
                    (Scope::Address, self.addresses.with(client, now, &config.address, affords))
                }
                Party::Person(person) => {
                    let affords = |used: &mut Used| used.afford(&config.person, under_way);
                    (Scope::Person, self.people.with(person.as_str(), now, &config.person, affords))
                }
                Party::Total => (Scope::Total, self.in_all(now, config, |used| used.afford(&config.total, under_way))),
            };
            told(scope, affords.map(|()| None)).map(drop)
        })
    }

    /// Counts the tokens of an answer that was given. No limit undoes it: whoever had an answer that goes beyond what
    /// was left owes the rest, and is refused until time has paid it, a day at most.
    pub fn spent(&self, config: &config::Limits, who: Who<'_>, tokens: u64) {
        self.tokens.add_many(tokens);
        let now = self.now();
        if let Some(client) = who.address.and_then(|address| config.client(address)) {
            self.addresses.with(&client, now, &config.address, |used| used.spend(tokens));
        }
        self.people.with(who.person.as_str(), now, &config.person, |used| used.spend(tokens));
        self.in_all(now, config, |used| used.spend(tokens));
    }

    /// One more connection from `address`, unless that has as many as it may have. It counts until the seat is dropped.
    #[must_use]
    pub fn connect(&self, config: &config::Limits, address: IpAddr) -> Option<Seat> {
        self.open.take(config.client(address), config.connections)
    }

    fn in_all<T>(&self, now: u64, config: &config::Limits, act: impl FnOnce(&mut Used) -> T) -> T {
        let mut used = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        used.settle(&config.total, now);
        act(&mut used)
    }

    fn now(&self) -> u64 {
        match &self.clock {
            Clock::Real(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Clock::Set(now) => now.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

/// What came of asking, in the words of the limit.
fn told(scope: Scope, taken: Result<Option<used::Left>, Reached>) -> Result<Standing, Refusal> {
    match taken {
        Ok(left) => {
            let nearest = left.map(|left| Remaining {
                policy: Policy { scope, kind: left.kind },
                requests: left.requests,
                window: left.window,
            });
            Ok(Standing { nearest })
        }
        Err(Reached { kind, wait, under_way }) => {
            Err(Refusal { policy: Policy { scope, kind }, retry_after: wait, under_way })
        }
    }
}
