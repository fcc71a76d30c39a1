//! What the instance metadata service announces of the instance's end.
//!
//! Sources: Amazon EC2 User Guide, "Spot Instance interruption notices" (`spot/instance-action`, to be asked for every
//! 5 s) and "EC2 instance rebalance recommendations" (`events/recommendations/rebalance`); Amazon EC2 Auto Scaling User
//! Guide, "Retrieve the target lifecycle state through instance metadata". What is not announced is answered with 404.

use std::time::{Duration, SystemTime};

use aws_config::imds;
use aws_config::imds::client::error::ImdsError;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::Deserialize;

use crate::service::{Departure, Notice};

/// The most pressing first: it is the one that is told where several are there.
const PLACES: [(Notice, &str); 3] = [
    (Notice::SpotInterruption, "/latest/meta-data/spot/instance-action"),
    (Notice::AutoScaling, "/latest/meta-data/autoscaling/target-lifecycle-state"),
    (Notice::Rebalance, "/latest/meta-data/events/recommendations/rebalance"),
];
/// The whole of one question, with the token it may need.
const TIMEOUT: Duration = Duration::from_secs(2);
/// As often as EC2 recommends.
const PACE: Duration = Duration::from_secs(5);
/// Where no metadata service has answered yet, the wait doubles up to this: most likely this is no EC2 instance, and if it
/// is, an interruption is announced two minutes before it comes.
const LONGEST_PACE: Duration = Duration::from_secs(30);
const NOT_FOUND: u16 = 404;

/// What is announced, asked for again and again.
pub(crate) struct Announcements {
    client: imds::Client,
    /// The last answer of each place. No answer changes nothing.
    known: [Option<Departure>; PLACES.len()],
    answered: bool,
    pace: Duration,
}

impl Announcements {
    pub(super) fn new(client: imds::Client) -> Self {
        Announcements { client, known: Default::default(), answered: false, pace: PACE }
    }

    /// Asks once for each of them, and returns what is announced, as far as there are answers.
    pub(crate) async fn look(&mut self) -> Option<Departure> {
        let ask = |index: usize| ask(&self.client, PLACES[index]);
        let answers: [Answer; PLACES.len()] = tokio::join!(ask(0), ask(1), ask(2)).into();
        for (known, answer) in self.known.iter_mut().zip(answers) {
            match answer {
                Answer::Announced(departure) => *known = Some(departure),
                Answer::Nothing => *known = None,
                Answer::Missing => continue,
            }
            self.answered = true;
        }
        self.known.iter().flatten().next().cloned()
    }

    /// How long to wait before the next question.
    pub(crate) fn pause(&mut self) -> Duration {
        if self.answered {
            return PACE;
        }
        let pause = self.pace;
        self.pace = (pause * 2).min(LONGEST_PACE);
        pause
    }
}

enum Answer {
    Announced(Departure),
    Nothing,
    /// There was none, or none that can be read.
    Missing,
}

async fn ask(client: &imds::Client, (notice, path): (Notice, &'static str)) -> Answer {
    match tokio::time::timeout(TIMEOUT, client.get(path)).await {
        Ok(Ok(text)) => read(notice, text.as_ref()),
        Ok(Err(ImdsError::ErrorResponse(answer))) if answer.response().status().as_u16() == NOT_FOUND => {
            Answer::Nothing
        }
        Ok(Err(_)) | Err(_) => Answer::Missing,
    }
}

#[derive(Deserialize)]
struct Interruption {
    /// `terminate`, `stop` or `hibernate`.
    action: String,
    /// In UTC; a hibernation begins at once.
    time: Option<String>,
}

#[derive(Deserialize)]
struct Recommendation {
    /// When it was given, in UTC.
    #[serde(rename = "noticeTime")]
    notice_time: String,
}

fn read(notice: Notice, text: &str) -> Answer {
    let text = text.trim();
    let (at, reason) = match notice {
        Notice::SpotInterruption => {
            let Ok(Interruption { action, time }) = serde_json::from_str(text) else { return Answer::Missing };
            let verb = match action.as_str() {
                "terminate" => "terminates",
                "stop" => "stops",
                "hibernate" => "hibernates",
                _ => "interrupts",
            };
            let at = time.as_deref().and_then(moment);
            let when = at.and(time).map_or_else(|| "now".to_owned(), |time| format!("at {time}"));
            (at, format!("EC2 {verb} this spot instance {when}"))
        }
        Notice::AutoScaling => match text {
            "Terminated" | "Warmed:Terminated" => {
                (None, format!("Auto Scaling terminates this instance once its lifecycle hooks are done ({text})"))
            }
            "Warmed:Stopped" | "Warmed:Hibernated" => {
                (None, format!("Auto Scaling puts this instance into its warm pool ({text})"))
            }
            // Source: Auto Scaling User Guide, "Retrieve the target lifecycle state through instance metadata". In these the
            // instance goes on running.
            "InService" | "Detached" | "Standby" | "Warmed:Running" => return Answer::Nothing,
            _ => return Answer::Missing,
        },
        // perch's own, of which AWS knows nothing.
        Notice::Termination => return Answer::Nothing,
        Notice::Rebalance => {
            let Ok(Recommendation { notice_time }) = serde_json::from_str(text) else { return Answer::Missing };
            let since = moment(&notice_time).map_or_else(String::new, |_| format!(" (since {notice_time})"));
            (None, format!("EC2 recommends to replace this spot instance, which it may take back soon{since}"))
        }
    };
    Answer::Announced(Departure { notice, at, reason })
}

fn moment(text: &str) -> Option<SystemTime> {
    DateTime::from_str(text, Format::DateTime).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(notice: Notice, text: &str) -> Option<(String, Option<u64>)> {
        let Answer::Announced(departure) = read(notice, text) else { return None };
        let seconds = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        Some((departure.reason, departure.at.map(seconds)))
    }

    #[test]
    fn announcements_are_read_as_the_documentation_writes_them() {
        let spot = |text| told(Notice::SpotInterruption, text);
        assert_eq!(
            spot(r#"{"action": "stop", "time": "2017-09-18T08:22:00Z"}"#),
            Some(("EC2 stops this spot instance at 2017-09-18T08:22:00Z".to_owned(), Some(1_505_722_920)))
        );
        assert_eq!(
            spot(r#"{"action": "hibernate"}"#),
            Some(("EC2 hibernates this spot instance now".to_owned(), None))
        );
        assert_eq!(
            told(Notice::Rebalance, r#"{"noticeTime": "2020-10-26T21:06:20Z"}"#).map(|(reason, _)| reason).as_deref(),
            Some(
                "EC2 recommends to replace this spot instance, which it may take back soon (since 2020-10-26T21:06:20Z)"
            )
        );
        let leaves = |state: &&str| told(Notice::AutoScaling, state).is_some();
        let states = [
            "InService",
            "Terminated",
            "Detached",
            "Standby",
            "Warmed:Hibernated",
            "Warmed:Running",
            "Warmed:Stopped",
            "Warmed:Terminated",
        ];
        let leaving: Vec<_> = states.into_iter().filter(leaves).collect();
        assert_eq!(leaving, ["Terminated", "Warmed:Hibernated", "Warmed:Stopped", "Warmed:Terminated"]);
    }

    #[test]
    fn somebody_elses_page_in_the_place_of_a_notice_sends_nobody_away() {
        for notice in [Notice::SpotInterruption, Notice::AutoScaling, Notice::Rebalance] {
            // Nor does it bring anybody back.
            assert!(matches!(read(notice, "<html>please log in</html>"), Answer::Missing));
        }
    }
}
