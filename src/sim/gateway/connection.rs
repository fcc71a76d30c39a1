//! One WebSocket connection from HELLO to its end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::handshake::{self, Answer};
use super::{Door, VERSION, close};
use crate::sim::faults::{Fault, When};
use crate::sim::snowflake::now_ms;
use crate::sim::state::{Connection, Outgoing, Phase, Shared};

/// "Apps can send 120 gateway events per connection every 60 seconds." Source: Gateway, "Rate Limiting".
const EVENTS_ALLOWED: usize = 120;
const EVENTS_WINDOW: Duration = Duration::from_mins(1);

/// "Must not exceed 4096 bytes." Source: Gateway, "Sending Events".
const PAYLOAD_LIMIT: usize = 4096;

/// How long a peer may take to answer our close frame.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Whether the connection goes on.
type Flow = std::ops::ControlFlow<End>;

/// How a connection ends.
enum End {
    /// We close it with a code.
    Close(u16, String),
    /// Without a close frame.
    Cut,
    /// The peer closed it, with this code if it named one.
    Left(Option<u16>),
}

fn closing(code: u16, reason: &str) -> Flow {
    Flow::Break(End::Close(code, reason.to_owned()))
}

/// Runs a connection until either side ends it or the simulator stops.
pub async fn serve(shared: Arc<Shared>, mut socket: WebSocket, door: Door, query: &HashMap<String, String>) {
    let (outgoing, inbox) = mpsc::unbounded_channel();
    let mut task = Task::enter(Arc::clone(&shared), door, outgoing);
    let end = tokio::select! {
        () = shared.shutdown.cancelled() => End::Cut,
        end = task.run(&mut socket, inbox, query) => end,
    };
    task.leave(&end);
    if !matches!(end, End::Cut) {
        let goodbye = goodbye(&mut socket, &end);
        tokio::select! {
            () = shared.shutdown.cancelled() => {}
            _ = tokio::time::timeout(CLOSE_PATIENCE, goodbye) => {}
        }
    }
}

/// Sends our close frame if the end is ours, and reads on until both have been through: the peer's is answered while
/// reading.
async fn goodbye(socket: &mut WebSocket, end: &End) {
    if let End::Close(code, reason) = end {
        let frame = CloseFrame { code: *code, reason: reason.as_str().into() };
        if socket.send(Frame::Close(Some(frame))).await.is_err() {
            return;
        }
    }
    while let Some(Ok(_)) = socket.recv().await {}
}

struct Task {
    shared: Arc<Shared>,
    id: u64,
    door: Door,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    /// An IDENTIFY that is answered later, and when.
    waiting: Option<(Instant, Value)>,
    received: VecDeque<Instant>,
    heartbeat_due: Instant,
    pinged_at: Option<Instant>,
}

impl Task {
    fn enter(shared: Arc<Shared>, door: Door, outgoing: mpsc::UnboundedSender<Outgoing>) -> Self {
        let mut state = shared.state();
        state.counters.connections += 1;
        let id = state.counters.connections;
        state.connections.insert(
            id,
            Connection {
                id,
                phase: Phase::Greeting,
                since_ms: now_ms(),
                session: None,
                heartbeats: 0,
                latency_ms: None,
                outgoing: outgoing.clone(),
            },
        );
        state.gateway_changed();
        drop(state);
        let heartbeat_due = Instant::now() + patience(&shared);
        Self { shared, id, door, outgoing, waiting: None, received: VecDeque::new(), heartbeat_due, pinged_at: None }
    }

    fn leave(&self, end: &End) {
        let mut state = self.shared.state();
        if let End::Left(Some(code)) = end {
            *state.counters.closed_by_client.entry(*code).or_default() += 1;
        }
        let session = state.connections.remove(&self.id).and_then(|connection| connection.session);
        if let Some(session) = session {
            // 1000 and 1001 from the client invalidate the session. Source: Gateway, "Initiating a Disconnect".
            // The codes after which a new session must be started are Discord's own.
            let over = matches!(
                end,
                End::Left(Some(1000 | 1001))
                    | End::Close(close::INVALID_SEQUENCE | close::SESSION_TIMED_OUT | close::AUTHENTICATION_FAILED, _)
            );
            if over {
                state.sessions.remove(&session);
            } else {
                state.sessions.leave(&session, self.id);
            }
        }
        state.gateway_changed();
    }

