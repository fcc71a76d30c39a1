//! One connection, from its first byte to its last: HTTP/1.1 or HTTP/2, idle, busy, and let finish.

use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use futures_util::future::BoxFuture;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::emptied::Emptied;
use super::afterwards::Afterwards;
use super::arrival::Arrival;
use super::patience::Patient;
use super::unreadable::{self, Reworded};
use crate::limits::Seat;
use crate::telemetry::panics;

mod emptied;

/// The longest head of a request, in bytes, and what is held of a connection's bytes at most in HTTP/1.
pub const LONGEST_HEAD: usize = 32 << 10;
/// How long a connection without a request is kept once its listener is left: one may be on its way, and closing
/// before it comes would lose it. Its answer then says that the connection is over.
const LAST_REQUEST: Duration = Duration::from_millis(500);
/// How long the rest of a request's head may take to come after that; and how long a client of HTTP/2 that has all its
/// answers may take to say that it heard that the connection is over.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// How many requests a client of HTTP/2 may have in flight on one connection: as many as RFC 9113, section 6.5.2,
/// wants at least, and more than a page or a proxy asks for at once.
const STREAMS: u32 = 100;
/// How many requests may be taken back before they were looked at. More of them is the rapid reset attack
/// (CVE-2023-44487), and ends the connection.
const RESET_UNSEEN: usize = 20;
/// How many requests may break the protocol, each of which is remembered for a while, before that ends the connection
/// (CVE-2025-8671).
const RESET_BROKEN: usize = 64;
/// How large a request's head may be, in bytes, counted as RFC 9113, section 6.5.2, does, with 32 for each of 100 headers:
/// what is longer than [`LONGEST_HEAD`] and comes by here is told so, and what does not by h2 ([`unreadable`]). h2 counts what comes in CONTINUATION frames as well
/// (CVE-2024-27316).
const HEAD: u32 = 36 << 10;
/// How much of one request, and of all of a connection, is taken before somebody reads it, in bytes: enough for 1 MiB/s
/// from 100 ms away, and little beside what thousands of connections take.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// How much of an answer waits for a client that reads slowly, in bytes; the next piece is made when there is room.
const SEND_BUFFER: usize = 64 << 10;

/// How long a client of HTTP/2 may take nothing of an answer that has something for it. One whose model is thinking has
/// nothing, and may be quiet for as long as it likes. In HTTP/1 the kernel watches ([`super::connections`]).
const UNTAKEN_TIMEOUT: Duration = Duration::from_secs(60);
/// An answer leaves in pieces of this many bytes, each when there is room for the first byte of it, and its last bytes apart:
/// h2 keeps a piece until the client takes it, also when the answer has ended here.
const PIECE: usize = 16 << 10;
const LAST_PIECE: usize = 1 << 10;

tokio::task_local! {
    /// Of the request of HTTP/2 that a task is about.
    static TAKING: Arc<Taking>;
}

/// What answers requests. Whatever is behind it, connections are made of the same code.
#[derive(Clone)]
pub struct Answerer(Arc<Answers>);

type Answers = dyn Fn(Request<Body>, Arrival, Afterwards) -> BoxFuture<'static, Response<Body>> + Send + Sync;

impl Answerer {
    pub fn new<F>(answer: impl Fn(Request<Body>, Arrival, Afterwards) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Answerer(Arc::new(move |request, arrival, afterwards| Box::pin(answer(request, arrival, afterwards))))
    }
}

/// What was agreed on in the TLS handshake (ALPN). Without TLS it is HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// The bytes of a connection. It keeps its place among all connections for as long as somebody holds it: also as a
/// WebSocket.
pub struct Stream {
    bytes: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    _place: Place,
}

/// One place among all connections, and one among those of its client.
pub struct Place {
    pub _permit: Option<OwnedSemaphorePermit>,
    pub _seat: Seat,
}

impl Stream {
    pub fn plain(stream: TcpStream, place: Place) -> Stream {
        Stream { bytes: Either::Left(stream), _place: place }
    }

    pub fn encrypted(stream: TlsStream<TcpStream>, place: Place) -> Stream {
        Stream { bytes: Either::Right(Box::new(stream)), _place: place }
    }
}

/// Serves one connection until it ends; from `leave` on, until it has its last answers.
/// Between its requests it may be `idle` for so long.
pub async fn serve(
    stream: Stream,
    protocol: Protocol,
    arrival: Arrival,
    idle: Duration,
    app: Answerer,
    leave: CancellationToken,
) {
    let afterwards = Afterwards::default();
    // In a box of its own, as what comes afterwards needs little of it.
    Box::pin(requests(stream, protocol, arrival, idle, app, afterwards.clone(), leave.clone())).await;
    if let Some(work) = afterwards.take() {
        work(leave).await;
    }
}

