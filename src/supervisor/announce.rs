//! What systemd is told.

use std::collections::BTreeMap;

use super::machine::Name;
use super::{Supervisor, status};
use crate::service::{Departure, State};
use crate::systemd;

impl Supervisor {
    /// READY once it is true, and the line that `systemctl status` shows, when it is another one.
    pub(super) fn tell_systemd(&mut self) {
        let services = self.board.services();
        let draining = self.stop.is_cancelled();
        let config = self.report.config(|config| config.clone());
        if !self.ready
            && !draining
            && self.live.is_some()
            // Only listeners hold it back: it never waits for Discord.
            && services.get(crate::http::NAME).is_none_or(|http| http.state == State::Running)
        {
            self.ready = true;
            self.report.ready(self.departure.borrow().is_none());
            systemd::ready();
        }
        let line = status_line(&config, &services, self.departure.borrow().as_ref(), draining);
        if line != self.status_line {
            systemd::status(&line);
            self.status_line = line;
        }
    }
}

/// One line for people.
fn status_line(
    config: &status::ConfigStatus,
    services: &BTreeMap<Name, crate::service::Health>,
    departure: Option<&Departure>,
    draining: bool,
) -> String {
    if draining {
        return "draining: finishing what is in flight".to_owned();
    }
    let Some(version) = &config.version else {
        let what = if config.waiting_for.is_empty() { &config.source } else { &config.waiting_for };
        return format!("waiting for a configuration: {what}");
    };
    let services = services.iter().map(|(name, health)| match health.reason.as_str() {
        "" => format!("{name} {}", health.state),
        reason => format!("{name} {} ({reason})", health.state),
    });
    let mut line = format!("configuration {version}; {}", services.collect::<Vec<_>>().join(", "));
    if let Some(Departure { reason, .. }) = departure {
        line.insert_str(0, &format!("leaving: {reason}; "));
    }
    if let Some(refused) = &config.refused {
        line.push_str(&format!("; newer version {} refused", refused.version));
    }
    if config.trouble.is_some() {
        line.push_str(&format!("; {} can't be read", config.source));
    }
    line
}
