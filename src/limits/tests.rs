use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::config::Config;

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

fn limits(text: &str) -> config::Limits {
    let text = format!("[http]\nlisten = \"127.0.0.1:8080\"\n{text}");
    Config::load(text.as_bytes()).expect("the configuration is good").limits
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Limits {
    fn standing_still() -> Limits {
        Limits { clock: Clock::Set(0.into()), ..Limits::default() }
    }

    fn pass(&self, nanoseconds: u64) {
        let Clock::Set(now) = &self.clock else { panic!("the clock is real") };
        now.fetch_add(nanoseconds, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Asks at this address for something until it is refused, and says how often it was not.
fn drain(limits: &Limits, config: &config::Limits, client: &str) -> usize {
    (0..10_000).take_while(|_| limits.admit_address(config, address(client), Errand::Request).is_ok()).count()
}

#[test]
fn an_address_has_its_burst_and_then_its_pace() {
    let config = limits("[limits.address]\nrequests_per_minute = 60\nburst = 5");
    let limits = Limits::standing_still();
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 5);
    let refusal = limits.admit_address(&config, address("203.0.113.1"), Errand::Request).unwrap_err();
    assert_eq!(refusal.policy.name(), "address");
    assert_eq!(refusal.retry_after_seconds(), 1);
    assert_eq!(refusal.to_string(), "too many requests come from your address; try again in 1 second");
    limits.pass(SECOND);
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 1);
    assert_eq!(drain(&limits, &config, "203.0.113.2"), 5, "another address has its own");
    limits.pass(MINUTE);
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 5, "no more than the burst comes back");
}

#[test]
fn ipv6_addresses_of_one_network_are_one_client() {
    let config = limits("[limits]\nipv6_prefix = 56\n[limits.address]\nrequests_per_minute = 3\nburst = 3");
    let limits = Limits::standing_still();
    assert_eq!(drain(&limits, &config, "2001:db8:1:1::1"), 3);
    assert_eq!(drain(&limits, &config, "2001:db8:1:2::1"), 0);
    assert_eq!(drain(&limits, &config, "2001:db8:1:100::1"), 3);
    assert_eq!(drain(&limits, &config, "::ffff:203.0.113.1"), 3);
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 0, "it is the same, whatever socket it came by");
    assert_eq!(drain(&limits, &config, "203.0.113.2"), 3);
}

#[test]
fn exempt_addresses_are_not_limited_and_the_host_itself_is_exempt_unless_somebody_says_what_an_address_may_have() {
    let config = limits("[limits]\nipv6_prefix = 56");
    let limits_now = Limits::standing_still();
    assert_eq!(drain(&limits_now, &config, "127.0.0.1"), 10_000);
    assert_eq!(drain(&limits_now, &config, "::1"), 10_000);
    let config = limits("[limits.address]\nrequests_per_minute = 1");
    assert_eq!(drain(&limits_now, &config, "127.0.0.2"), 1);
    let config = limits("[limits]\nexempt = [\"198.51.100.0/24\"]\n[limits.address]\nrequests_per_minute = 1");
    assert_eq!(drain(&limits_now, &config, "198.51.100.7"), 10_000);
    assert_eq!(drain(&limits_now, &config, "127.0.0.1"), 1);
}

#[test]
fn people_on_the_host_itself_are_limited_where_somebody_says_so() {
    let person = PersonId::visitor("ada");
    let asks = |config: &config::Limits, from: &str| {
        let limits = Limits::standing_still();
        let who = Who { address: Some(address(from)), person: &person };
        (0..10_000).take_while(|_| limits.admit_person(config, who, Errand::Request).is_ok()).count()
    };
    assert_eq!(asks(&limits(""), "127.0.0.1"), 10_000);
    assert_eq!(asks(&limits(""), "203.0.113.1"), 60);
    assert_eq!(asks(&limits("[limits.person]\nrequests_per_minute = 10"), "127.0.0.1"), 5);
}

#[test]
fn what_is_off_limits_nothing() {
    let config = limits("[limits.address]\nrequests_per_minute = \"off\"\nfiles_per_minute = 0\ntokens_per_day = 0");
    let limits = Limits::standing_still();
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 10_000);
    assert!(limits.admit_address(&config, address("203.0.113.1"), Errand::File).unwrap().nearest.is_none());
}

