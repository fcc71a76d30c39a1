//! What perch tells systemd and what systemd hands to it: sd_notify(3), sd_listen_fds(3). Without systemd nothing
//! happens.

use std::net::TcpListener;
use std::os::fd::RawFd;
use std::time::Duration;

use sd_notify::NotifyState;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(service = "supervisor", "the notify socket took nothing: {error}");
    }
}

/// The first configuration is applied and the listeners accept, or a reload is over.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// A reload begins. systemd wants to know when, to tell this one from an earlier one.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(service = "supervisor", "the monotonic clock can't be read: {error}"),
    }
}

/// The drain begins.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// A line for people in `systemctl status`.
pub fn status(text: &str) {
    // A line end would begin another assignment.
    notify(&[NotifyState::Status(&text.replace(['\n', '\r'], " "))]);
}

/// perch needs this much longer to start.
pub fn extend_start(by: Duration) {
    notify(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// The supervisor's loop is alive.
pub fn watchdog() {
    notify(&[NotifyState::Watchdog]);
}

/// How often the watchdog wants to hear, if there is one: at half of what it waits, as sd_watchdog_enabled(3) advises.
#[must_use]
pub fn watchdog_pace() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// The listening TCP sockets that systemd opened for perch, whatever their names.
#[must_use]
pub fn sockets() -> Vec<TcpListener> {
    let descriptors: Vec<RawFd> = match sd_notify::listen_fds() {
        Ok(descriptors) => descriptors.collect(),
        Err(error) => {
            tracing::warn!(service = "supervisor", "the sockets that systemd passed can't be taken: {error}");
            return Vec::new();
        }
    };
    descriptors.into_iter().filter_map(crate::os::adopt_listener).collect()
}