    async fn run(
        &mut self,
        socket: &mut WebSocket,
        mut inbox: mpsc::UnboundedReceiver<Outgoing>,
        query: &HashMap<String, String>,
    ) -> End {
        if let Flow::Break(end) = self.greet(socket, query).await {
            return end;
        }
        loop {
            let identify_at = self.waiting.as_ref().map(|(at, _)| *at);
            let flow = tokio::select! {
                // What is queued goes out before anything new is read, so that answers keep their order.
                biased;
                told = inbox.recv() => match told {
                    Some(Outgoing::Text(text)) => send(socket, text).await,
                    Some(Outgoing::Close(code, reason)) => Flow::Break(End::Close(code, reason)),
                    Some(Outgoing::Cut) | None => Flow::Break(End::Cut),
                },
                frame = socket.recv() => match frame {
                    Some(Ok(frame)) => self.frame(socket, frame).await,
                    Some(Err(_)) | None => Flow::Break(End::Left(None)),
                },
                () = sleep_until(identify_at.unwrap_or(self.heartbeat_due)), if identify_at.is_some() => {
                    self.identify_now()
                }
                () = sleep_until(self.heartbeat_due) => {
                    self.shared.state().violation("no heartbeat in one and a half intervals");
                    closing(close::SESSION_TIMED_OUT, "Session timed out.")
                }
            };
            if let Flow::Break(end) = flow {
                return end;
            }
        }
    }

    /// HELLO, or what a fault puts in its place.
    async fn greet(&mut self, socket: &mut WebSocket, query: &HashMap<String, String>) -> Flow {
        let struck = self.shared.state().faults.strike(|fault| {
            let hello = matches!(fault, Fault::NoHello {});
            (hello || fault.when() == Some(When::Connect)).then(|| fault.clone())
        });
        match struck {
            Some(Fault::NoHello {}) => return Flow::Continue(()),
            Some(Fault::Close { code, reason, .. }) => return closing(code, &reason),
            Some(Fault::Cut { .. }) => return Flow::Break(End::Cut),
            Some(Fault::Reconnect { .. }) => return send(socket, reconnect()).await,
            Some(Fault::InvalidSession { resumable, .. }) => return send(socket, invalid_session(resumable)).await,
            _ => {}
        }
        if query.get("v").is_none_or(|version| version != VERSION) {
            self.shared.state().violation("connected without v=10");
            return closing(close::INVALID_VERSION, "Invalid API version.");
        }
        if query.get("encoding").is_some_and(|encoding| encoding != "json") {
            return closing(close::DECODE_ERROR, "Only encoding=json is spoken here.");
        }
        let interval = u64::try_from(self.shared.options.heartbeat_interval.as_millis()).unwrap_or(u64::MAX);
        let hello = json!({ "op": 10, "t": null, "s": null, "d": { "heartbeat_interval": interval, "_trace": [] } });
        send(socket, hello.to_string()).await?;
        self.ping(socket).await
    }

    async fn frame(&mut self, socket: &mut WebSocket, frame: Frame) -> Flow {
        match frame {
            Frame::Text(text) => {
                self.count()?;
                let payload =
                    (text.len() <= PAYLOAD_LIMIT).then(|| serde_json::from_str::<Value>(&text).ok()).flatten();
                let Some((op, data)) = payload.as_ref().and_then(|it| Some((it.get("op")?.as_u64()?, it.get("d"))))
                else {
                    self.shared
                        .state()
                        .violation("sent a payload that is not JSON with an op, or longer than 4096 bytes");
                    return closing(close::DECODE_ERROR, "Error while decoding payload.");
                };
                self.payload(socket, op, data.unwrap_or(&Value::Null)).await
            }
            Frame::Binary(_) => {
                self.shared.state().violation("sent a binary frame with encoding=json");
                closing(close::DECODE_ERROR, "Error while decoding payload.")
            }
            Frame::Close(frame) => Flow::Break(End::Left(frame.map(|frame| frame.code))),
            Frame::Pong(_) => {
                self.ponged();
                Flow::Continue(())
            }
            Frame::Ping(_) => Flow::Continue(()),
        }
    }

    fn count(&mut self) -> Flow {
        let now = Instant::now();
        self.received.retain(|at| now - *at < EVENTS_WINDOW);
        self.received.push_back(now);
        if self.received.len() > EVENTS_ALLOWED {
            self.shared.state().violation("sent more than 120 payloads in 60 seconds");
            return closing(close::RATE_LIMITED, "Rate limited.");
        }
        Flow::Continue(())
    }

    async fn payload(&mut self, socket: &mut WebSocket, op: u64, data: &Value) -> Flow {
        let phase = self.shared.state().connections.get(&self.id).map(|connection| connection.phase);
        match (op, phase) {
            (1, _) => self.heartbeat(socket).await,
            (2 | 6, Some(Phase::Identifying | Phase::Ready)) => {
                self.shared.state().violation("identified or resumed twice on one connection");
                closing(close::ALREADY_AUTHENTICATED, "Already authenticated.")
            }
            (2, _) => self.identify(data),
            (6, _) => {
                let answer =
                    handshake::resume(&mut self.shared.state(), self.id, self.door, data, self.outgoing.clone());
                self.answered(answer)
            }
            (3 | 4 | 8 | 31 | 43, Some(Phase::Ready)) => Flow::Continue(()),
            (3 | 4 | 8 | 31 | 43, _) => {
                self.shared.state().violation(format!("sent op {op} before IDENTIFY"));
                closing(close::NOT_AUTHENTICATED, "Not authenticated.")
            }
            _ => {
                self.shared.state().violation(format!("sent op {op}, which clients do not send"));
                closing(close::UNKNOWN_OPCODE, "Unknown opcode.")
            }
        }
    }

