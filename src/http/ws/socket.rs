//! One WebSocket, from its handshake to its end, as one task that waits for everything at once: what the client sends,
//! what is said in its rooms, pieces of answers, room to send, the clock, and the listener's end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use futures_util::{Sink, Stream};
use governor::DefaultDirectRateLimiter;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::asks::{Ask, Told};
use super::frame;
use super::wire::Wire;
use super::{Visitor, name};
use crate::auth;
use crate::chat::PersonId;
use crate::http::chat::BODIES;
use crate::http::origins;
use crate::http::request_id::RequestId;
use crate::http::router::App;
use crate::rooms::{Behind, Bell, Membership, RoomName};
use crate::service::Departure;

mod end;
mod wishes;

use end::{CLOSING, Farewell, SIGNED_OUT, UNLISTED, farewell};

/// How long a client may be silent before it is asked whether it is still there, and how long it may take to say so.
const SILENCE: Duration = Duration::from_secs(25);
const PONG: Duration = Duration::from_secs(20);
/// How long a client may take nothing of what waits for it. It can then come back, and ask for what it has not had.
const STUCK: Duration = Duration::from_secs(15);

/// The library's buffer for what comes in, in bytes: most of what people say fits, and it grows for what does not.
const READ_BUFFER: usize = 512;
/// A message may be as large as a request's body, but no larger than this, in bytes.
const LARGEST: usize = 256 << 10;
/// No more than about this many bytes wait for a client, beside what it asked for itself.
const ENOUGH: usize = 16 << 10;
/// How often a client is sent so much before something else has its turn.
const TURNS: u32 = 8;
/// So much of a message that is still coming is not counted against what all of them may hold, in bytes.
const UNCOUNTED: usize = 4 << 10;

/// Serves a WebSocket until either side ends it. Once `leave` is cancelled it ends with the answers that are under way.
pub async fn serve(upgraded: Upgraded, app: App, visitor: Visitor, id: RequestId, leave: CancellationToken) {
    let most = app.live.borrow().config.http.as_ref().map_or(0, |http| http.max_body);
    let most = usize::try_from(most).unwrap_or(LARGEST).min(LARGEST);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(most))
        .max_frame_size(Some(most));
    let wire = Wire::new(TokioIo::new(upgraded));
    let stream = WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await;
    let _open = Open::new(&app);
    let departing = app.departure.borrow().is_some();
    let client = app.live.borrow().config.limits.client(visitor.address);
    let mut socket = Socket {
        stream,
        name: name::of(&visitor.asker.person).into(),
        visitor,
        id,
        bell: Arc::new(Bell::of(client)),
        rooms: Vec::new(),
        joins: 0,
        asks: Vec::new(),
        rate: wishes::rate(),
        patience: wishes::patience(),
        heard: Instant::now(),
        pinged: false,
        stuck: None,
        held: 0,
        departing,
        leaving: false,
        app,
    };
    if let Some((code, reason)) = socket.run(&leave).await {
        // With them end the requests to the model.
        socket.asks = Vec::new();
        socket.close(code, reason).await;
    }
}

/// What happens to a WebSocket.
enum Event {
    Came(Message),
    Told(usize, Told),
    /// A time has come: for a ping, or to give the other side up.
    Due,
    /// The listener is left.
    Leave,
    /// The other side is gone, or does not keep to the protocol.
    Ended(Option<Error>),
    /// More was said than is kept for it.
    Behind,
    /// More comes in from everybody than perch holds.
    Full,
}

struct Socket {
    stream: WebSocketStream<Wire<TokioIo<Upgraded>>>,
    app: App,
    visitor: Visitor,
    name: Box<str>,
    id: RequestId,
    bell: Arc<Bell>,
    rooms: Vec<(RoomName, Membership)>,
    /// How many rooms were joined, as far as that is counted.
    joins: u8,
    asks: Vec<Ask>,
    rate: DefaultDirectRateLimiter,
    patience: DefaultDirectRateLimiter,
    /// When something last came from the other side, and whether it was asked for a sign of life since.
    heard: Instant,
    pinged: bool,
    /// Since when the other side takes nothing of what waits for it.
    stuck: Option<Instant>,
    /// How much of a message that is still coming is counted against what all of them may hold.
    held: usize,
    /// The host was to go when it was opened already: there is nowhere else, or whoever comes would not be here.
    departing: bool,
    /// It ends with the answers that are under way.
    leaving: bool,
}

