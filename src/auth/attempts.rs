//! Guessing is slowed down: an address that failed too often to sign in waits.
//!
//! governor, which limits everything else, spends what it looks at; here nothing is spent by those who succeed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So often in a row somebody may fail: people mistype, and a page asks for several things at once.
const BURST: u32 = 20;
/// After that, once in so long.
const PACE: Duration = Duration::from_secs(3);
/// So many addresses are remembered; when there are more, those that failed longest ago are forgotten.
const MOST: usize = 20_000;

/// Who failed to sign in lately.
#[derive(Default)]
pub struct Attempts(Mutex<HashMap<IpAddr, Instant>>);

impl Attempts {
    /// How long `address` has to wait before anything it shows is looked at.
    #[must_use]
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let paid = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&neighbourhood(address))?;
        // GCRA: each failure is paid for by PACE, and BURST of them may be owed.
        paid.checked_duration_since(now)?.checked_sub(PACE * (BURST - 1)).filter(|wait| !wait.is_zero())
    }

    /// Takes down that `address` failed, and says whether it has to wait from now on.
    pub fn failed(&self, address: IpAddr, now: Instant) -> bool {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.len() >= MOST {
            owed.retain(|_, paid| *paid > now);
        }
        if owed.len() >= MOST {
            // A flood from everywhere: the half that will have paid first.
            let mut moments: Vec<Instant> = owed.values().copied().collect();
            let (_, middle, _) = moments.select_nth_unstable(MOST / 2);
            let middle = *middle;
            owed.retain(|_, paid| *paid > middle);
        }
        let paid = owed.entry(neighbourhood(address)).or_insert(now);
        *paid = (*paid).max(now) + PACE;
        *paid > now + PACE * (BURST - 1)
    }
}

/// Whoever has an IPv6 address has a whole network of them (RFC 6177): they count as one.
fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_too_often_waits_and_others_do_not() {
        let attempts = Attempts::default();
        let (ada, bob): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let now = Instant::now();
        for _ in 1..BURST {
            assert_eq!(attempts.wait(ada, now), None);
            assert!(!attempts.failed(ada, now));
        }
        assert!(attempts.failed(ada, now));
        assert_eq!(attempts.wait(ada, now), Some(PACE));
        assert_eq!(attempts.wait(bob, now), None);
        assert_eq!(attempts.wait(ada, now + PACE), None);
        assert!(attempts.failed(ada, now + PACE), "one try at a time from now on");
        assert_eq!(attempts.wait(ada, now + PACE), Some(PACE));
        assert_eq!(attempts.wait(ada, now + PACE * (BURST + 1)), None);
        assert!(!attempts.failed(ada, now + PACE * (BURST + 2)), "it is forgotten");
    }

    #[test]
    fn a_network_of_ipv6_addresses_counts_as_one() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for host in 0..BURST {
            attempts.failed(format!("2001:db8:0:1::{host:x}").parse().unwrap(), now);
        }
        assert!(attempts.wait("2001:db8:0:1:ffff::1".parse().unwrap(), now).is_some());
        assert!(attempts.wait("2001:db8:0:2::1".parse().unwrap(), now).is_none());
        for _ in 0..BURST {
            attempts.failed("::ffff:192.0.2.1".parse().unwrap(), now);
        }
        assert!(attempts.wait("192.0.2.1".parse().unwrap(), now).is_some(), "the same, however it is written");
    }

    #[test]
    fn a_flood_of_addresses_costs_no_memory_without_end() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for number in 0..2 * u32::try_from(MOST).unwrap() {
            attempts.failed(std::net::Ipv4Addr::from_bits(number).into(), now + Duration::from_nanos(number.into()));
        }
        assert!(attempts.0.lock().unwrap().len() <= MOST);
    }
}
