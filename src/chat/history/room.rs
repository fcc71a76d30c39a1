//! The conversations that are at hand: those that somebody continued lately, as far as there is room. Those that nobody
//! continued for longest make room for others.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::allowance::Allowance;
use super::archive::Archive;
use super::held::{Class, EXCHANGE, Held, Place, Slot, Written, over};
use super::record::{Conversation, ConversationId, Exchange, State, Summary, now};
use super::unwritten::Unwritten;
use super::{Asker, Question, Which};
use crate::chat::{Ending, NAME, PersonId, Turn};

/// What all conversations together may hold, in bytes, by their [`Class`]: a host has 1 GiB of memory.
const ROOM: [usize; 3] = [4 << 20, 32 << 20, 32 << 20];
/// What a conversation takes beside its exchanges, in bytes, about.
const CONVERSATION: usize = 512;
/// How long strangers who are not written down are sure to be here, in milliseconds. Where so many come that those who came
/// first would have to make way sooner, of those who come last nothing is kept: all would lose what they said otherwise.
const SPARED: u64 = 10_000;

#[derive(Default)]
pub(super) struct Room {
    held: BTreeMap<ConversationId, Held>,
    /// By the moment at which they were last continued.
    ages: BTreeMap<(Class, u64), ConversationId>,
    bytes: [usize; 3],
    /// By the keys that they began with.
    begun: HashMap<(PersonId, Arc<str>), ConversationId>,
    unwritten: Unwritten,
    moment: u64,
    strangers: Allowance,
    /// The moments, in milliseconds since 1970, at which there is no room for more strangers.
    full: Range<u64>,
    /// Somebody sees to what is late.
    catching_up: bool,
    /// Conversations of which something is in no archive and not here any more, since all of it was.
    lost: u64,
}

/// How a conversation stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Theirs,
    SomebodyElses,
    Absent,
}

/// What is to be begun.
pub(super) struct Beginning<'a> {
    pub asker: &'a Asker,
    pub question: Question,
    /// The conversation to go on with.
    pub id: Option<ConversationId>,
    pub which: Which,
    /// Where it is not here: whether all of it would be.
    pub new: bool,
    pub doubtful: bool,
    /// What is known elsewhere of the question's key.
    pub known: Option<Exchange>,
    /// How many earlier turns are wanted.
    pub turns: usize,
}

pub(super) enum Begun {
    Before {
        id: ConversationId,
        number: u64,
        answer: String,
        ending: Ending,
    },
    /// Its key is another question's.
    Another,
    Now {
        place: Place,
        given_up: CancellationToken,
        earlier: Vec<Turn>,
    },
    /// As for the one before, and nothing is kept of it.
    Passing {
        place: Place,
    },
}

impl Room {
    pub fn standing(&self, person: &PersonId, id: ConversationId, horizon: u64) -> Standing {
        match self.held.get(&id).filter(|held| held.updated >= horizon) {
            Some(held) if held.person == *person => Standing::Theirs,
            Some(held) if !held.doubtful => Standing::SomebodyElses,
            _ => Standing::Absent,
        }
    }

    /// The conversation that this person began with this key.
    pub fn begun(&self, person: &PersonId, key: &Arc<str>) -> Option<ConversationId> {
        self.begun.get(&(person.clone(), Arc::clone(key))).copied()
    }

    /// Whether an exchange with this key may be elsewhere.
    pub fn lacks(&self, id: ConversationId, key: &str) -> bool {
        let Some(held) = self.held.get(&id) else { return true };
        !held.whole && !held.exchanges.iter().any(|slot| slot.exchange.key.as_deref() == Some(key))
    }

    /// Puts here what the archive has of a conversation.
    pub fn restore(&mut self, person: &PersonId, id: ConversationId, kept: Conversation, archive: &dyn Archive) {
        if self.standing(person, id, archive.horizon()) != Standing::Absent {
            return;
        }
        self.remove(id);
        let mut held = Held::new(person.clone(), false);
        held.epoch = archive.epoch();
        held.whole = kept.omitted == 0;
        for exchange in kept.exchanges {
            held.insert(Slot::over(exchange));
        }
        self.put_in(id, held);
        self.make_room(Class::Staying);
    }

