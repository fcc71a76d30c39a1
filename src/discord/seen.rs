//! How far each channel was read: up to which message everything that was for the bot is dealt with.
//!
//! A mark never passes a message that is still in hand, nor what was said while nobody listened and was not looked for
//! yet ([`catch_up`](super::catch_up)).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::event::{ChannelId, MessageId};
use crate::store::{LastSeen, Seen};

/// So many channels are remembered; beyond it those that were silent longest are forgotten, down to half. A channel
/// takes about 100 bytes.
const CHANNELS: usize = 100_000;

/// The marks of every bot that this process was. They outlive a panic of the service, and by way of [`LastSeen`] the
/// process.
pub struct Marks {
    all: Mutex<HashMap<Place, Mark>>,
    saved: LastSeen,
}

/// A channel as one bot sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The bot's user id.
    pub bot: u64,
    pub channel: u64,
}

impl Place {
    pub fn new(bot: u64, channel: ChannelId) -> Place {
        Place { bot, channel: channel.get() }
    }
}

#[derive(Default)]
struct Mark {
    /// The newest message that perch heard of.
    newest: u64,
    /// Those for the bot that are not dealt with.
    pending: BTreeSet<u64>,
    /// What came after this one may have been missed. 0 when nothing is known of the channel.
    gap: Option<u64>,
    direct: bool,
    /// What was saved last.
    saved: u64,
}

impl Mark {
    fn dealt_with(&self) -> u64 {
        let first = self.pending.first().map_or(u64::MAX, |first| first - 1);
        self.newest.min(first).min(self.gap.unwrap_or(u64::MAX))
    }
}

impl Marks {
    pub fn new(saved: LastSeen) -> Marks {
        Marks { all: Mutex::default(), saved }
    }

    /// Takes up what an earlier process of `bot` left.
    pub async fn adopt(&self, bot: u64) {
        let rows = self.saved.all(bot).await;
        let mut all = self.all();
        for (channel, Seen { message, direct }) in rows {
            let mark = Mark { newest: message, direct, saved: message, ..Mark::default() };
            all.entry(Place { bot, channel }).or_insert(mark);
        }
    }

    /// Up to which message everything is dealt with; `None` where nothing is known.
    pub fn dealt_with(&self, place: Place) -> Option<u64> {
        self.all().get(&place).map(Mark::dealt_with).filter(|message| *message > 0)
    }

    /// Whether something in `place` was to be looked for and was not.
    pub fn has_gap(&self, place: Place) -> bool {
        self.all().get(&place).is_some_and(|mark| mark.gap.is_some())
    }

    /// The conversations with one person that were active last, at most `limit` of them.
    pub fn direct(&self, bot: u64, limit: usize) -> Vec<ChannelId> {
        let all = self.all();
        let mut direct: Vec<_> =
            all.iter().filter(|(place, mark)| place.bot == bot && mark.direct && mark.newest > 0).collect();
        direct.sort_by_key(|(_, mark)| std::cmp::Reverse(mark.newest));
        direct.into_iter().take(limit).map(|(place, _)| ChannelId::new(place.channel)).collect()
    }

    /// The gateway brought `message`, whoever it is for.
    pub fn heard(&self, place: Place, message: MessageId, direct: bool) {
        self.change(place, |mark| {
            mark.newest = mark.newest.max(message.get());
            mark.direct |= direct;
        });
    }

    /// `message` is for the bot, and is being dealt with until [`done`](Self::done).
    pub fn begun(&self, place: Place, message: MessageId) {
        self.change(place, |mark| {
            mark.pending.insert(message.get());
        });
    }

    /// `message` is dealt with for good.
    pub fn done(&self, place: Place, message: MessageId) {
        self.change(place, |mark| {
            mark.pending.remove(&message.get());
            mark.newest = mark.newest.max(message.get());
        });
    }

    /// Whether `message` is in somebody's hands.
    pub fn in_hand(&self, place: Place, message: MessageId) -> bool {
        self.all().get(&place).is_some_and(|mark| mark.pending.contains(&message.get()))
    }

    /// `message` was in hand and is not any more; it has to be looked for.
    pub fn dropped(&self, place: Place, message: MessageId) {
        self.change(place, |mark| {
            let before = mark.dealt_with().min(message.get() - 1);
            mark.pending.remove(&message.get());
            mark.gap = Some(before);
        });
    }

    /// From here on there may be something that was missed, until [`caught_up`](Self::caught_up).
    pub fn open_gap(&self, place: Place, direct: bool) {
        self.change(place, |mark| {
            mark.gap = Some(mark.dealt_with());
            mark.direct |= direct;
        });
    }