impl Socket {
    async fn run(&mut self, leave: &CancellationToken) -> Farewell {
        let leave = leave.cancelled();
        tokio::pin!(leave);
        // Those who come at once are not all pinged at once.
        let timer = sleep_until(Instant::now() + SILENCE.mul_f64(0.5 + fastrand::f64() / 2.0));
        tokio::pin!(timer);
        loop {
            let event = std::future::poll_fn(|context| self.poll(context, leave.as_mut(), timer.as_mut())).await;
            let farewell = match event {
                Event::Came(message) => self.take(message),
                Event::Told(index, told) => {
                    self.tell(index, told);
                    None
                }
                Event::Due => match self.due(timer.as_mut()) {
                    Ok(()) => None,
                    Err(farewell) => return farewell,
                },
                Event::Leave => {
                    self.leaving = true;
                    None
                }
                Event::Ended(None) => {
                    // The answer to its close frame.
                    drop(timeout(CLOSING, std::future::poll_fn(|context| self.wire().poll_send(context))).await);
                    return None;
                }
                Event::Ended(Some(error)) => return farewell(&error),
                Event::Behind => {
                    count(&self.app.requests.sockets.slow);
                    Some((CloseCode::Again, "too slow for what is said here; join again with the last id"))
                }
                Event::Full => Some((CloseCode::Again, "too much is coming in at the moment; try again shortly")),
            };
            if farewell.is_some() {
                return farewell;
            }
            if self.leaving && self.asks.is_empty() {
                return Some((CloseCode::Restart, self.why_leaving()));
            }
        }
    }

