//! Conversation ids: perch knows its own again without keeping a list of them.

use std::hash::{BuildHasher, RandomState};

/// Makes and recognizes ids. An id is a random number and a keyed hash (SipHash) of it, both in hexadecimal; the key
/// lives as long as the process.
pub struct Conversations {
    key: RandomState,
}

impl Conversations {
    pub fn new() -> Self {
        Conversations { key: RandomState::new() }
    }

    /// A new id.
    pub fn begin(&self) -> String {
        let number = fastrand::u64(..);
        format!("{number:016x}{:016x}", self.key.hash_one(number))
    }

    /// Whether `id` is one of ours.
    pub fn knows(&self, id: &str) -> bool {
        let (Some(number), Some(hash)) = (id.get(..16), id.get(16..)) else { return false };
        if id.len() != 32 || !id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return false;
        }
        match (u64::from_str_radix(number, 16), u64::from_str_radix(hash, 16)) {
            (Ok(number), Ok(hash)) => self.key.hash_one(number) == hash,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_ids_are_known() {
        let conversations = Conversations::new();
        let id = conversations.begin();
        assert!(conversations.knows(&id));
        assert!(!conversations.knows(&id.to_uppercase().replace('0', "A")));
        assert!(!conversations.knows(&id[..31]));
        assert!(!conversations.knows(&format!("{id}0")));
        assert!(!conversations.knows("ünï"));
        assert!(!Conversations::new().knows(&id));
    }
}