    /// Takes a question in, unless it was answered before.
    pub fn begin(&mut self, beginning: Beginning<'_>, archive: &dyn Archive) -> Begun {
        let Beginning { asker, question, id, which, new, doubtful, known, turns } = beginning;
        let person = &asker.person;
        let at = now();
        let unwritten = asker.newcomer && !self.strangers.take(at, asker.client);
        if unwritten && id.is_none() && self.is_full(at) {
            return Begun::Passing { place: Place { id: ConversationId::random(), number: at, turn: 0 } };
        }
        // Of two that came at once, the other may have begun it by now.
        let begun = || question.key.as_ref().filter(|_| !asker.newcomer).and_then(|key| self.begun(person, key));
        let known_id = id.or_else(begun);
        let (id, new) = match known_id {
            Some(id) => (id, new),
            None => (ConversationId::random(), true),
        };
        // Nobody has a conversation whose name is being made up.
        let theirs = known_id.and_then(|id| {
            let standing = self.standing(person, id, archive.horizon());
            self.remove(id).filter(|_| standing == Standing::Theirs)
        });
        let there = theirs.is_some();
        let mut held = theirs.unwrap_or_else(|| {
            let mut held = Held::new(person.clone(), asker.newcomer);
            (held.whole, held.doubtful) = (new, doubtful);
            held.key = question.key.clone().filter(|_| new);
            if unwritten {
                held.written = Written::Waiting;
            }
            held
        });
        if there {
            held.fleeting = false;
        }
        if let Some(known) = known {
            held.insert(Slot::over(known));
        }
        let same = question
            .key
            .as_ref()
            .and_then(|key| held.exchanges.iter().position(|slot| slot.exchange.key.as_deref() == Some(key)));
        let known = same.and_then(|index| held.exchanges.get(index)).map(|slot| &slot.exchange);
        let changeable = matches!(which, Which::Own(_) | Which::Shared(_));
        if known.is_some_and(|known| !changeable && !known.asks(&question)) {
            self.put_in(id, held);
            return Begun::Another;
        }
        if let Some(exchange) = known
            && let Some(ending) = exchange.state.ending()
        {
            let before = Begun::Before { id, number: exchange.number, answer: exchange.answer.clone(), ending };
            self.put_in(id, held);
            return before;
        }
        let unfinished = same.and_then(|index| held.take_out(index));
        let horizon = archive.horizon();
        let others = matches!(which, Which::Shared(_)).then(|| self.held.range(id.place())).into_iter().flatten();
        let others = others.map(|(_, other)| other).filter(|other| other.updated >= horizon);
        let last = |held: &Held| held.exchanges.back().map(|last| last.exchange.number);
        let number = match &unfinished {
            Some(unfinished) => unfinished.number,
            // Behind whatever was said there, in the same millisecond too.
            None => others.clone().chain([&held]).filter_map(last).max().map_or(at, |last| at.max(last + 1)),
        };
        let earlier = held.earlier(others, number, turns);
        self.moment += 1;
        let place = Place { id, number, turn: self.moment };
        let given_up = CancellationToken::new();
        let exchange = Exchange {
            number,
            key: question.key,
            question: question.text,
            attachments: question.attachments,
            answer: unfinished.map(|unfinished| unfinished.answer).unwrap_or_default(),
            answered: at,
            state: State::Answering,
        };
        held.insert(Slot::answering(exchange, place.turn, given_up.clone()));
        held.updated = held.updated.max(at);
        held.fit();
        held.write(place, archive);
        let class = held.belongs();
        self.put_in(id, held);
        self.make_room(class);
        Begun::Now { place, given_up, earlier }
    }

    /// Adds to an answer that is being made.
    pub fn say(&mut self, place: Place, piece: &str) {
        self.change(place.id, |held| held.say(place, piece));
    }

    /// Has what was said so far written down.
    pub fn note(&mut self, place: Place, archive: &dyn Archive) {
        self.change(place.id, |held| held.note(place, archive));
    }

    /// Ends an answer: with all of it, or as far as it was said.
    pub fn end(&mut self, place: Place, state: State, answer: Option<&str>, archive: &dyn Archive) {
        if let Some(class) = self.change(place.id, |held| held.end(place, state, answer, now(), archive)) {
            self.make_room(class);
        }
    }

    /// Lets `work` change a conversation, unless that was deleted meanwhile, and keeps the sums right.
    fn change(&mut self, id: ConversationId, work: impl FnOnce(&mut Held)) -> Option<Class> {
        let held = self.held.get_mut(&id)?;
        let (bytes, unwritten) = (held.bytes, held.is_unwritten());
        work(held);
        let class = held.belongs();
        let sum = &mut self.bytes[held.class as usize];
        *sum = *sum + held.bytes - bytes;
        let (moved, still) = (class != held.class, held.is_unwritten());
        if still != unwritten {
            self.unwritten.set(&held.person, id, still);
        }
        if moved && let Some(held) = self.remove(id) {
            self.put_in(id, held);
        }
        Some(class)
    }

    /// Whether somebody is to [catch up](Room::catch_up) from now on.
    pub fn falls_behind(&mut self) -> bool {
        self.bytes[Class::Late as usize] > 0 && !std::mem::replace(&mut self.catching_up, true)
    }

