//! Binding a listening socket, and saying well why it can't be done.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

/// How many connections may wait to be accepted; the kernel caps it at net.core.somaxconn.
pub const BACKLOG: i32 = 4096;

/// Binds `address`, without SO_REUSEPORT so that an address in use is noticed. `own` is what perch listens on now.
pub fn bind(address: SocketAddr, own: impl Iterator<Item = SocketAddr>) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).map_err(|error| explain(address, &error, own))?;
    rustix::net::listen(&listener, BACKLOG)
        .map_err(std::io::Error::from)
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(|error| format!("{address} can't be listened on: {error}"))?;
    Ok(listener)
}

fn explain(address: SocketAddr, error: &std::io::Error, mut own: impl Iterator<Item = SocketAddr>) -> String {
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => match own.find(|own| own.port() == port) {
            Some(own) => format!(
                "{address} overlaps {own}, which perch itself listens on now; go by way of another port, or restart \
                 perch with the new address"
            ),
            None => format!(
                "{address} is taken by another process; see which with `ss -ltnp 'sport = :{port}'`, end it or choose \
                 another port"
            ),
        },
        ErrorKind::PermissionDenied if port < 1024 => format!(
            "{address} can't be bound: ports under 1024 need CAP_NET_BIND_SERVICE or a socket that systemd opens"
        ),
        ErrorKind::AddrNotAvailable => {
            format!("{address} is no address of this host; see `ip address`, or write 0.0.0.0:{port}")
        }
        _ => format!("{address} can't be bound: {error}"),
    }
}
