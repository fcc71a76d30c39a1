//! What people in rooms can rely on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::time::Duration;

use axum::body::Bytes;

use super::*;
use crate::chat::PersonId;

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn name(text: &str) -> RoomName {
    RoomName::new(text).unwrap()
}

fn join(rooms: &Rooms, room: &str, after: Option<u64>) -> Joined {
    rooms.join(&name(room), after, &Arc::default(), None).unwrap()
}

fn say(membership: &Membership, text: &str) -> u64 {
    let text = Bytes::copy_from_slice(text.as_bytes());
    membership.say(PersonId::key("somebody"), None, |_, _| text)
}

fn texts(said: &[Said]) -> Vec<&str> {
    said.iter().map(|said| std::str::from_utf8(&said.frame).unwrap()).collect()
}

fn hear_all(membership: &mut Membership) -> Vec<Said> {
    std::iter::from_fn(|| membership.hear().unwrap()).collect()
}

#[test]
fn everybody_hears_the_same_in_the_same_order_with_growing_ids() {
    let rooms = Rooms::default();
    let mut members: Vec<Joined> = (0..3).map(|_| join(&rooms, "here", None)).collect();
    let mut elsewhere = join(&rooms, "there", None);
    for number in 0..30 {
        say(&members[number % 3].membership, &number.to_string());
    }
    let heard: Vec<Vec<Said>> = members.iter_mut().map(|joined| hear_all(&mut joined.membership)).collect();
    let expected: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    for said in &heard {
        assert_eq!(texts(said), expected);
        assert!(said.windows(2).all(|pair| pair[0].id < pair[1].id));
    }
    assert_eq!(hear_all(&mut elsewhere.membership).len(), 0);
}

#[test]
fn whoever_comes_back_hears_what_they_missed_once_and_goes_on() {
    let rooms = Rooms::default();
    let stays = join(&rooms, "here", None);
    let mut goes = join(&rooms, "here", None);
    let ids: Vec<u64> = (0..5).map(|number| say(&stays.membership, &number.to_string())).collect();
    assert_eq!(texts(&hear_all(&mut goes.membership)), ["0", "1", "2", "3", "4"]);
    drop(goes);
    for number in 5..8 {
        say(&stays.membership, &number.to_string());
    }
    let mut back = join(&rooms, "here", Some(ids[2]));
    assert_eq!((texts(&back.history), back.incomplete), (vec!["3", "4", "5", "6", "7"], false));
    say(&stays.membership, "8");
    assert_eq!(texts(&hear_all(&mut back.membership)), ["8"]);
}

#[test]
fn more_than_fits_into_the_history_follows_without_a_gap() {
    let rooms = Rooms::default();
    let stays = join(&rooms, "here", None);
    let first = say(&stays.membership, "0");
    for number in 1..=350 {
        say(&stays.membership, &number.to_string());
    }
    let mut back = join(&rooms, "here", Some(first));
    let heard: Vec<Said> = back.history.drain(..).chain(hear_all(&mut back.membership)).collect();
    let expected: Vec<String> = (1..=350).map(|number| number.to_string()).collect();
    assert_eq!(texts(&heard), expected);
    // Who has heard nothing yet hears the last of it.
    let new = join(&rooms, "here", None);
    assert_eq!(texts(&new.history), expected[250..]);
}

#[test]
fn whoever_was_away_for_too_long_is_told_so() {
    let rooms = Rooms::default();
    let stays = join(&rooms, "here", None);
    let first = say(&stays.membership, "first");
    assert!(!join(&rooms, "here", Some(first)).incomplete);
    for _ in 0..2_000 {
        say(&stays.membership, "more");
    }
    let back = join(&rooms, "here", Some(first));
    assert!(back.incomplete && !back.history.is_empty());
    // A room of another life, in which nobody knows what was said; and a clock that was put back since.
    let later = say(&stays.membership, "last");
    assert!(join(&rooms, "elsewhere", Some(first)).incomplete);
    let ahead = join(&rooms, "here", Some(later + 1_000_000_000));
    assert!(ahead.incomplete && ahead.history.last().unwrap().id == later);
}

#[test]
fn a_room_of_a_name_goes_on_with_higher_ids_when_it_begins_anew() {
    let before = {
        let rooms = Rooms::default();
        say(&join(&rooms, "here", None).membership, "before")
    };
    let rooms = Rooms::default();
    assert!(say(&join(&rooms, "here", None).membership, "after") > before);
}

#[test]
fn whoever_is_too_slow_falls_behind_and_the_others_hear_everything() {
    let rooms = Rooms::default();
    let speaker = join(&rooms, "here", None);
    let mut slow = join(&rooms, "here", None);
    let mut quick = join(&rooms, "here", None);
    let mut heard = 0;
    for number in 0..3_000 {
        say(&speaker.membership, &number.to_string());
        heard += hear_all(&mut quick.membership).len();
    }
    assert_eq!(heard, 3_000);
    assert!(slow.membership.hear().is_err());
}