/// The requests of one connection, until it ends or is upgraded.
async fn requests(
    stream: Stream,
    protocol: Protocol,
    arrival: Arrival,
    idle: Duration,
    app: Answerer,
    afterwards: Afterwards,
    leave: CancellationToken,
) {
    let busy = Arc::new(Busy::new(leave));
    // Those of the requests of HTTP/2; in HTTP/1 there are none.
    let tasks = (protocol == Protocol::Http2).then(TaskTracker::new);
    let service = {
        let (busy, tasks) = (Arc::clone(&busy), tasks.clone());
        service_fn(move |request: Request<Incoming>| {
            busy.begin();
            let version = request.version();
            let request = request.map(|body| match &tasks {
                None => Read::body(body, &busy),
                Some(tasks) => Emptied::body(body, tasks),
            });
            // However the answer ends, or is given up.
            let done = Done(Arc::clone(&busy));
            let answer = (app.0)(request, arrival, afterwards.clone());
            async move {
                let mut answer = answer.await;
                let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
                if upgraded {
                    done.0.upgraded.store(true, Ordering::Release);
                }
                // hyper ends the connection after it, and the client knows. HTTP/2 has a frame for that. It does so too where a
                // request was refused whose body is still to come, as that stands where the next request would.
                let refused = answer.status().is_client_error() || answer.status().is_server_error();
                let over = done.0.leave.is_cancelled() || (refused && done.0.is_unread());
                if over && version < Version::HTTP_2 && !upgraded {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                // In HTTP/1 one that is all there leaves as it is; a stream is in flight until its end.
                Ok::<_, Infallible>(match (answer.body().size_hint().exact(), TAKING.try_with(Arc::clone).ok()) {
                    (Some(_), None) => answer,
                    (None, None) => answer.map(|body| Body::new(Streaming { body, _done: done })),
                    (_, Some(taking)) => answer.map(|body| {
                        Body::new(Measured { streaming: Streaming { body, _done: done }, rest: Bytes::new(), taking })
                    }),
                })
            }
        })
    };
    let ended = match tasks {
        None => {
            let serving = Arc::clone(&busy);
            let answers = unreadable::http1::Answers::new(arrival.encrypted, move || serving.between());
            let patient = Patient::new(Reworded::new(stream, answers), idle, Arc::clone(&busy));
            let connection = http1::Builder::new()
                .max_buf_size(LONGEST_HEAD)
                .serve_connection(TokioIo::new(patient), service)
                .with_upgrades();
            Box::pin(one(connection, &busy)).await
        }
        Some(tasks) => {
            let stream = Reworded::new(stream, unreadable::http2::Answers::default());
            let connection = http2::Builder::new(Requests(tasks.clone()))
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_pending_accept_reset_streams(RESET_UNSEEN)
                .max_local_error_reset_streams(RESET_BROKEN)
                .max_header_list_size(HEAD)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_send_buf_size(SEND_BUFFER)
                .serve_connection(TokioIo::new(stream), service);
            let ended = Box::pin(many(connection, idle, &busy)).await;
            // Each ends at once where its connection has.
            tasks.close();
            tasks.wait().await;
            ended
        }
    };
    if let Err(error) = ended {
        tracing::debug!(service = super::NAME, "a connection ended early: {error}");
    }
}

/// A connection of HTTP/1.1, which has one request at a time.
async fn one<I, S>(connection: http1::UpgradeableConnection<I, S>, busy: &Busy) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error: Into<axum::BoxError>> + Send,
{
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = busy.leave.cancelled() => tokio::select! {
            ended = connection.as_mut() => ended,
            // It ends with its answer, or with the drain's deadline.
            () = busy.some() => {
                // A stream has said that the connection goes on after it.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = sleep(LAST_REQUEST) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = busy.some() => connection.await,
                    () = sleep(LAST_HEAD) => Ok(()),
                }
            }
        },
    }
}

/// A connection of HTTP/2, which has many. Its end is announced (GOAWAY, RFC 9113, section 6.8): what the client sent
/// before it heard of that is answered as well.
async fn many<I, S>(connection: http2::Connection<I, S, Requests>, idle: Duration, busy: &Busy) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error: Into<axum::BoxError>>,
    S::Future: Send + 'static,
{
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = busy.leave.cancelled() => {}
        () = busy.none_for(idle) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = busy.none_for(LAST_REQUEST + LAST_HEAD) => Ok(()),
    }
}

