//! Tokens that answers may take which are being made: they count for who asks meanwhile, as if they were spent.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::chat::PersonId;

/// Whose tokens they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    Address(IpAddr),
    Person(PersonId),
    Total,
}

/// What is put by, for each of those. It knows no more of them than there are answers being made.
#[derive(Default)]
pub struct UnderWay(Mutex<HashMap<Party, u64>>);

/// Tokens that are put by for one answer, until this is dropped.
pub struct Reservation {
    under_way: Arc<UnderWay>,
    parties: Vec<Party>,
    tokens: u64,
}

impl UnderWay {
    /// Puts so many tokens by for all of them, if each `affords` an answer beside what is put by already. Nobody else is
    /// judged in between.
    ///
    /// # Errors
    /// What the first said that does not.
    pub fn reserve<E>(
        self: &Arc<Self>,
        parties: Vec<Party>,
        tokens: u64,
        affords: impl Fn(&Party, u64) -> Result<(), E>,
    ) -> Result<Reservation, E> {
        let mut put_by = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for party in &parties {
            affords(party, put_by.get(party).copied().unwrap_or_default())?;
        }
        for party in &parties {
            *put_by.entry(party.clone()).or_default() += tokens;
        }
        Ok(Reservation { under_way: Arc::clone(self), parties, tokens })
    }
}

#[cfg(test)]
impl UnderWay {
    /// For how many something is put by.
    pub fn parties(&self) -> usize {
        self.0.lock().expect("no test panics in there").len()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut put_by = self.under_way.0.lock().unwrap_or_else(PoisonError::into_inner);
        for party in self.parties.drain(..) {
            if let Entry::Occupied(mut entry) = put_by.entry(party) {
                *entry.get_mut() -= self.tokens;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }
}