#[test]
fn a_bell_rings_for_everybody_but_who_speaks() {
    let rooms = Rooms::default();
    let (speaker, listener) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
    let woken: [Arc<Woken>; 2] = Default::default();
    let speaking = rooms.join(&name("here"), None, &speaker, None).unwrap();
    let _listening = rooms.join(&name("here"), None, &listener, None).unwrap();
    speaker.register(&Waker::from(Arc::clone(&woken[0])));
    listener.register(&Waker::from(Arc::clone(&woken[1])));
    say(&speaking.membership, "hello");
    assert_eq!(woken.map(|woken| woken.0.load(Ordering::Relaxed)), [0, 1]);
}

#[test]
fn a_crowd_that_comes_at_once_is_counted_once_a_second() {
    let rooms = Rooms::default();
    let mut first = join(&rooms, "here", None);
    assert_eq!(first.members, 1);
    let crowd: Vec<Joined> = (0..1_000).map(|_| join(&rooms, "here", None)).collect();
    assert_eq!(crowd.last().unwrap().members, 1_001);
    let mut told = Vec::new();
    for seconds in 0..5 {
        rooms.announce(Instant::now() + Duration::from_secs(seconds));
        told.extend(first.membership.members());
    }
    assert_eq!(told, [1_001]);
    drop(crowd);
    rooms.announce(Instant::now() + Duration::from_secs(10));
    assert_eq!(first.membership.members(), Some(1));
}

