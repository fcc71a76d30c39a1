//! Who the client is: the other end of the connection, or whom trusted proxies name.

use std::net::{IpAddr, Ipv4Addr};

use axum::http::Request;

use super::arrival::Arrival;

/// The client's address, an extension of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Puts the client's address into the request's extensions.
pub fn mark<B>(mut request: Request<B>) -> Request<B> {
    // Every connection says where it comes from; a request made up by a test may not.
    let peer = request.extensions().get::<Arrival>().map(|arrival| arrival.peer.ip());
    let address = peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into()).to_canonical();
    request.extensions_mut().insert(ClientAddress(address));
    request
}
