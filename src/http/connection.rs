//! One connection, from its first byte to its last: HTTP/1.1 or HTTP/2, idle, busy, and let finish.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::{HeaderValue, Request, Response, StatusCode, Version, header};
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::busy::{Done, Read, Streaming};
use self::emptied::Emptied;
use self::taking::{Measured, Taking, Tasks};
use super::afterwards::Afterwards;
use super::arrival::Arrival;
use super::metrics::Requests;
use super::patience::Patient;
use super::unreadable::{self, Reworded};

mod busy;
mod emptied;
mod stream;
mod taking;

pub use busy::Busy;
pub use stream::{Place, Stream};

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
/// what is longer than [`LONGEST_HEAD`] and comes by here is told so, and what does not by h2 ([`unreadable`]). h2 counts what
/// comes in CONTINUATION frames as well (CVE-2024-27316).
const HEAD: u32 = 36 << 10;
/// How much of one request, and of all of a connection, is taken before somebody reads it, in bytes: enough for 1 MiB/s
/// from 100 ms away, and little beside what thousands of connections take.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// How much of an answer waits for a client that reads slowly, in bytes; the next piece is made when there is room.
const SEND_BUFFER: usize = 64 << 10;

/// What answers requests. Whatever is behind it, connections are made of the same code.
#[derive(Clone)]
pub struct Answerer {
    answers: Arc<Answers>,
    /// Where it is counted what was said of bytes that are no request.
    counts: Option<Arc<Requests>>,
}

type Answers = dyn Fn(Request<Body>, Arrival, Afterwards) -> BoxFuture<'static, Response<Body>> + Send + Sync;

impl Answerer {
    pub fn new<F>(answer: impl Fn(Request<Body>, Arrival, Afterwards) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let answers: Arc<Answers> =
            Arc::new(move |request, arrival, afterwards| Box::pin(answer(request, arrival, afterwards)));
        Answerer { answers, counts: None }
    }

    pub fn counting(self, counts: Arc<Requests>) -> Self {
        Answerer { counts: Some(counts), ..self }
    }
}

/// What was agreed on in the TLS handshake (ALPN). Without TLS it is HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
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
    let Answerer { answers, counts } = app;
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
            let answer = answers(request, arrival, afterwards.clone());
            async move {
                let mut answer = answer.await;
                let upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
                if upgraded {
                    done.0.upgrade();
                }
                // hyper ends the connection after it, and the client knows. HTTP/2 has a frame for that. It does so too where a
                // request was refused whose body is still to come, as that stands where the next request would.
                let refused = answer.status().is_client_error() || answer.status().is_server_error();
                let over = done.0.leave.is_cancelled() || (refused && done.0.is_unread());
                if over && version < Version::HTTP_2 && !upgraded {
                    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                // In HTTP/1 one that is all there leaves as it is; a stream is in flight until its end.
                Ok::<_, Infallible>(match (answer.body().size_hint().exact(), Taking::current()) {
                    (Some(_), None) => answer,
                    (None, None) => answer.map(|body| Body::new(Streaming { body, _done: done })),
                    (_, Some(taking)) => answer.map(|body| Measured::body(Streaming { body, _done: done }, taking)),
                })
            }
        })
    };
    let ended = match tasks {
        None => {
            let serving = Arc::clone(&busy);
            let answers = unreadable::http1::Answers::new(arrival.encrypted, counts, move || serving.between());
            let patient = Patient::new(Reworded::new(stream, answers), idle, Arc::clone(&busy));
            let connection = http1::Builder::new()
                .max_buf_size(LONGEST_HEAD)
                .serve_connection(TokioIo::new(patient), service)
                .with_upgrades();
            Box::pin(one(connection, &busy)).await
        }
        Some(tasks) => {
            let stream = Reworded::new(stream, unreadable::http2::Answers::new(counts));
            let connection = http2::Builder::new(Tasks(tasks.clone()))
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
async fn many<I, S>(connection: http2::Connection<I, S, Tasks>, idle: Duration, busy: &Busy) -> hyper::Result<()>
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::limits::Seat;

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
