//! What is said of secrets that are there and are refused: once, once a day while it lasts, and when it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::machine::Cause as Why;
use super::prepare::Preparation;
use crate::config::secret::SecretRef;
use crate::service::Board;

/// How often the journal is reminded.
const REMINDER: Duration = Duration::from_hours(24);
/// How `status` calls it.
const NAME: &str = "secrets";

/// What one preparation found out about its secrets.
#[derive(Debug, Default)]
pub struct Findings {
    /// The newest values that were refused, where another could be used.
    pub refused: Vec<Refusal>,
    /// The keys of secrets of which nothing new is known.
    pub unknown: BTreeSet<String>,
}

/// A secret whose newest value was refused.
#[derive(Debug)]
pub struct Refusal {
    pub secret: SecretRef,
    /// The refused version, where it has a name.
    pub version: Option<String>,
    pub why: String,
    pub used: Used,
}

/// What is used in place of a refused value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// The value that was in use.
    Old,
    /// The value of before the last rotation.
    Previous,
    /// The value that was in use is refused as well.
    Neither,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { secret, why, used, .. } = self;
        let key = &secret.place.key;
        let places = secret.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        match used {
            Used::Old => write!(f, "{key}: the new value of {places} is refused, the old one stays in use: {why}"),
            Used::Previous => write!(f, "{key}: AWSCURRENT of {places} is refused, AWSPREVIOUS is used: {why}"),
            Used::Neither => write!(f, "{key}: the new value of {places} is refused, as the old one is: {why}"),
        }
    }
}

/// The secrets that are refused at the moment.
pub struct Refusals {
    board: Arc<Board>,
    told: Mutex<BTreeMap<String, Told>>,
}

/// What was said of one secret.
struct Told {
    text: String,
    version: Option<String>,
    why: String,
    used: Used,
    since: Instant,
    last: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Refused(String),
    Over(String),
}

impl Refusals {
    pub fn new(board: Arc<Board>) -> Self {
        Refusals { board, told: Mutex::default() }
    }

    /// Puts down what `preparation` found, says what is new in it, and returns what it said.
    pub fn settle(&self, preparation: &Preparation, findings: &Findings) -> Vec<String> {
        let (said, refused) = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let said = sort(&mut told, findings, preparation.why == Why::Asked, Instant::now());
            (said, told.values().map(|told| told.text.clone()).collect::<Vec<_>>())
        };
        let Preparation { change, version, .. } = preparation;
        for said in &said {
            match said {
                Said::Refused(text) => {
                    tracing::warn!(service = "supervisor", %change, config_version = %version, "{text}");
                }
                Said::Over(text) => {
                    tracing::info!(service = "supervisor", %change, config_version = %version, "{text}");
                }
            }
        }
        if !said.is_empty() {
            let trouble = (!refused.is_empty()).then(|| refused.join("; "));
            self.board.remark(NAME, trouble, serde_json::json!({ "refused": refused.len() }));
        }
        said.into_iter().map(|(Said::Refused(text) | Said::Over(text))| text).collect()
    }
}

impl Told {
    /// Whether `refusal` is nothing new after this. The previous value is the old one, once it is in use; and where the
    /// version has a name, why it is refused depends on whom it was tried with.
    fn covers(&self, refusal: &Refusal) -> bool {
        self.version == refusal.version
            && (self.version.is_some() || self.why == refusal.why)
            && (self.used == refusal.used || refusal.used == Used::Old)
    }
}

/// What is to be said now, most of the time nothing. Whoever `asked` is told again.
fn sort(told: &mut BTreeMap<String, Told>, findings: &Findings, asked: bool, now: Instant) -> Vec<Said> {
    let mut said = Vec::new();
    let refused: BTreeSet<&String> = findings.refused.iter().map(|refusal| &refusal.secret.place.key).collect();
    told.retain(|key, told| {
        let lasts = refused.contains(key) || findings.unknown.contains(key);
        if !lasts {
            let seconds = now.duration_since(told.since).as_secs();
            said.push(Said::Over(format!("{key}: no value of it is refused any more, after {seconds} s")));
        }
        lasts
    });
    for refusal in &findings.refused {
        let key = &refusal.secret.place.key;
        let before = told.get(key);
        let recent = before.is_some_and(|told| now.duration_since(told.last) < REMINDER);
        if recent && !asked && before.is_some_and(|told| told.covers(refusal)) {
            continue;
        }
        let text = refusal.to_string();
        said.push(Said::Refused(text.clone()));
        let Refusal { version, why, used, .. } = refusal;
        let since = before.map_or(now, |told| told.since);
        let (version, why) = (version.clone(), why.clone());
        told.insert(key.clone(), Told { text, version, why, used: *used, since, last: now });
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Place;
    use crate::config::secret::SecretPlace;

    fn refused(version: &str, used: Used) -> Findings {
        let places = vec![SecretPlace::SecretsManager { name: "bot".to_owned(), key: None }];
        let secret = SecretRef { place: Place { line: 2, key: "discord.token".to_owned() }, places };
        let refusal = Refusal { secret, version: Some(version.to_owned()), why: "401".to_owned(), used };
        Findings { refused: vec![refusal], unknown: BTreeSet::new() }
    }

    #[test]
    fn a_refused_secret_is_told_once_a_day_and_when_it_is_over() {
        const LOOK: Duration = Duration::from_mins(5);
        let mut told = BTreeMap::new();
        let mut now = Instant::now();
        let mut said = Vec::new();
        for _ in 0..=2 * 24 * 12 {
            said.append(&mut sort(&mut told, &refused("v-2", Used::Old), false, now));
            now += LOOK;
        }
        let text = "discord.token: the new value of secret `bot` is refused, the old one stays in use: 401";
        assert_eq!(said, [text, text, text].map(|text| Said::Refused(text.to_owned())), "three in two days");
        // Out of reach for a while: nobody knows whether it is over.
        let unknown = Findings { unknown: BTreeSet::from(["discord.token".to_owned()]), ..Findings::default() };
        assert_eq!(sort(&mut told, &unknown, false, now), []);
        assert_eq!(sort(&mut told, &refused("v-2", Used::Old), false, now), []);
        // Another value is another matter, and so is another way out; and who asks is told.
        assert_eq!(sort(&mut told, &refused("v-3", Used::Old), false, now).len(), 1);
        assert_eq!(sort(&mut told, &refused("v-3", Used::Previous), false, now).len(), 1);
        assert_eq!(sort(&mut told, &refused("v-3", Used::Old), false, now), [], "which is the previous one");
        assert_eq!(sort(&mut told, &refused("v-3", Used::Previous), true, now).len(), 1);
        let over = Said::Over("discord.token: no value of it is refused any more, after 173100 s".to_owned());
        assert_eq!(sort(&mut told, &Findings::default(), false, now), [over]);
        assert_eq!(sort(&mut told, &Findings::default(), false, now), []);
    }
}