#[test]
fn whoever_asks_too_fast_takes_nothing_from_the_others_at_the_address() {
    let config = limits(
        "[limits.address]\nrequests_per_minute = 100\nburst = 100\n[limits.person]\nrequests_per_minute = 10\nburst = 10",
    );
    let limits = Limits::standing_still();
    let office = Some(address("203.0.113.1"));
    let (hasty, calm) = (PersonId::visitor("hasty"), PersonId::visitor("calm"));
    let admitted =
        |person| (0..1_000).filter(|_| limits.admit(&config, Who { address: office, person }).is_ok()).count();
    assert_eq!(admitted(&hasty), 10);
    assert_eq!(admitted(&calm), 10);
    let standing = limits.admit(&config, Who { address: office, person: &PersonId::key("third") }).unwrap();
    let nearest = standing.nearest.expect("limits are on");
    assert_eq!((nearest.policy.name(), nearest.requests), ("person", 9));
}

#[test]
fn the_total_refuses_a_person_who_has_asked_for_nothing_yet() {
    let config = limits("[limits.total]\nrequests_per_minute = 2\nburst = 2");
    let limits = Limits::standing_still();
    let ask = |name: &str| limits.admit(&config, Who { address: None, person: &PersonId::visitor(name) });
    assert!(ask("a").is_ok() && ask("b").is_ok());
    assert_eq!(ask("c").unwrap_err().policy.name(), "total");
    assert_eq!(ask("c").unwrap_err().to_string(), "too many people ask at the moment; try again in 30 seconds");
}

#[test]
fn an_answer_beyond_the_limit_is_owed_until_time_has_paid_it() {
    let config = limits("[limits.person]\ntokens_per_day = 86_400");
    let limits = Limits::standing_still();
    let person = PersonId::key("somebody");
    let who = Who { address: None, person: &person };
    assert!(limits.admit(&config, who).is_ok());
    limits.spent(&config, who, 86_400 + 3_600);
    let refusal = limits.admit(&config, who).unwrap_err();
    assert_eq!(refusal.policy.name(), "person-tokens");
    // Until the first token is there again.
    assert_eq!(refusal.retry_after_seconds(), 3_601);
    assert_eq!(refusal.to_string(), "you have had as many answers as you may have for now; try again in 61 minutes");
    assert!(
        limits.admit_person(&config, Who { address: None, person: &person }, Errand::Request).is_ok(),
        "what costs no tokens is open"
    );
    limits.pass(3_600 * SECOND);
    assert!(limits.admit(&config, who).is_err());
    limits.pass(SECOND);
    assert!(limits.admit(&config, who).is_ok());
    assert!(limits.admit(&config, Who { address: None, person: &PersonId::key("other") }).is_ok());
}

#[test]
fn nobody_owes_more_than_a_day() {
    let config = limits("[limits.total]\ntokens_per_day = 1_000\n[limits.person]\ntokens_per_day = \"off\"");
    let limits = Limits::standing_still();
    let person = PersonId::visitor("a");
    let who = Who { address: None, person: &person };
    limits.spent(&config, who, u64::MAX);
    limits.pass(0);
    let refusal = limits.admit(&config, who).unwrap_err();
    assert_eq!(refusal.policy.name(), "total-tokens");
    assert!(refusal.retry_after <= Duration::from_nanos(DAY + 90 * SECOND), "{:?}", refusal.retry_after);
}

#[test]
fn a_tighter_limit_counts_what_was_used_before_it() {
    let wide = limits("[limits.address]\nrequests_per_minute = 100\nburst = 100\ntokens_per_day = 1_000_000");
    let tight = limits("[limits.address]\nrequests_per_minute = 20\nburst = 20\ntokens_per_day = 10_000");
    let limits = Limits::standing_still();
    let client = address("203.0.113.1");
    for _ in 0..15 {
        limits.admit_address(&wide, client, Errand::Request).unwrap();
    }
    assert_eq!(drain(&limits, &tight, "203.0.113.1"), 5, "15 of 20 are used");
    let other = address("203.0.113.2");
    for _ in 0..90 {
        limits.admit_address(&wide, other, Errand::Request).unwrap();
    }
    let refusal = limits.admit_address(&tight, other, Errand::Request).unwrap_err();
    assert_eq!(refusal.retry_after_seconds(), 3, "as if all of the new limit was used, and not more");
    let person = PersonId::visitor("a");
    limits.spent(&wide, Who { address: Some(address("203.0.113.3")), person: &person }, 12_000);
    assert!(limits.admit_address(&wide, address("203.0.113.3"), Errand::Answer).is_ok());
    assert!(limits.admit_address(&tight, address("203.0.113.3"), Errand::Answer).is_err());
}