    async fn heartbeat(&mut self, socket: &mut WebSocket) -> Flow {
        self.heartbeat_due = Instant::now() + patience(&self.shared);
        let acknowledged = {
            let mut state = self.shared.state();
            state.counters.heartbeats += 1;
            if let Some(connection) = state.connections.get_mut(&self.id) {
                connection.heartbeats += 1;
            }
            let silent = state.faults.strike(|fault| matches!(fault, Fault::NoAck {}).then_some(()));
            state.gateway_changed();
            silent.is_none()
        };
        if !acknowledged {
            return Flow::Continue(());
        }
        send(socket, json!({ "op": 11, "t": null, "s": null, "d": null }).to_string()).await?;
        self.ping(socket).await
    }

    /// Takes an IDENTIFY in; it is answered now, or later when a fault slows READY down, or never.
    fn identify(&mut self, data: &Value) -> Flow {
        let mut state = self.shared.state();
        if let Some(answer) = handshake::count_identify(&mut state, self.door) {
            drop(state);
            return self.answered(answer);
        }
        let wait = state.faults.strike(|fault| match fault {
            Fault::NoReady {} => Some(None),
            Fault::SlowReady { ms } => Some(Some(Duration::from_millis(*ms))),
            _ => None,
        });
        if let Some(connection) = state.connections.get_mut(&self.id) {
            connection.phase = Phase::Identifying;
        }
        drop(state);
        match wait {
            None => {
                self.waiting = Some((Instant::now(), data.clone()));
                self.identify_now()
            }
            Some(Some(wait)) => {
                self.waiting = Some((Instant::now() + wait, data.clone()));
                Flow::Continue(())
            }
            Some(None) => Flow::Continue(()),
        }
    }

    fn identify_now(&mut self) -> Flow {
        let Some((_, data)) = self.waiting.take() else { return Flow::Continue(()) };
        let resume_url = self.shared.resume_gateway_url();
        let answer = handshake::identify(&mut self.shared.state(), self.id, &data, &resume_url, self.outgoing.clone());
        self.answered(answer)
    }

    fn answered(&mut self, answer: Answer) -> Flow {
        let mut state = self.shared.state();
        let phase = match &answer {
            Answer::Ready(_) => Phase::Ready,
            _ => Phase::Greeting,
        };
        if let Some(connection) = state.connections.get_mut(&self.id) {
            connection.phase = phase;
            if let Answer::Ready(session) = &answer {
                connection.session = Some(session.clone());
            }
        }
        state.gateway_changed();
        drop(state);
        let text = match answer {
            Answer::Ready(_) => return Flow::Continue(()),
            Answer::Close(code, reason) => return Flow::Break(End::Close(code, reason)),
            Answer::Cut => return Flow::Break(End::Cut),
            Answer::InvalidSession { resumable } => invalid_session(resumable),
            Answer::Reconnect => reconnect(),
        };
        // The receiver is held by `run`, which calls this.
        drop(self.outgoing.send(Outgoing::Text(text)));
        Flow::Continue(())
    }

    /// A WebSocket ping, whose answer tells the latency without disturbing the heartbeats.
    async fn ping(&mut self, socket: &mut WebSocket) -> Flow {
        self.pinged_at = Some(Instant::now());
        match socket.send(Frame::Ping(Bytes::new())).await {
            Ok(()) => Flow::Continue(()),
            Err(_) => Flow::Break(End::Left(None)),
        }
    }

    fn ponged(&mut self) {
        let Some(pinged_at) = self.pinged_at.take() else { return };
        let mut state = self.shared.state();
        if let Some(connection) = state.connections.get_mut(&self.id) {
            connection.latency_ms = Some(pinged_at.elapsed().as_secs_f64() * 1000.0);
        }
        state.gateway_changed();
    }
}

/// How long a connection may go without a heartbeat: one and a half intervals, as the first one comes after a random
/// part of an interval and networks are slow.
fn patience(shared: &Shared) -> Duration {
    shared.options.heartbeat_interval * 3 / 2
}

async fn send(socket: &mut WebSocket, text: String) -> Flow {
    match socket.send(Frame::Text(text.into())).await {
        Ok(()) => Flow::Continue(()),
        Err(_) => Flow::Break(End::Left(None)),
    }
}

/// Op 7. Source: gateway events, "Reconnect".
pub fn reconnect() -> String {
    json!({ "op": 7, "t": null, "s": null, "d": null }).to_string()
}

/// Op 9. Source: gateway events, "Invalid Session".
pub fn invalid_session(resumable: bool) -> String {
    json!({ "op": 9, "t": null, "s": null, "d": resumable }).to_string()
}

/// Op 1 from the server: the client should send a heartbeat at once. Source: Gateway, "Heartbeat Requests".
pub fn heartbeat_request() -> String {
    json!({ "op": 1, "t": null, "s": null, "d": null }).to_string()
}
