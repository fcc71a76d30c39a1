//! One conversation that is at hand: what was said in it, and the answers that are being made.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::archive::{Archive, Pending, Record};
use super::record::{ConversationId, Exchange, State, title};
use crate::chat::files::with_names;
use crate::chat::{PersonId, Speaker, Turn};

/// What one conversation may hold, in bytes: about as much as a model reads at once.
pub(super) const ROOM_EACH: usize = 256 << 10;
/// What an exchange takes beside its text, in bytes, about.
pub(super) const EXCHANGE: usize = 192;

/// How long a conversation is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// Its first exchange is with somebody who sent no cookie, and may never come back.
    Passing,
    Staying,
    /// The archive had no room for something of it yet.
    Late,
}

/// How much of a conversation the archive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    All,
    /// Something is here alone, until its person comes back.
    Waiting,
    /// Something is here alone, as there was no room for it.
    Late,
}

pub(super) struct Held {
    pub person: PersonId,
    /// By which whoever began it knows it again.
    pub key: Option<Arc<str>>,
    /// The oldest first.
    pub exchanges: VecDeque<Slot>,
    /// Every exchange is here.
    pub whole: bool,
    /// Whether it is this person's was not to be found out.
    pub doubtful: bool,
    /// It is all there is of somebody who sent no cookie.
    pub fleeting: bool,
    pub written: Written,
    /// The [`Archive::epoch`] in which it was last written down.
    pub epoch: u64,
    /// Under what it is filed.
    pub class: Class,
    pub continued: u64,
    /// Milliseconds since 1970.
    pub updated: u64,
    pub bytes: usize,
}

pub(super) struct Slot {
    pub exchange: Exchange,
    pub flight: Option<Flight>,
}

/// An answer that is being made.
pub(super) struct Flight {
    turn: u64,
    given_up: CancellationToken,
    /// What is there of it was said when the question was asked before; it makes way for the first piece.
    stale: bool,
    /// How much of it is written down, in bytes, and what waits to be.
    noted: usize,
    pending: Pending,
}

/// Which answer it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub id: ConversationId,
    pub number: u64,
    /// Of those that were begun for the same question, the one that counts.
    pub turn: u64,
}

impl Held {
    pub fn new(person: PersonId, fleeting: bool) -> Self {
        Held {
            person,
            key: None,
            exchanges: VecDeque::new(),
            whole: true,
            doubtful: false,
            fleeting,
            written: Written::All,
            epoch: 0,
            class: Class::Staying,
            continued: 0,
            updated: 0,
            bytes: 0,
        }
    }

    pub fn title(&self) -> String {
        self.exchanges
            .front()
            .map(|first| title(&first.exchange.question, &first.exchange.attachments))
            .unwrap_or_default()
    }

    /// Puts an exchange where its number belongs.
    pub fn insert(&mut self, slot: Slot) {
        self.bytes += EXCHANGE + slot.exchange.text();
        self.updated = self.updated.max(slot.exchange.answered);
        let place = self.exchanges.partition_point(|known| known.exchange.number < slot.exchange.number);
        self.exchanges.insert(place, slot);
    }

    /// Takes out the exchange that is to be answered anew.
    pub fn take_out(&mut self, index: usize) -> Option<Exchange> {
        let slot = self.exchanges.remove(index)?;
        self.bytes -= EXCHANGE + slot.exchange.text();
        slot.give_up();
        Some(slot.exchange)
    }

    /// The exchange that is being answered there, unless that was given up.
    fn flying(&mut self, Place { number, turn, .. }: Place) -> Option<(&mut Exchange, &mut Option<Flight>)> {
        let Slot { exchange, flight } = self.exchanges.iter_mut().rev().find(|slot| slot.exchange.number == number)?;
        flight.as_ref().is_some_and(|flight| flight.turn == turn).then_some((exchange, flight))
    }

    /// Adds to an answer that is being made.
    pub fn say(&mut self, place: Place, piece: &str) {
        let Some((exchange, Some(flight))) = self.flying(place) else { return };
        let before = exchange.answer.len();
        if std::mem::take(&mut flight.stale) {
            exchange.answer.clear();
            flight.noted = 0;
        }
        exchange.answer.push_str(piece);
        let after = exchange.answer.len();
        self.bytes = self.bytes + after - before;
    }

    /// Has what was said so far of an answer written down, if there is more of it than before, and nothing of it waits
    /// to be.
    pub fn note(&mut self, place: Place, archive: &dyn Archive) {
        let Some((exchange, Some(flight))) = self.flying(place) else { return };
        let length = exchange.answer.len();
        if flight.noted == length || flight.pending.waits() || self.waits_for_its_person() {
            return;
        }
        let Some(pending) = archive.note(self.record(place, archive.epoch())) else { return };
        (self.written, self.epoch) = (Written::All, archive.epoch());
        if let Some((_, Some(flight))) = self.flying(place) {
            (flight.noted, flight.pending) = (length, pending);
        }
    }

