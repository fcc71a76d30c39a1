//! Numbers that nobody can guess, from the system's own source of randomness.

use std::cell::RefCell;
use std::sync::LazyLock;

use rustls::crypto::SecureRandom;

/// getrandom(2), behind the TLS library's interface.
static SYSTEM: LazyLock<&'static dyn SecureRandom> =
    LazyLock::new(|| rustls::crypto::ring::default_provider().secure_random);

/// How many numbers one call into the system brings: asked for one by one they would cost more than all else that a
/// short request needs.
const DRAWN: usize = 32;

thread_local! {
    static NUMBERS: RefCell<Vec<u128>> = const { RefCell::new(Vec::new()) };
}

/// A number of 128 random bits.
#[must_use]
pub fn bits() -> u128 {
    NUMBERS.with_borrow_mut(|numbers| {
        if let Some(number) = numbers.pop() {
            return number;
        }
        let mut bytes = [0; 16 * DRAWN];
        SYSTEM.fill(&mut bytes).expect("Linux has getrandom(2), and it does not fail once the machine is up");
        let (drawn, _) = bytes.as_chunks();
        numbers.extend(drawn.iter().map(|bytes| u128::from_ne_bytes(*bytes)));
        numbers.pop().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_number_comes_twice() {
        let numbers: HashSet<u128> = (0..10 * DRAWN).map(|_| bits()).collect();
        assert_eq!(numbers.len(), 10 * DRAWN);
        // About half of all bits are set.
        let set: u32 = numbers.iter().map(|number| number.count_ones()).sum();
        assert!((18_000..23_000).contains(&set), "{set}");
    }
}
