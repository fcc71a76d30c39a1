//! How a request came: over which connection, from where.

use std::net::SocketAddr;

/// The connection that a request came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The other end of the connection, which may be a proxy.
    pub peer: SocketAddr,
    /// TLS ends in perch itself.
    pub encrypted: bool,
}
