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
fn an_address_says_so_much_in_rooms_and_long_messages_count_as_more() {
    let config = limits("");
    let limits = Limits::standing_still();
    let says = |bytes: usize, client: &str| {
        (0..5_000)
            .take_while(|_| limits.admit_address(&config, address(client), Errand::Message(bytes)).is_ok())
            .count()
    };
    assert_eq!(says(0, "203.0.113.1"), 600);
    assert_eq!(says(1_024, "203.0.113.2"), 600);
    assert_eq!(says(8_192, "203.0.113.3"), 75);
    let refusal = limits.admit_address(&config, address("203.0.113.1"), Errand::Message(1)).unwrap_err();
    assert_eq!(refusal.policy.name(), "address-messages");
    assert_eq!(refusal.to_string(), "too many messages for rooms come from your address; try again in 1 second");
    limits.pass(SECOND);
    assert_eq!(says(100, "203.0.113.1"), 100);
    assert!(limits.admit_address(&config, address("203.0.113.1"), Errand::Request).is_ok(), "asking is another matter");
    // What the last one goes beyond is owed, however often somebody asks in between.
    let long = |client: &str| limits.admit_address(&config, address(client), Errand::Message(8_192)).is_ok();
    assert!((0..599).all(|_| limits.admit_address(&config, address("203.0.113.4"), Errand::Message(1)).is_ok()));
    assert!(long("203.0.113.4"));
    assert_eq!(says(1, "203.0.113.4"), 0);
    limits.pass(SECOND * 7 / 100);
    assert!(!long("203.0.113.4"));
    limits.pass(SECOND / 50);
    assert!(long("203.0.113.4"));
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
fn nobody_is_told_to_wait_for_longer_than_a_day_and_that_is_enough() {
    let person = PersonId::visitor("a");
    let who = Who { address: None, person: &person };
    let limited = |tokens: u32| {
        limits(&format!("[limits.total]\ntokens_per_day = {tokens}\n[limits.person]\ntokens_per_day = \"off\""))
    };
    for (tokens, spent) in
        [(1_000, u64::MAX), (1, 1), (1, 100), (500, 1_000), (86_400, 10_000_000), (u32::MAX, u64::MAX)]
    {
        let (config, limits) = (limited(tokens), Limits::standing_still());
        limits.spent(&config, who, spent);
        let refusal = limits.admit(&config, who).unwrap_err();
        assert_eq!(refusal.policy.name(), "total-tokens");
        assert!(refusal.retry_after_seconds() <= 86_400, "{tokens}: {:?}", refusal.retry_after);
        assert_ne!(refusal.to_string().split_once("try again in ").unwrap().1, "25 hours");
        // Whether they asked in between or not.
        limits.pass(SECOND * refusal.retry_after_seconds());
        assert!(limits.admit(&config, who).is_ok(), "{spent} of {tokens}");
    }
    // Nor after a limit that became much smaller than what was used.
    let limits = Limits::standing_still();
    limits.spent(&limited(1_000_000), who, 1_000_000);
    limits.pass(DAY / 2);
    let refusal = limits.admit(&limited(10), who).unwrap_err();
    assert_eq!(refusal.to_string(), "there are no more answers for anybody for now; try again in 12 hours");
    limits.pass(DAY / 2);
    assert!(limits.admit(&limited(10), who).is_ok());
}

#[test]
fn a_limit_that_is_turned_off_and_on_again_remembers_who_used_what() {
    let on = limits(
        "[limits.address]\nrequests_per_minute = 100\nburst = 100\ntokens_per_day = 10_000\nfiles_per_minute = 10",
    );
    let off =
        limits("[limits.address]\nrequests_per_minute = \"off\"\ntokens_per_day = \"off\"\nfiles_per_minute = \"off\"");
    let limits = Limits::standing_still();
    let client = address("203.0.113.1");
    let person = PersonId::visitor("a");
    let who = Who { address: Some(client), person: &person };
    let files = |config: &config::Limits| {
        (0..50).take_while(|_| limits.admit_address(config, client, Errand::File).is_ok()).count()
    };
    // What was used before it was off, and while it was.
    for config in [&on, &off] {
        for _ in 0..40 {
            limits.admit_address(config, client, Errand::Request).unwrap();
        }
        limits.spent(config, who, 6_000);
    }
    assert_eq!(files(&off), 50);
    assert_eq!(drain(&limits, &on, "203.0.113.1"), 20);
    assert_eq!(files(&on), 0);
    let refusal = limits.admit_address(&on, client, Errand::Answer).unwrap_err();
    assert_eq!((refusal.policy.name(), refusal.retry_after_seconds()), ("address-tokens", 17_289));
    // In time it is forgotten, whether somebody looks or not.
    limits.pass(DAY / 2);
    assert!(limits.admit_address(&off, client, Errand::Answer).is_ok());
    limits.pass(DAY / 2);
    assert_eq!(drain(&limits, &on, "203.0.113.1"), 100);
    assert!(limits.admit_address(&on, address("203.0.113.1"), Errand::File).is_ok());
    assert_eq!(
        limits.addresses.with(&client, limits.now(), &off.address, |used| used.afford(&on.address, 9_999)),
        Ok(())
    );
    limits.pass(20 * MINUTE);
    for number in 0..1_000_u32 {
        let other = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        limits.admit_address(&off, other.into(), Errand::Request).unwrap();
    }
    assert_eq!(limits.addresses.clients(), 1_000, "who has used nothing for long is forgotten");
}

#[test]
fn what_nobody_limits_is_remembered_in_bounded_memory() {
    let config = limits("[limits.address]\nrequests_per_minute = \"off\"\ntokens_per_day = \"off\"");
    let limits = Limits::standing_still();
    assert_eq!(drain(&limits, &config, "203.0.113.1"), 10_000);
    for number in 0..200_000_u32 {
        let client = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        limits.admit_address(&config, client.into(), Errand::Request).unwrap();
    }
    assert!(limits.addresses.clients() <= 16 * 3_584, "{} clients", limits.addresses.clients());
    let on = self::limits("[limits.address]\nrequests_per_minute = 100");
    assert_eq!(drain(&limits, &on, "203.0.113.1"), 0, "those who used most are known longest");
}

/// A configuration with a model, whose answers have so many tokens at most, under these limits.
fn with_model(most: &str, text: &str) -> Arc<Config> {
    let model = "[chat]\nbackend = \"openai\"\nbase_url = \"http://127.0.0.1:1\"\nmodel = \"m\"";
    let text = format!("[http]\nlisten = \"127.0.0.1:8080\"\n{model}\n{most}\n{text}");
    Arc::new(Config::load(text.as_bytes()).expect("the configuration is good"))
}

#[test]
fn answers_that_are_being_made_count_as_if_they_were_there() {
    let config = with_model("max_tokens = 400", "[limits.person]\ntokens_per_day = 1_000");
    let limits = Arc::new(Limits::standing_still());
    let (client, person) = (Some(address("203.0.113.1")), PersonId::visitor("a"));
    let open = |person: &PersonId| Bill::open(&limits, &config, client, person.clone(), 40);
    let first = open(&person).unwrap();
    let second = open(&person).unwrap();
    let third = open(&person).unwrap();
    let refusal = open(&person).err().expect("three of 410 may be 1,230 of 1,000");
    assert_eq!((refusal.policy.name(), refusal.retry_after_seconds()), ("person-tokens", 5));
    assert_eq!(
        refusal.to_string(),
        "answers that are being made may take all that you may have for now; try again in 5 seconds"
    );
    assert!(open(&PersonId::visitor("b")).is_ok(), "it is nobody else's");
    // They cost less than was thought, or nothing.
    first.tokens(100);
    drop(first);
    assert!(open(&person).is_ok());
    drop(second);
    third.text(4 * 950);
    drop(third);
    let refusal = open(&person).err().expect("1,050 of 1,000 are used");
    assert_eq!((refusal.under_way, refusal.retry_after_seconds()), (false, 51 * 864 / 10 + 1));
    assert_eq!(limits.under_way.parties(), 0);
}

#[test]
fn an_answer_that_panics_or_is_given_up_leaves_nothing_put_by() {
    let config = with_model("", "[limits.total]\ntokens_per_day = 10");
    let limits = Arc::new(Limits::standing_still());
    let person = PersonId::visitor("a");
    let open = || Bill::open(&limits, &config, None, person.clone(), 4_000);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _bill = open().unwrap();
        // What can't be had does not stay put by for those for whom it could.
        assert_eq!(open().err().map(|refusal| refusal.policy.name()), Some("total-tokens"));
        panic!("the responder broke");
    }));
    assert!(panicked.is_err());
    assert_eq!(limits.under_way.parties(), 0);
    let mut pending = Box::pin(async {
        let _bill = open().unwrap();
        std::future::pending::<()>().await;
    });
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(pending.as_mut().poll(&mut context).is_pending());
    assert_eq!(limits.under_way.parties(), 2);
    drop(pending);
    assert_eq!(limits.under_way.parties(), 0);
    assert!(open().is_ok());
}

#[test]
fn programs_on_the_host_itself_use_nothing_up_for_whoever_has_the_same_key_elsewhere() {
    let config = limits("");
    let limits = Limits::standing_still();
    let person = PersonId::key("ada");
    let ask = |from: &str| {
        limits.admit_person(&config, Who { address: Some(address(from)), person: &person }, Errand::Answer)
    };
    assert!((0..1_000).all(|_| ask("127.0.0.1").is_ok()));
    assert!((0..60).all(|_| ask("203.0.113.1").is_ok()));
    assert!(ask("203.0.113.1").is_err() && ask("127.0.0.1").is_ok());
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
