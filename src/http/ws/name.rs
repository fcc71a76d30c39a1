//! What somebody is called in a room.

use sha2::{Digest, Sha256};

use crate::chat::PersonId;

/// Digits that are not taken for one another.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// A short name that is always the same for one person, and tells nobody who they are: eight characters out of a hash.
pub fn of(person: &PersonId) -> String {
    let hash = Sha256::digest(format!("perch room {person}"));
    hash.iter().take(8).map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_the_same_and_is_not_the_id() {
        let (one, other) = (PersonId::key("alice"), PersonId::key("bob"));
        assert_eq!(of(&one), of(&one));
        assert_ne!(of(&one), of(&other));
        assert_eq!(of(&one).len(), 8);
        assert!(!of(&one).contains("alice"));
    }
}