#[test]
fn a_looser_limit_counts_at_once_and_forgets_nothing() {
    let tight = limits("[limits.address]\nrequests_per_minute = 6\nburst = 6");
    let wide = limits("[limits.address]\nrequests_per_minute = 60\nburst = 60");
    let limits = Limits::standing_still();
    assert_eq!(drain(&limits, &tight, "203.0.113.1"), 6);
    assert_eq!(drain(&limits, &wide, "203.0.113.1"), 54);
}

#[test]
fn an_answer_that_began_under_the_old_limits_changes_nothing_of_the_new_ones() {
    let tight = limits("[limits.person]\nrequests_per_minute = 6\nburst = 6");
    let wide = limits("[limits.person]\nrequests_per_minute = 60\nburst = 60");
    let limits = Limits::standing_still();
    let person = PersonId::visitor("a");
    let who = Who { address: None, person: &person };
    for _ in 0..30 {
        limits.admit(&wide, who).unwrap();
    }
    limits.spent(&tight, who, 10);
    let left = (0..100).take_while(|_| limits.admit(&wide, who).is_ok()).count();
    assert_eq!(left, 30);
}

#[test]
fn a_flood_of_addresses_takes_bounded_memory_and_whoever_is_refused_stays_refused() {
    let config = limits("[limits.address]\nrequests_per_minute = 60\nburst = 10");
    let limits = Limits::standing_still();
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 10);
    for number in 0..300_000_u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        limits.admit_address(&config, client.into(), Errand::Request).unwrap();
    }
    assert!(limits.addresses.clients() <= 16 * 3_584, "{} clients", limits.addresses.clients());
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 0);
    limits.pass(2 * MINUTE);
    for number in 0..1_000_u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        limits.admit_address(&config, client.into(), Errand::Request).unwrap();
    }
    assert!(limits.addresses.clients() <= 1_001, "who has used nothing for long is forgotten");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However somebody asks, no window of a minute has more than the burst and a minute's pace.
    #[test]
    fn a_minute_never_has_more_than_it_may(
        per_minute in 1_u32..200,
        burst in 1_u32..200,
        pauses in proptest::collection::vec(0_u64..2 * SECOND, 1..400),
    ) {
        let burst = burst.min(per_minute);
        let config = limits(&format!("[limits.address]\nrequests_per_minute = {per_minute}\nburst = {burst}"));
        let limits = Limits::standing_still();
        let mut admitted = Vec::new();
        let mut now = 0;
        for pause in pauses {
            now += pause;
            limits.pass(pause);
            if limits.admit_address(&config, address("203.0.113.1"), Errand::Request).is_ok() {
                admitted.push(now);
            }
        }
        for (index, begin) in admitted.iter().enumerate() {
            let within = admitted[index..].iter().take_while(|moment| **moment < begin + MINUTE).count();
            prop_assert!(within <= (per_minute + burst) as usize, "{within} in a minute");
        }
    }

    /// Whoever waits as long as they are told is let in.
    #[test]
    fn waiting_as_long_as_told_is_enough(per_minute in 1_u32..100_000, burst in 1_u32..100_000, more in 0_u64..SECOND) {
        let burst = NonZeroU32::new(burst.min(per_minute)).unwrap();
        let mut config = limits("");
        let per_minute = NonZeroU32::new(per_minute).unwrap();
        config.address.requests = Some(config::Rate { per_minute, burst });
        let limits = Limits::standing_still();
        let client = address("203.0.113.1");
        let refusal = (0..=burst.get()).find_map(|_| limits.admit_address(&config, client, Errand::Request).err());
        let refusal = refusal.expect("the burst has an end");
        limits.pass(u64::try_from(refusal.retry_after.as_nanos()).unwrap() + more + 1_000);
        prop_assert!(limits.admit_address(&config, client, Errand::Request).is_ok());
    }
}
