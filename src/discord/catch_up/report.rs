//! What a catch-up came to, in words for whoever reads the journal.

use crate::config::discord::CatchUp as Bounds;
use crate::config::show_duration;
use crate::discord::catch_up::read::{Cut, PAGES};
use crate::discord::event::ChannelId;
use crate::discord::history::PAGE;

/// So many channels are named.
const NAMED: usize = 5;

/// What came of one catch-up so far.
#[derive(Default)]
pub struct Report {
    /// How many missed messages are being answered, and in how many channels.
    pub missed: usize,
    pub channels: usize,
    /// Where something is too old.
    pub age: Vec<ChannelId>,
    /// Where there was more than a channel may have.
    pub number: Vec<ChannelId>,
    /// Where the end of the pages was met.
    pub pages: Vec<ChannelId>,
    /// Where nothing was looked for, or not all of it, as there was more than may be answered in all.
    pub total: Vec<ChannelId>,
    /// Where Discord could not be asked, and what it was.
    pub unreachable: Vec<ChannelId>,
    pub trouble: Option<String>,
}

impl Report {
    pub fn cut(&mut self, cut: Cut, channel: ChannelId) {
        match cut {
            Cut::Age => self.age.push(channel),
            Cut::Number => self.number.push(channel),
            Cut::Pages => self.pages.push(channel),
        }
    }

    /// What was found, if anything.
    pub fn found(&self) -> Option<String> {
        (self.missed > 0).then(|| {
            format!(
                "{} said while perch had no session {} found in {}, and answered now",
                counted(self.missed, "message"),
                if self.missed == 1 { "is" } else { "are" },
                counted(self.channels, "channel"),
            )
        })
    }

    /// What was cut off, if anything.
    pub fn lost(&self, bounds: Bounds) -> Option<String> {
        let pages = PAGES * PAGE;
        let parts = [
            (&self.age, format!("what is older than {} (max_age)", show_duration(bounds.max_age))),
            (&self.number, format!("all but the newest {} (per_channel)", bounds.per_channel)),
            (&self.pages, format!("what is behind the newest {pages} messages")),
            (&self.total, format!("what is beyond {} in all (total)", bounds.total)),
        ];
        let said: Vec<String> = parts
            .into_iter()
            .filter(|(channels, _)| !channels.is_empty())
            .map(|(channels, what)| format!("{what} in {}", named(channels)))
            .collect();
        (!said.is_empty()).then(|| {
            format!(
                "not everything that was said while perch had no session is answered (see discord.catch_up); left out: {}",
                said.join("; ")
            )
        })
    }

    /// What could not be looked for, if anything.
    pub fn failed(&self) -> Option<String> {
        let trouble = self.trouble.as_deref()?;
        Some(format!(
            "could not look for what was said while perch had no session in {}: {trouble}; it is looked for when the next \
             session begins",
            named(&self.unreachable)
        ))
    }
}

fn counted(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn named(channels: &[ChannelId]) -> String {
    let names: Vec<String> = channels.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if channels.len() > NAMED { ", …" } else { "" };
    format!("{} ({}{more})", counted(channels.len(), "channel"), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_left_out_and_where() {
        let bounds = Bounds::default();
        let ids = |numbers: std::ops::RangeInclusive<u64>| numbers.map(ChannelId::new).collect::<Vec<_>>();
        let mut report = Report { missed: 1, channels: 1, ..Report::default() };
        assert_eq!((report.lost(bounds), report.failed()), (None, None));
        insta::assert_snapshot!(report.found().unwrap(), @"1 message said while perch had no session is found in 1 channel, and answered now");
        report = Report {
            missed: 12,
            channels: 2,
            age: ids(1..=6),
            number: ids(7..=7),
            pages: ids(8..=9),
            total: ids(10..=10),
            unreachable: ids(11..=12),
            trouble: Some("Discord answered 502 Bad Gateway".to_owned()),
        };
        insta::assert_snapshot!(report.found().unwrap(), @"12 messages said while perch had no session are found in 2 channels, and answered now");
        insta::assert_snapshot!(report.lost(bounds).unwrap(), @"not everything that was said while perch had no session is answered (see discord.catch_up); left out: what is older than 1h (max_age) in 6 channels (1, 2, 3, 4, 5, …); all but the newest 100 (per_channel) in 1 channel (7); what is behind the newest 2000 messages in 2 channels (8, 9); what is beyond 500 in all (total) in 1 channel (10)");
        insta::assert_snapshot!(report.failed().unwrap(), @"could not look for what was said while perch had no session in 2 channels (11, 12): Discord answered 502 Bad Gateway; it is looked for when the next session begins");
        report = Report::default();
        assert_eq!((report.found(), report.lost(bounds), report.failed()), (None, None, None));
    }
}