/// Where hyper runs the requests of a connection of HTTP/2.
#[derive(Clone)]
struct Requests(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Requests {
    fn execute(&self, request: F) {
        let taking = Arc::new(Taking::default());
        let watched = {
            let taking = Arc::clone(&taking);
            async move {
                tokio::select! {
                    biased;
                    () = request => {}
                    // With the request goes its stream: h2 tells the client that it was reset.
                    () = taking.stalls() => tracing::debug!(service = super::NAME, "a client takes nothing of its answer"),
                }
            }
        };
        drop(self.0.spawn(panics::SERVICE.scope(super::NAME, TAKING.scope(taking, watched))));
    }
}

/// Whether a client takes what there is for it: hyper asks for the next piece of an answer when the one before has left.
#[derive(Default)]
struct Taking {
    /// Since when a piece has been waiting.
    since: Mutex<Option<Instant>>,
    waits: Notify,
}

impl Taking {
    fn note(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        if since.is_some() {
            self.waits.notify_one();
        }
    }

    /// Completes when a piece has been waiting for too long.
    async fn stalls(&self) {
        loop {
            let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
            match since {
                None => self.waits.notified().await,
                Some(since) if since.elapsed() >= UNTAKEN_TIMEOUT => return,
                Some(since) => sleep_until(since + UNTAKEN_TIMEOUT).await,
            }
        }
    }
}

/// The body of a request in HTTP/1, of which it is known whether it was read to its end.
struct Read {
    body: Incoming,
    busy: Arc<Busy>,
}

impl Read {
    fn body(body: Incoming, busy: &Arc<Busy>) -> Body {
        let unread = !body.is_end_stream();
        busy.unread.store(unread, Ordering::Release);
        if unread { Body::new(Read { body, busy: Arc::clone(busy) }) } else { Body::empty() }
    }
}

impl HttpBody for Read {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.busy.unread.store(false, Ordering::Release);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer in HTTP/2, in pieces.
struct Measured {
    streaming: Streaming,
    /// What is to follow of what came last.
    rest: Bytes,
    taking: Arc<Taking>,
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = match Pin::new(&mut self.streaming).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => {
                    self.taking.note(None);
                    return other;
                }
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        self.taking.note(Some(Instant::now()));
        let length = self.rest.len();
        let piece = if length > LAST_PIECE { PIECE.min(length - LAST_PIECE) } else { length };
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.streaming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.streaming.size_hint(), self.rest.len() as u64);
        let mut whole = SizeHint::new();
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole.set_lower(hint.lower() + rest);
        whole
    }
}

/// Marks the end of a request when it is dropped.
struct Done(Arc<Busy>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The body of an answer that is still being made.
struct Streaming {
    body: Body,
    _done: Done,
}

impl HttpBody for Streaming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How many requests a connection has in flight.
pub struct Busy {
    /// Cancelled when the connection is to end with what it has.
    leave: CancellationToken,
    requests: AtomicUsize,
    /// How many there were in all.
    begun: AtomicUsize,
    /// There is more of the last request than was read.
    unread: AtomicBool,
    /// What comes now is no request.
    upgraded: AtomicBool,
    changed: Notify,
}

impl Busy {
    pub fn new(leave: CancellationToken) -> Self {
        Busy {
            leave,
            requests: AtomicUsize::default(),
            begun: AtomicUsize::default(),
            unread: AtomicBool::default(),
            upgraded: AtomicBool::default(),
            changed: Notify::new(),
        }
    }

    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::AcqRel);
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub fn end(&self) {
        self.requests.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// How many requests there were, where what comes is the head of the next; to be asked of HTTP/1.
    pub fn between(&self) -> Option<usize> {
        let past_the_head = self.requests.load(Ordering::Acquire) > 0 || self.upgraded.load(Ordering::Acquire);
        (!past_the_head).then(|| self.begun.load(Ordering::Acquire))
    }

    /// Whether there is more of the last request than was read; to be asked of HTTP/1.
    pub fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Acquire)
    }

    /// Completes while there are any, or while there are none.
    async fn until(&self, any: bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if (self.requests.load(Ordering::Acquire) > 0) == any {
                return;
            }
            changed.await;
        }
    }

    async fn some(&self) {
        self.until(true).await;
    }

    /// Completes when there was none for this long.
    async fn none_for(&self, long: Duration) {
        loop {
            self.until(false).await;
            tokio::select! {
                () = self.some() => {}
                () = sleep(long) => return,
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.bytes.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    /// A connection to what answers all with 404 and may be idle for this long.
    async fn connected(idle: Duration) -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let stream = Stream::plain(stream, Place { _permit: None, _seat: Seat::uncounted() });
        let app = Answerer::new(|_, _, _| async {
            Response::builder().status(StatusCode::NOT_FOUND).body(Body::from("nothing")).unwrap()
        });
        let arrival = Arrival { peer, encrypted: false };
        tokio::spawn(serve(stream, Protocol::Http1, arrival, idle, app, CancellationToken::new()));
        client
    }

    #[tokio::test]
    async fn a_connection_that_asks_no_more_is_closed() {
        let idle = Duration::from_millis(400);
        let mut client = connected(idle).await;
        let mut answer = [0; 1024];
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: perch\r\n\r\n").await.unwrap();
            assert!(client.read(&mut answer).await.unwrap() > 0);
            sleep(idle / 2).await;
        }
        let last = Instant::now();
        let end = timeout(Duration::from_secs(20), client.read(&mut answer)).await;
        assert_eq!(end.expect("it is still open").unwrap(), 0);
        assert!((idle / 4..5 * idle).contains(&last.elapsed()), "{:?}", last.elapsed());
    }
}