    /// Everything up to `message` is known: what is for the bot of it is [`begun`](Self::begun).
    pub fn caught_up(&self, place: Place, message: u64) {
        self.change(place, |mark| {
            mark.gap = None;
            mark.newest = mark.newest.max(message);
        });
    }

    /// Goes back to before what was in hand, as whoever had it in hand is gone; the gateway brings it again.
    pub fn rewind(&self) {
        for mark in self.all().values_mut() {
            mark.newest = mark.pending.first().map_or(mark.newest, |first| mark.newest.min(first - 1));
            mark.pending.clear();
        }
    }

    fn change(&self, place: Place, change: impl FnOnce(&mut Mark)) {
        let mut all = self.all();
        if all.len() >= CHANNELS && !all.contains_key(&place) {
            forget_silent(&mut all);
        }
        let mark = all.entry(place).or_default();
        change(mark);
        let message = mark.dealt_with();
        if message > mark.saved {
            mark.saved = message;
            self.saved.save(place.bot, place.channel, Seen { message, direct: mark.direct });
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Place, Mark>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_silent(all: &mut HashMap<Place, Mark>) {
    let mut newest: Vec<u64> = all.values().map(|mark| mark.newest).collect();
    let (_, middle, _) = newest.select_nth_unstable(CHANNELS / 2);
    let middle = *middle;
    all.retain(|_, mark| mark.newest > middle || !mark.pending.is_empty() || mark.gap.is_some());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    const PLACE: Place = Place { bot: 1, channel: 10 };

    fn id(message: u64) -> MessageId {
        MessageId::new(message)
    }

    #[tokio::test]
    async fn a_mark_never_passes_what_is_in_hand_or_not_looked_for() {
        let store = Store::in_memory();
        let marks = Marks::new(store.last_seen());
        let saved = async || store.last_seen().all(1).await.first().map_or(0, |(_, seen)| seen.message);
        marks.heard(PLACE, id(20), false);
        assert_eq!((marks.dealt_with(PLACE), saved().await), (Some(20), 20));
        for message in [21, 23] {
            marks.begun(PLACE, id(message));
            marks.heard(PLACE, id(message), false);
        }
        marks.heard(PLACE, id(24), false);
        assert_eq!(saved().await, 20);
        marks.done(PLACE, id(21));
        assert_eq!(saved().await, 22);
        marks.done(PLACE, id(23));
        assert_eq!(saved().await, 24);

        marks.open_gap(PLACE, false);
        marks.heard(PLACE, id(40), false);
        assert_eq!((marks.dealt_with(PLACE), saved().await), (Some(24), 24));
        marks.begun(PLACE, id(30));
        marks.caught_up(PLACE, 35);
        assert_eq!(saved().await, 29);
        marks.dropped(PLACE, id(30));
        marks.heard(PLACE, id(41), false);
        assert_eq!(marks.dealt_with(PLACE), Some(29));
        assert!(marks.has_gap(PLACE) && !marks.in_hand(PLACE, id(30)));
        marks.caught_up(PLACE, 41);
        assert_eq!(saved().await, 41);

        let next = Marks::new(store.last_seen());
        next.adopt(1).await;
        assert_eq!(next.dealt_with(PLACE), Some(41));
    }

    #[test]
    fn nothing_is_known_of_a_channel_until_it_was_looked_at() {
        let marks = Marks::new(Store::in_memory().last_seen());
        assert_eq!(marks.dealt_with(PLACE), None);
        marks.open_gap(PLACE, true);
        marks.heard(PLACE, id(40), true);
        assert_eq!(marks.dealt_with(PLACE), None);
        marks.caught_up(PLACE, 40);
        assert_eq!(marks.dealt_with(PLACE), Some(40));
        assert_eq!(marks.direct(1, 1), [ChannelId::new(10)]);
        assert!(marks.direct(2, 1).is_empty());
    }

    #[test]
    fn a_rewind_goes_before_what_was_in_hand() {
        let marks = Marks::new(Store::in_memory().last_seen());
        marks.begun(PLACE, id(20));
        marks.heard(PLACE, id(25), false);
        marks.rewind();
        assert_eq!(marks.dealt_with(PLACE), Some(19));
    }

    #[test]
    fn only_so_many_channels_are_remembered() {
        let marks = Marks::new(Store::in_memory().last_seen());
        for channel in 1..=CHANNELS as u64 + 1 {
            marks.heard(Place { bot: 1, channel }, id(channel), false);
        }
        let all = marks.all();
        assert!(all.len() <= CHANNELS / 2 + 1 && all.contains_key(&Place { bot: 1, channel: CHANNELS as u64 }));
    }
}
