//! Whose conversations have something that is in no archive yet.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::record::ConversationId;
use crate::chat::PersonId;

/// Those of which something is here alone, by person.
#[derive(Default)]
pub(super) struct Unwritten(HashMap<PersonId, Few>);

/// A conversation, and seldom more of them.
struct Few(ConversationId, Vec<ConversationId>);

impl Few {
    fn iter(&self) -> impl Iterator<Item = &ConversationId> {
        std::iter::once(&self.0).chain(&self.1)
    }

    /// Returns whether this was the last.
    fn remove(&mut self, id: ConversationId) -> bool {
        self.1.retain(|known| *known != id);
        if self.0 != id {
            return false;
        }
        match self.1.pop() {
            Some(next) => self.0 = next,
            None => return true,
        }
        false
    }
}

impl Unwritten {
    /// This person's.
    pub fn of(&self, person: &PersonId) -> impl Iterator<Item = &ConversationId> {
        self.0.get(person).into_iter().flat_map(Few::iter)
    }

    /// Notes whether something of a conversation is here alone.
    pub fn set(&mut self, person: &PersonId, id: ConversationId, unwritten: bool) {
        if !unwritten {
            if self.0.get_mut(person).is_some_and(|ids| ids.remove(id)) {
                self.0.remove(person);
            }
            return;
        }
        match self.0.entry(person.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Few(id, Vec::new()));
            }
            Entry::Occupied(mut entry) => entry.get_mut().1.push(id),
        }
    }
}
