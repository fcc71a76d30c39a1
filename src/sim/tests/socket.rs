//! A WebSocket client (RFC 6455) that sends what it is told, rules or not.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::sim::{DEFAULT_TOKEN, Simulator};

/// What the gateway did last.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Payload(Value),
    Closed(u16),
    /// The connection ended without a close frame.
    Cut,
}

pub struct Socket(TcpStream);

impl Socket {
    /// Connects, without waiting for HELLO. `None` when the handshake is refused.
    pub async fn connect(simulator: &Simulator, path: &str) -> Option<Self> {
        let mut stream = TcpStream::connect(simulator.shared.plain).await.unwrap();
        // Two small frames in a row must not wait for each other's acknowledgement.
        stream.set_nodelay(true).unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: simulator\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        head.starts_with(b"HTTP/1.1 101").then_some(Self(stream))
    }

    /// Connects as the documentation says, and takes HELLO.
    pub async fn open(simulator: &Simulator) -> Self {
        let mut socket = Self::connect(simulator, "/gateway?v=10&encoding=json").await.unwrap();
        let Heard::Payload(hello) = socket.hear().await else { panic!("no HELLO") };
        assert_eq!(hello["op"], 10);
        socket
    }

    /// Connects and identifies. READY is still to be heard.
    pub async fn identified(simulator: &Simulator) -> Self {
        let mut socket = Self::open(simulator).await;
        socket.say(identify()).await;
        socket
    }

    pub async fn say(&mut self, payload: Value) {
        self.frame(1, payload.to_string().as_bytes()).await;
    }

    /// A frame masked with zeros, which leaves the payload as it is.
    pub async fn frame(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | kind];
        match u16::try_from(payload.len()).unwrap() {
            short @ 0..126 => frame.push(0x80 | u8::try_from(short).unwrap()),
            long => {
                frame.push(0x80 | 0x7e);
                frame.extend(long.to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    pub async fn hear(&mut self) -> Heard {
        tokio::time::timeout(Duration::from_secs(5), self.read()).await.expect("the gateway says something")
    }

    /// The next payload with this op.
    pub async fn hear_op(&mut self, op: u64) -> Value {
        loop {
            match self.hear().await {
                Heard::Payload(payload) if payload["op"] == op => return payload,
                Heard::Payload(_) => {}
                ended => panic!("{ended:?} before op {op}"),
            }
        }
    }

    /// How the connection ends.
    pub async fn end(&mut self) -> Heard {
        loop {
            match self.hear().await {
                Heard::Payload(_) => {}
                ended => return ended,
            }
        }
    }

    async fn read(&mut self) -> Heard {
        loop {
            let Ok((kind, payload)) = self.read_frame().await else { return Heard::Cut };
            match kind {
                1 => return Heard::Payload(serde_json::from_slice(&payload).unwrap()),
                8 => return Heard::Closed(u16::from_be_bytes([payload[0], payload[1]])),
                _ => {}
            }
        }
    }

    async fn read_frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let kind = self.0.read_u8().await? & 0x0f;
        let length = match self.0.read_u8().await? {
            126 => u64::from(self.0.read_u16().await?),
            127 => self.0.read_u64().await?,
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await?;
        Ok((kind, payload))
    }
}

/// The smallest IDENTIFY for what perch asks for.
pub fn identify() -> Value {
    let properties = json!({ "os": "linux", "browser": "test", "device": "test" });
    json!({ "op": 2, "d": { "token": DEFAULT_TOKEN, "intents": 1 | 1 << 9 | 1 << 12, "properties": properties } })
}