#[test]
fn a_room_that_nobody_came_back_to_is_forgotten() {
    let rooms = Rooms::default();
    let _stays = join(&rooms, "stays", None);
    say(&join(&rooms, "goes", None).membership, "hello");
    rooms.sweep(Instant::now() + Duration::from_mins(9));
    assert_eq!(rooms.count(), 2);
    rooms.sweep(Instant::now() + Duration::from_mins(11));
    assert_eq!(rooms.count(), 1);
    assert_eq!(rooms.common.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn there_are_so_many_rooms_and_empty_ones_make_room() {
    let rooms = Rooms::default();
    let mut held: Vec<Joined> = (0..MOST_ROOMS).map(|number| join(&rooms, &number.to_string(), None)).collect();
    assert_eq!(rooms.join(&name("one more"), None, &Arc::default(), None).err(), Some(Full::All));
    assert_eq!(join(&rooms, "0", None).members, 2);
    held.pop();
    join(&rooms, "one more", None);
    assert_eq!(rooms.count(), MOST_ROOMS);
}

/// Somebody of the client with this number.
fn of(client: u8) -> Arc<Bell> {
    Arc::new(Bell::of(Some([203, 0, 113, client].into())))
}

/// Joins as that, where each client may have so many rooms.
#[expect(clippy::needless_pass_by_value, reason = "a number or a name reads better than a reference to one")]
fn join_as(rooms: &Rooms, client: &Arc<Bell>, room: impl ToString, most: u32) -> Result<Joined, Full> {
    rooms.join(&name(&room.to_string()), None, client, NonZeroU32::new(most))
}

#[test]
fn one_client_has_its_share_of_rooms_and_the_others_have_theirs() {
    let rooms = Rooms::default();
    let (greedy, other) = (of(1), of(2));
    let mut held: Vec<Joined> = (0..500).map(|room| join_as(&rooms, &greedy, room, 500).unwrap()).collect();
    let share = Full::Share(NonZeroU32::new(500).unwrap());
    assert_eq!(join_as(&rooms, &greedy, "one more", 500).err(), Some(share));
    // What others began is open to them, and the other way round.
    held.push(join_as(&rooms, &other, "theirs", 500).unwrap());
    assert_eq!(join_as(&rooms, &greedy, "theirs", 500).unwrap().members, 2);
    assert_eq!(join_as(&rooms, &other, 0, 500).unwrap().members, 2);
    // One that ends, or that they may have more of, is one that can begin; and nobody limits who is not limited.
    assert!(join_as(&rooms, &greedy, "one more", 501).is_ok());
    held.swap_remove(0);
    assert!(join_as(&rooms, &greedy, "another", 500).is_ok());
    assert!((0..1_000).all(|room| join_as(&rooms, &Arc::default(), format!("free {room}"), 1).is_ok()));
    drop(held);
    rooms.sweep(Instant::now() + Duration::from_mins(11));
    assert_eq!((rooms.count(), rooms.common.shares().clients()), (0, 0));
    assert_eq!(rooms.common.empty.load(Ordering::Relaxed), 0);
}

#[test]
fn a_room_that_only_others_are_in_counts_for_them() {
    let rooms = Rooms::default();
    let (first, second, third) = (of(1), of(2), of(3));
    let begun = join_as(&rooms, &first, "here", 1).unwrap();
    let again = join_as(&rooms, &first, "here", 1).unwrap();
    let _stays = join_as(&rooms, &second, "here", 1).unwrap();
    drop(begun);
    assert!(join_as(&rooms, &first, "there", 1).is_err(), "somebody of theirs is in it");
    drop(again);
    let there = join_as(&rooms, &first, "there", 1).unwrap();
    assert!(join_as(&rooms, &second, "elsewhere", 1).is_err());
    // Two can't have more than two between them, whoever begins and whoever stays.
    let _stays_too = join_as(&rooms, &second, "there", 1).unwrap();
    drop(there);
    assert!(join_as(&rooms, &first, "elsewhere", 1).is_err());
    let _theirs = join_as(&rooms, &third, "elsewhere", 1).unwrap();
    assert_eq!(rooms.common.shares().clients(), 3);
}

#[test]
fn rooms_that_somebody_left_make_room_for_the_next_and_others_can_not_hold_them_for_nothing() {
    let rooms = Rooms::default();
    let (tourist, other) = (of(1), of(2));
    for room in 0..1_000 {
        join_as(&rooms, &tourist, room, 10).unwrap();
    }
    assert!(rooms.count() <= 10, "{}", rooms.count());
    // Whoever is the first in one that was left takes it over, with what was said in it.
    say(&join_as(&rooms, &tourist, "left", 10).unwrap().membership, "hello");
    let _other = join_as(&rooms, &other, "other", 1).unwrap();
    assert!(join_as(&rooms, &other, "left", 1).is_err());
    assert_eq!(texts(&join_as(&rooms, &other, "left", 2).unwrap().history), ["hello"]);
    assert_eq!(texts(&join_as(&rooms, &tourist, "left", 10).unwrap().history), ["hello"]);
}

#[test]
fn however_much_is_said_in_however_many_rooms_so_much_is_kept() {
    let rooms = Rooms::default();
    let text = "x".repeat(8 << 10);
    let held: Vec<Joined> = (0..2_000).map(|number| join(&rooms, &number.to_string(), None)).collect();
    for _ in 0..40 {
        for joined in &held {
            say(&joined.membership, &text);
        }
    }
    let kept = rooms.common.bytes.load(Ordering::Relaxed);
    let one_each = held.len() * (text.len() + 1_024);
    assert!(kept <= KEPT_BYTES + one_each, "{kept} bytes");
    drop((held, rooms.open.lock().unwrap().drain()));
    assert_eq!(rooms.common.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn one_client_that_says_without_end_takes_nothing_from_what_others_said() {
    let rooms = Rooms::default();
    let (loud, other) = (of(1), of(2));
    let theirs = join_as(&rooms, &other, "theirs", 500).unwrap();
    let first = say(&theirs.membership, "0");
    for number in 1..100 {
        say(&theirs.membership, &number.to_string());
    }
    let text = "x".repeat(8 << 10);
    let mut held: Vec<Joined> = (0..500).map(|room| join_as(&rooms, &loud, room, 500).unwrap()).collect();
    for _ in 0..40 {
        for joined in &held {
            say(&joined.membership, &text);
        }
    }
    // Filled one after the other, too.
    for joined in &held {
        for _ in 0..200 {
            say(&joined.membership, &text);
        }
    }
    let kept = rooms.common.bytes.load(Ordering::Relaxed);
    assert!(kept < KEPT_BYTES / 2, "{kept} bytes");
    say(&theirs.membership, "100");
    let back = rooms.join(&name("theirs"), Some(first), &other, NonZeroU32::new(500)).unwrap();
    assert_eq!((back.history.len(), back.incomplete), (100, false));
    drop(back);
    // Somebody else stays, and is answerable for what is kept there.
    let stays = join_as(&rooms, &other, 0, 500).unwrap();
    drop(held.drain(..));
    rooms.sweep(Instant::now() + Duration::from_mins(11));
    drop((stays, theirs));
    rooms.sweep(Instant::now() + Duration::from_mins(11));
    assert_eq!((rooms.count(), rooms.common.shares().clients()), (0, 0));
    assert_eq!(rooms.common.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_name_is_any_text_on_one_line() {
    for good in ["lobby", "日本 ☃", "a", "مرحبا", "👩‍👩‍👧", &"é".repeat(64)] {
        assert_eq!(RoomName::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "  ", "a\nb", "a\0b", "\u{85}", &"é".repeat(65)] {
        RoomName::new(bad).unwrap_err();
    }
}