    /// Ends an answer: with all of it, or as far as it was said.
    pub fn end(&mut self, place: Place, state: State, answer: Option<&str>, at: u64, archive: &dyn Archive) {
        // It was asked for anew meanwhile.
        let Some((exchange, flight)) = self.flying(place) else { return };
        *flight = None;
        let before = exchange.answer.len();
        if let Some(answer) = answer {
            answer.clone_into(&mut exchange.answer);
        }
        let after = exchange.answer.len();
        exchange.state = state;
        exchange.answered = at.max(exchange.number);
        self.updated = self.updated.max(at);
        self.bytes = self.bytes + after - before;
        self.fit();
        self.write(place, archive);
    }

    /// Leaves out the oldest exchanges, so that the others have room; the newest stays, and all of them where they are
    /// nowhere else.
    pub fn fit(&mut self) {
        while self.bytes > ROOM_EACH && self.exchanges.len() > 1 && self.written != Written::Late {
            let Some(oldest) = self.exchanges.pop_front_if(|slot| slot.flight.is_none()) else { break };
            self.bytes -= EXCHANGE + oldest.exchange.text();
            self.whole = false;
        }
    }

    /// The last turns before an exchange, `most` of them, the oldest first, here and in `others`. They begin with the
    /// person's, as some models insist on. What was not answered at all is not among them.
    pub fn earlier<'a>(&'a self, others: impl Iterator<Item = &'a Held>, number: u64, most: usize) -> Vec<Turn> {
        if most == 0 {
            return Vec::new();
        }
        let said = |exchange: &&Exchange| match exchange.state {
            State::Done | State::Long => true,
            // What they have read is what was said.
            State::Stopped => !exchange.answer.is_empty(),
            State::Answering | State::Failed => false,
        };
        let all = std::iter::once(self).chain(others).flat_map(|held| &held.exchanges).map(|slot| &slot.exchange);
        let mut before: Vec<&Exchange> = all.filter(|exchange| exchange.number < number).filter(said).collect();
        before.sort_by_key(|exchange| exchange.number);
        let mut turns: Vec<Turn> = before
            .into_iter()
            .rev()
            .take(most / 2)
            .flat_map(|exchange| {
                [
                    Turn { by: Speaker::Perch, text: exchange.answer.clone() },
                    Turn { by: Speaker::Person, text: with_names(&exchange.question, &exchange.attachments) },
                ]
            })
            .collect();
        turns.reverse();
        turns
    }

    /// Has the exchange written down, or everything, where something was not.
    pub fn write(&mut self, place: Place, archive: &dyn Archive) {
        if self.waits_for_its_person() {
            return;
        }
        let epoch = archive.epoch();
        let taken = archive.put(self.record(place, epoch));
        self.written = if taken { Written::All } else { Written::Late };
        self.epoch = epoch;
    }

    /// Something of it is here alone.
    pub fn is_unwritten(&self) -> bool {
        self.written != Written::All
    }

    /// Has all of it written down.
    pub fn write_all(&mut self, id: ConversationId, archive: &dyn Archive) {
        self.write(Place { id, number: 0, turn: 0 }, archive);
        self.fit();
    }

    /// It is one of those that are written down once their person comes back.
    fn waits_for_its_person(&self) -> bool {
        self.fleeting && self.written == Written::Waiting
    }

    /// Under what it belongs.
    pub fn belongs(&self) -> Class {
        match self.written {
            Written::Late => Class::Late,
            _ if self.fleeting => Class::Passing,
            _ => Class::Staying,
        }
    }

    pub fn is_answering(&self) -> bool {
        self.exchanges.iter().any(|slot| slot.flight.is_some())
    }

    /// What an archive lacks where the exchange was changed.
    fn record(&self, Place { id, number, .. }: Place, epoch: u64) -> Record {
        let all = self.is_unwritten() || self.epoch != epoch;
        let exchanges = self.exchanges.iter().map(|slot| &slot.exchange);
        Record {
            id,
            person: self.person.clone(),
            key: self.key.clone(),
            updated: self.updated,
            fleeting: self.fleeting,
            exchanges: exchanges.filter(|exchange| all || exchange.number == number).cloned().collect(),
        }
    }
}

impl Slot {
    /// An exchange that is over.
    pub fn over(exchange: Exchange) -> Slot {
        Slot { exchange: over(exchange), flight: None }
    }

    /// One that is being answered; it may have an answer of before.
    pub fn answering(exchange: Exchange, turn: u64, given_up: CancellationToken) -> Slot {
        let noted = exchange.answer.len();
        let flight = Flight { turn, given_up, stale: noted > 0, noted, pending: Pending::default() };
        Slot { exchange, flight: Some(flight) }
    }

    pub fn give_up(&self) {
        if let Some(flight) = &self.flight {
            flight.given_up.cancel();
        }
    }
}

/// What the archive has of an answer that was under way: nobody makes it any more.
pub(super) fn over(mut exchange: Exchange) -> Exchange {
    if exchange.state == State::Answering {
        exchange.state = State::Stopped;
    }
    exchange
}
