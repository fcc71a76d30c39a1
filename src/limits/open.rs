//! How many connections each client address has open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

/// By client: an address, or the prefix of an IPv6 address. It knows no more of them than there are connections.
#[derive(Default)]
pub struct Open(Mutex<HashMap<IpAddr, u32>>);

/// One connection; it is counted until this is dropped.
pub struct Seat(Option<(Arc<Open>, IpAddr)>);

impl Open {
    /// One more connection of `client`, where that has fewer than `most`; nobody is counted where there is no limit.
    pub fn take(self: &Arc<Self>, client: Option<IpAddr>, most: Option<NonZeroU32>) -> Option<Seat> {
        let (Some(client), Some(most)) = (client, most) else { return Some(Seat::uncounted()) };
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        if *count >= most.get() {
            return None;
        }
        *count += 1;
        Some(Seat(Some((Arc::clone(self), client))))
    }
}

impl Seat {
    /// For a connection that nobody counts.
    #[must_use]
    pub fn uncounted() -> Seat {
        Seat(None)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((open, client)) = self.0.take() else { return };
        let mut open = open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(client) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_at_once_and_none_is_remembered() {
        let open = Arc::new(Open::default());
        let (client, most) = (Some(IpAddr::from([203, 0, 113, 1])), NonZeroU32::new(2));
        let first = open.take(client, most).expect("there is room");
        let second = open.take(client, most).expect("there is room");
        assert!(open.take(client, most).is_none());
        assert!(open.take(Some([203, 0, 113, 2].into()), most).is_some());
        drop(first);
        let third = open.take(client, most);
        assert!(third.is_some());
        drop((third, second));
        assert_eq!(open.0.lock().expect("no panic").len(), 0);
        assert!((0..10).all(|_| open.take(None, most).is_some() && open.take(client, None).is_some()));
    }
}