    /// Has written down what the archive had no room for, as far as it has now. Returns whether there is more of it.
    pub fn catch_up(&mut self, archive: &dyn Archive) -> bool {
        while let Some(id) = self.oldest(Class::Late) {
            if self.change(id, |held| held.write_all(id, archive)) == Some(Class::Late) {
                return true;
            }
        }
        self.make_room(Class::Staying);
        self.catching_up = false;
        if std::mem::take(&mut self.lost) > 0 {
            tracing::info!(service = NAME, "what people say is written down again");
        }
        false
    }

    /// How many answers are being made.
    pub fn under_way(&self) -> usize {
        let slots = self.held.values().flat_map(|held| &held.exchanges);
        slots.filter(|slot| slot.flight.is_some()).count()
    }

    /// All of a conversation, if it is here.
    pub fn whole(&self, person: &PersonId, id: ConversationId, horizon: u64) -> Option<Conversation> {
        let held = self.held.get(&id).filter(|held| held.whole && held.person == *person && held.updated >= horizon)?;
        let exchanges = held.exchanges.iter().map(|slot| slot.exchange.clone()).collect();
        Some(Conversation { title: held.title(), exchanges, omitted: 0 })
    }

    /// Puts what is known here into exchanges that come from elsewhere: all that is newer than the first of them.
    pub fn lay_over(&self, person: &PersonId, id: ConversationId, exchanges: &mut Vec<Exchange>) {
        let held = self.held.get(&id).filter(|held| held.person == *person);
        let mut here: BTreeMap<u64, Exchange> =
            exchanges.drain(..).map(|exchange| (exchange.number, over(exchange))).collect();
        let first = here.first_key_value().map_or(0, |(number, _)| *number);
        for Slot { exchange, .. } in held.iter().flat_map(|held| &held.exchanges) {
            if exchange.number >= first {
                here.insert(exchange.number, exchange.clone());
            }
        }
        exchanges.extend(here.into_values());
    }

    /// This person's conversations of which something is here alone.
    pub fn unwritten(&self, person: &PersonId) -> Vec<Summary> {
        let ids = self.unwritten.of(person);
        let summary = |id: &ConversationId| {
            let held = self.held.get(id)?;
            Some(Summary {
                id: *id,
                title: held.title(),
                updated: held.updated,
                messages: 2 * held.exchanges.len() as u64,
            })
        };
        ids.filter_map(summary).collect()
    }

    /// Forgets one conversation of this person, or all of them; answers under way for them are given up. Returns
    /// whether there was anything.
    pub fn erase(&mut self, person: &PersonId, id: Option<ConversationId>) -> bool {
        let theirs = |(id, held): (&ConversationId, &Held)| (held.person == *person).then_some(*id);
        let ids: Vec<ConversationId> = match id {
            Some(id) => self.held.get_key_value(&id).and_then(theirs).into_iter().collect(),
            None => self.held.iter().filter_map(theirs).collect(),
        };
        for id in &ids {
            for slot in self.remove(*id).iter().flat_map(|held| &held.exchanges) {
                slot.give_up();
            }
        }
        !ids.is_empty()
    }

    fn remove(&mut self, id: ConversationId) -> Option<Held> {
        let held = self.held.remove(&id)?;
        self.ages.remove(&(held.class, held.continued));
        self.bytes[held.class as usize] -= CONVERSATION + held.bytes;
        if let Some(key) = &held.key {
            self.begun.remove(&(held.person.clone(), Arc::clone(key)));
        }
        if held.is_unwritten() {
            self.unwritten.set(&held.person, id, false);
        }
        Some(held)
    }

    fn put_in(&mut self, id: ConversationId, mut held: Held) {
        self.moment += 1;
        held.continued = self.moment;
        held.class = held.belongs();
        self.ages.insert((held.class, held.continued), id);
        self.bytes[held.class as usize] += CONVERSATION + held.bytes;
        if let Some(key) = &held.key {
            self.begun.insert((held.person.clone(), Arc::clone(key)), id);
        }
        if held.is_unwritten() {
            self.unwritten.set(&held.person, id, true);
        }
        self.held.insert(id, held);
    }

    /// Whether one more stranger would push out one who has hardly come.
    fn is_full(&mut self, at: u64) -> bool {
        if self.full.contains(&at) {
            return true;
        }
        if self.bytes[Class::Passing as usize] < ROOM[Class::Passing as usize] - CONVERSATION - EXCHANGE {
            return false;
        }
        let oldest = self.oldest(Class::Passing).and_then(|id| self.held.get(&id));
        self.full = oldest.map_or(0..0, |oldest| oldest.updated..oldest.updated + SPARED);
        self.full.contains(&at)
    }