    fn why_leaving(&self) -> &'static str {
        if self.app.departure.borrow().as_ref().is_some_and(Departure::leaves_work) && !self.app.stop.is_cancelled() {
            "this host is to go; connect again, and another may answer"
        } else {
            "perch is restarting; connect again"
        }
    }

    fn person(&self) -> &PersonId {
        &self.visitor.asker.person
    }

    fn wire(&mut self) -> &mut Wire<TokioIo<Upgraded>> {
        self.stream.get_mut()
    }

    fn send(&mut self, frame: Bytes) {
        count(&self.app.requests.sockets.sent);
        self.wire().queue(frame);
    }

    // --- what is waited for ----------------------------------------------------------------------------------------

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        leave: Pin<&mut WaitForCancellationFuture<'_>>,
        mut timer: Pin<&mut Sleep>,
    ) -> Poll<Event> {
        // First, so that nothing is said between the look and the wait.
        self.bell.register(context.waker());
        let was_stuck = self.stuck.is_some();
        if let Some(event) = self.poll_send(context) {
            return Poll::Ready(event);
        }
        // Who does not take what they are sent is not listened to.
        if self.wire().waiting() < ENOUGH {
            match Pin::new(&mut self.stream).poll_next(context) {
                Poll::Ready(Some(Ok(message))) => return Poll::Ready(Event::Came(message)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Event::Ended(Some(error))),
                Poll::Ready(None) => return Poll::Ready(Event::Ended(None)),
                Poll::Pending => {}
            }
            if !self.hold() {
                return Poll::Ready(Event::Full);
            }
            for (index, ask) in self.asks.iter_mut().enumerate() {
                if let Poll::Ready(told) = ask.poll_told(context) {
                    return Poll::Ready(Event::Told(index, told));
                }
            }
            // The library may have answered a ping.
            if let Some(event) = self.poll_send(context) {
                return Poll::Ready(event);
            }
        }
        if let (Some(since), false) = (self.stuck, was_stuck) {
            let until = since + STUCK;
            if until < timer.deadline() {
                timer.as_mut().reset(until);
            }
        }
        if !self.leaving && leave.poll(context).is_ready() {
            return Poll::Ready(Event::Leave);
        }
        ready!(timer.poll(context));
        Poll::Ready(Event::Due)
    }

    /// Sends what waits and what was said in the rooms, as far as the other side takes it.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Option<Event> {
        for _ in 0..TURNS {
            if self.fill().is_err() {
                return Some(Event::Behind);
            }
            if self.wire().waiting() == 0 {
                self.stuck = None;
                return None;
            }
            let before = self.wire().waiting();
            match self.wire().poll_send(context) {
                Poll::Ready(Ok(())) => self.stuck = None,
                Poll::Ready(Err(error)) => return Some(Event::Ended(Some(Error::Io(error)))),
                Poll::Pending if self.wire().waiting() < before => {
                    self.stuck = Some(Instant::now());
                    return None;
                }
                Poll::Pending => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return None;
                }
            }
        }
        // There may be more; others first.
        context.waker().wake_by_ref();
        None
    }

    /// Puts what was said in the rooms in the row, as long as it is short.
    fn fill(&mut self) -> Result<(), Behind> {
        for index in 0..self.rooms.len() {
            loop {
                if self.stream.get_ref().waiting() >= ENOUGH {
                    return Ok(());
                }
                let (room, membership) = &mut self.rooms[index];
                let frame = if let Some(said) = membership.hear()? {
                    if said.reference.is_some() && said.by == self.visitor.asker.person {
                        frame::own(&said)
                    } else {
                        said.frame
                    }
                } else if let Some(members) = membership.members() {
                    frame::members(room, members)
                } else {
                    break;
                };
                self.send(frame);
            }
        }
        Ok(())
    }

    /// Counts what has come of a message that is not whole yet, and says whether there is room for it.
    fn hold(&mut self) -> bool {
        let now = self.stream.get_ref().unfinished.saturating_sub(UNCOUNTED);
        let all = &self.app.bodies;
        if now > self.held {
            let more = now - self.held;
            self.held = now;
            return all.fetch_add(more, Ordering::Relaxed) + more <= BODIES;
        }
        all.fetch_sub(self.held - now, Ordering::Relaxed);
        self.held = now;
        true
    }

    // --- what then happens ------------------------------------------------------------------------------------------

    /// Whether who is at the other side would be let in now: keys and sites are taken away, and tokens end.
    fn stands(&self) -> Result<(), Farewell> {
        let live = self.app.live.borrow();
        if !auth::stands(self.visitor.signed.as_ref(), &live) {
            return Err(SIGNED_OUT);
        }
        if self.visitor.site.as_deref().is_some_and(|site| !origins::listed(site, &live)) {
            return Err(UNLISTED);
        }
        Ok(())
    }

    fn due(&mut self, timer: Pin<&mut Sleep>) -> Result<(), Farewell> {
        let now = Instant::now();
        self.stands()?;
        let departing = self.app.departure.borrow().is_some();
        if departing && !self.departing {
            // Not all of them at once: each timer has its own moment.
            self.leaving = true;
        }
        self.departing &= departing;
        if self.stuck.is_some_and(|since| now >= since + STUCK) {
            count(&self.app.requests.sockets.slow);
            tracing::debug!(service = crate::http::NAME, "a WebSocket's reader took nothing for {} s", STUCK.as_secs());
            return Err(None);
        }
        let patience = if self.pinged { SILENCE + PONG } else { SILENCE };
        if now >= self.heard + patience {
            if self.pinged {
                count(&self.app.requests.sockets.silent);
                return Err(None);
            }
            self.pinged = true;
            // The library puts it in the row; it fails only where the connection is being closed already.
            drop(Pin::new(&mut self.stream).start_send(Message::Ping(Bytes::new())));
        }
        let patience = if self.pinged { SILENCE + PONG } else { SILENCE };
        let next = self.heard + patience;
        let stuck = self.stuck.map(|since| since + STUCK);
        timer.reset(stuck.map_or(next, |stuck| stuck.min(next)));
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.app.bodies.fetch_sub(self.held, Ordering::Relaxed);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts a WebSocket among those that are open, as long as it lives.
struct Open(App);

impl Open {
    fn new(app: &App) -> Open {
        count(&app.requests.sockets.open);
        count(&app.requests.sockets.opened);
        Open(Arc::clone(app))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.requests.sockets.open.fetch_sub(1, Ordering::Relaxed);
    }
}
