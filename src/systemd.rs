//! What perch tells systemd and what systemd hands to it: sd_notify(3), sd_listen_fds(3). Without systemd nothing
//! happens.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use sd_notify::NotifyState;

/// Where systemd listens, as sd_notify(3) says.
const SOCKET: &str = "NOTIFY_SOCKET";
/// A manager that does not take a descriptor in this time shall not hold perch up.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

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

/// What systemd handed to perch at its start.
#[derive(Debug, Default)]
pub struct Passed {
    /// The listening TCP sockets, whatever their names.
    pub sockets: Vec<TcpListener>,
    /// What the process before gave to the file-descriptor store as [`SECRETS`]: nothing of it is checked.
    pub secrets: Vec<OwnedFd>,
}

/// Takes what systemd passed: the sockets first, then what is in the file-descriptor store (systemd.service(5),
/// `FileDescriptorStoreMax=`). To be called once.
#[must_use]
pub fn passed() -> Passed {
    let mut passed = Passed::default();
    for (descriptor, name) in descriptors() {
        let owned = crate::os::adopt(descriptor);
        if name == SECRETS {
            passed.secrets.push(owned);
            continue;
        }
        let listening = rustix::net::sockopt::socket_acceptconn(&owned).unwrap_or(false);
        let listener = TcpListener::from(owned);
        // systemd's sockets block, and one that is accepted from like that stops a thread of the runtime for ever.
        if listening && listener.local_addr().is_ok() && listener.set_nonblocking(true).is_ok() {
            passed.sockets.push(listener);
        } else {
            tracing::warn!(service = "supervisor", "descriptor {descriptor} from systemd is no listening TCP socket");
        }
    }
    passed
}

/// The descriptors with their names; where those are unusable, without.
fn descriptors() -> Vec<(RawFd, String)> {
    if let Ok(named) = sd_notify::listen_fds_with_names() {
        return named.collect();
    }
    match sd_notify::listen_fds() {
        Ok(descriptors) => descriptors.map(|descriptor| (descriptor, String::new())).collect(),
        Err(error) => {
            tracing::warn!(service = "supervisor", "what systemd passed can't be taken: {error}");
            Vec::new()
        }
    }
}

/// The name under which the file-descriptor store has perch's secrets.
pub const SECRETS: &str = "perch-secrets";

/// Whether there is somebody to keep descriptors. Whether they are kept is for the unit to say, and nobody tells.
#[must_use]
pub fn listens() -> bool {
    std::env::var_os(SOCKET).is_some()
}

/// Gives `memory` to the file-descriptor store in place of what it has as [`SECRETS`]; with nothing, takes that out.
///
/// # Errors
/// When the notify socket does not take it.
pub fn store_secrets(memory: Option<BorrowedFd<'_>>) -> std::io::Result<()> {
    let Some(path) = std::env::var_os(SOCKET) else { return Ok(()) };
    let socket = UnixDatagram::unbound()?;
    socket.connect(&path)?;
    socket.set_write_timeout(Some(STORE_TIMEOUT))?;
    // By itself, as a name is all that the store tells its descriptors apart by: the new one would go as well.
    socket.send(format!("FDSTOREREMOVE=1\nFDNAME={SECRETS}\n").as_bytes())?;
    let Some(memory) = memory else { return Ok(()) };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [memory];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(std::io::Error::other("there is no room for a descriptor"));
    }
    let text = format!("FDSTORE=1\nFDNAME={SECRETS}\nFDPOLL=0\n");
    rustix::net::sendmsg(&socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
