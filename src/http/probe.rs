//! Asking a listener as somebody outside would: does it take a connection, and does `/health` answer?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const QUESTION: &[u8] = b"GET /health HTTP/1.1\r\nHost: perch\r\nConnection: close\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 ";

/// Asks what listens at `address`.
///
/// # Errors
/// What came instead of a good answer.
pub async fn probe(address: SocketAddr) -> Result<(), String> {
    let mut answer = [0; ANSWER.len()];
    let exchange = async {
        let mut stream = TcpStream::connect(reachable(address)).await?;
        stream.write_all(QUESTION).await?;
        stream.read_exact(&mut answer).await
    };
    match exchange.await {
        Ok(_) if answer == ANSWER => Ok(()),
        Ok(_) => Err(format!("{address} answers perch's own probe with something else than 200")),
        Err(error) => Err(format!("{address} does not answer perch's own probe: {error}")),
    }
}

/// One of the addresses that `address` stands for.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
