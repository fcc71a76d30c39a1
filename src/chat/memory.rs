//! What was said lately, so that a model knows what a message goes on from. It lives as long as the process, and has
//! room for so much: the conversations that nobody continued for longest are forgotten first.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use super::{Speaker, Turn};

/// What all conversations together may hold, in bytes: a host has 1 GiB of memory.
const ROOM: usize = 32 << 20;
/// What one of them may hold, in bytes: about as much as a model reads at once.
const ROOM_EACH: usize = 256 << 10;
/// What a turn and a conversation take beside their text, in bytes, about.
const TURN: usize = 64;
const CONVERSATION: usize = 256;

/// Conversations by their ids.
#[derive(Default)]
pub struct Memory(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    conversations: HashMap<String, Conversation>,
    /// By the moment at which they were last continued.
    ages: BTreeMap<u64, String>,
    moment: u64,
    bytes: usize,
}

#[derive(Default)]
struct Conversation {
    turns: VecDeque<Turn>,
    bytes: usize,
    continued: u64,
}

impl Memory {
    /// The last turns of a conversation, `most` of them, the oldest first. They begin with the person's, as some models
    /// insist on.
    #[must_use]
    pub fn recent(&self, conversation: &str, most: usize) -> Vec<Turn> {
        if most == 0 {
            return Vec::new();
        }
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(conversation) = kept.conversations.get(conversation) else { return Vec::new() };
        let skipped = conversation.turns.len().saturating_sub(most);
        let recent = conversation.turns.iter().skip(skipped).skip_while(|turn| turn.by == Speaker::Perch);
        recent.cloned().collect()
    }

    /// Notes what a person said and what perch answered, where at least the last `most` turns are to be known.
    pub fn add(&self, conversation: &str, most: usize, message: &str, answer: &str) {
        if most == 0 {
            return;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(conversation, most, message, answer);
    }
}

impl Kept {
    fn add(&mut self, id: &str, most: usize, message: &str, answer: &str) {
        let mut conversation = self.take(id).unwrap_or_default();
        for (by, text) in [(Speaker::Person, message), (Speaker::Perch, answer)] {
            conversation.bytes += TURN + text.len();
            conversation.turns.push_back(Turn { by, text: text.to_owned() });
        }
        while conversation.turns.len() > most || conversation.bytes > ROOM_EACH {
            let Some(oldest) = conversation.turns.pop_front() else { break };
            conversation.bytes -= TURN + oldest.text.len();
        }
        self.moment += 1;
        conversation.continued = self.moment;
        self.bytes += CONVERSATION + conversation.bytes;
        self.ages.insert(self.moment, id.to_owned());
        self.conversations.insert(id.to_owned(), conversation);
        while self.bytes > ROOM {
            let Some((_, oldest)) = self.ages.first_key_value() else { break };
            let oldest = oldest.clone();
            self.take(&oldest);
        }
    }

    fn take(&mut self, id: &str) -> Option<Conversation> {
        let conversation = self.conversations.remove(id)?;
        self.ages.remove(&conversation.continued);
        self.bytes -= CONVERSATION + conversation.bytes;
        Some(conversation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(memory: &Memory, id: &str, most: usize) -> Vec<String> {
        memory.recent(id, most).into_iter().map(|turn| turn.text).collect()
    }

    #[test]
    fn the_last_turns_are_known_and_begin_with_the_person() {
        let memory = Memory::default();
        for number in 1..=4 {
            memory.add("a", 6, &format!("question {number}"), &format!("answer {number}"));
        }
        memory.add("b", 6, "elsewhere", "indeed");
        assert_eq!(texts(&memory, "a", 3), ["question 4", "answer 4"]);
        assert_eq!(texts(&memory, "a", 9).len(), 6);
        assert_eq!(texts(&memory, "b", 9), ["elsewhere", "indeed"]);
        assert_eq!(texts(&memory, "c", 9), [""; 0]);
        assert_eq!(texts(&memory, "a", 0), [""; 0]);
    }

    #[test]
    fn however_much_is_said_there_is_room_for_so_much() {
        let memory = Memory::default();
        let long = "x".repeat(60 << 10);
        for round in 0..20 {
            for id in 0..50 {
                memory.add(&format!("{id}"), 200, &long, "yes");
                let kept = memory.0.lock().unwrap();
                assert!(kept.bytes <= ROOM, "{} bytes in round {round}", kept.bytes);
                assert_eq!(kept.ages.len(), kept.conversations.len());
            }
        }
        // A turn that has no room of its own leaves the conversation empty, and a later one is known again.
        memory.add("49", 200, &"x".repeat(ROOM_EACH), "yes");
        assert_eq!(texts(&memory, "49", 200), [""; 0]);
        memory.add("49", 200, "short", "yes");
        assert_eq!(texts(&memory, "49", 200), ["short", "yes"]);
        for id in 0..200_000 {
            memory.add(&format!("new {id}"), 200, "", "");
        }
        let kept = memory.0.lock().unwrap();
        assert!(kept.bytes <= ROOM && !kept.conversations.contains_key("49"));
        let counted: usize = kept.conversations.values().map(|conversation| CONVERSATION + conversation.bytes).sum();
        assert_eq!(kept.bytes, counted);
    }
}