    /// The conversation that nobody continued for longest.
    fn oldest(&self, class: Class) -> Option<ConversationId> {
        self.ages.range((class, 0)..=(class, u64::MAX)).next().map(|(_, id)| *id)
    }

    fn make_room(&mut self, class: Class) {
        // What is being answered stays, and there may be nothing else.
        let mut tries = self.held.len();
        while self.bytes[class as usize] > ROOM[class as usize] && tries > 0 {
            tries -= 1;
            let Some(id) = self.oldest(class) else { break };
            match self.remove(id) {
                Some(held) if held.is_answering() => self.put_in(id, held),
                Some(_) if class == Class::Late => self.lose(),
                _ => {}
            }
        }
    }

    /// One was left out that is nowhere else.
    fn lose(&mut self) {
        self.lost += 1;
        if self.lost == 1 {
            tracing::warn!(
                service = NAME,
                "people say more than the disk takes, and 32 MiB wait in memory: what was said in the conversations that \
                 wait for longest is not kept"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    impl Room {
        /// Holds the sums against what is there.
        fn audit(&self) {
            let mut bytes = [0; 3];
            for (id, held) in &self.held {
                let own: usize = held.exchanges.iter().map(|slot| EXCHANGE + slot.exchange.text()).sum();
                assert_eq!(own, held.bytes);
                assert_eq!(held.class, held.belongs());
                assert_eq!(self.ages.get(&(held.class, held.continued)), Some(id));
                let unwritten = self.unwritten.of(&held.person).any(|known| known == id);
                assert_eq!(unwritten, held.is_unwritten());
                bytes[held.class as usize] += CONVERSATION + own;
            }
            assert_eq!(bytes, self.bytes);
            assert_eq!(self.ages.len(), self.held.len());
            assert!(self.begun.len() <= self.held.len());
            for (class, room) in ROOM.iter().enumerate() {
                assert!(self.bytes[class] <= *room, "{} of {room}", self.bytes[class]);
            }
        }
    }

    fn talk(room: &mut Room, archive: &dyn Archive, asker: &Asker, id: Option<ConversationId>, text: &str) -> Begun {
        let question =
            Question { text: text.into(), attachments: [].into(), key: Some(room.moment.to_string().into()) };
        let beginning = Beginning {
            asker,
            question,
            id,
            which: Which::New,
            new: id.is_none(),
            doubtful: false,
            known: None,
            turns: 0,
        };
        let begun = room.begin(beginning, archive);
        if let Begun::Now { place, .. } = &begun {
            room.say(*place, "ye");
            room.end(*place, State::Done, Some("yes"), archive);
        }
        begun
    }

    #[test]
    fn however_much_is_said_there_is_room_for_so_much() {
        let archive = Store::in_memory().conversations();
        let mut room = Room::default();
        let long = "x".repeat(60 << 10);
        let asker = |name: usize, newcomer| Asker { person: PersonId::key(&name.to_string()), newcomer, client: None };
        for name in 0..700 {
            for _ in 0..6 {
                let asker = asker(name % 650, false);
                talk(
                    &mut room,
                    &archive,
                    &asker,
                    Some(ConversationId(name as u128)),
                    if name % 5 == 0 { &long } else { "hi" },
                );
            }
            room.audit();
            while room.catch_up(&archive) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        room.audit();
        // Those that nobody continued for longest are forgotten first.
        assert!(room.held.contains_key(&ConversationId(699)) && !room.held.contains_key(&ConversationId(0)));
        for name in 0..20_000 {
            talk(&mut room, &archive, &asker(1_000 + name, true), None, "hello");
        }
        room.audit();
        assert!(room.held.contains_key(&ConversationId(699)), "strangers push out nobody but strangers");
        assert!(room.erase(&PersonId::key("49"), None));
        room.audit();
    }

    #[test]
    fn an_answer_under_way_keeps_its_place() {
        let archive = Store::in_memory().conversations();
        let mut room = Room::default();
        let asker = Asker { person: PersonId::key("ann"), newcomer: false, client: None };
        let question = Question { text: "well?".into(), attachments: [].into(), key: None };
        let beginning = Beginning {
            asker: &asker,
            question,
            id: None,
            which: Which::New,
            new: true,
            doubtful: false,
            known: None,
            turns: 0,
        };
        let Begun::Now { place, .. } = room.begin(beginning, &archive) else { panic!() };
        let long = "x".repeat(200 << 10);
        for name in 0..400 {
            let other = Asker { person: PersonId::key(&name.to_string()), newcomer: false, client: None };
            talk(&mut room, &archive, &other, None, &long);
        }
        room.end(place, State::Done, Some("yes"), &archive);
        assert_eq!(room.whole(&asker.person, place.id, 0).unwrap().exchanges[0].answer, "yes");
        room.audit();
    }
}
