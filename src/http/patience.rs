//! A connection whose client must not dawdle: a request's head that has begun has to be there soon (slowloris), and a
//! connection may be idle for long, but not for ever. A client that was refused while it sends is heard out, and one that says
//! that no more comes still gets its answer.

use std::future::Future;
use std::io::{Error, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::Busy;

/// How long a request's head may take from its first byte to its last. A slow line of today takes a tenth of it.
const HEAD: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
pub const IDLE: Duration = Duration::from_secs(75);
/// And that of a trusted proxy, which goes on using a connection that perch is just closing, and has an error for its client
/// then: longer than an AWS load balancer can be told to keep one (4,000 s;
/// <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/edit-load-balancer-attributes.html>).
pub const IDLE_PROXY: Duration = Duration::from_secs(4100);

/// How long a client is heard out when its connection is over: some look for an answer when all is sent, and not before.
const REST: Duration = Duration::from_secs(30);
/// How long it may send nothing then; while perch drains, that is all the time there is.
const REST_PAUSE: Duration = Duration::from_secs(3);
/// How much is read of that at once, in bytes.
const REST_PIECE: usize = 8 << 10;
/// How long an answer may still take when its client sends no more: that may be the end of its request and not of its interest
/// (a half-closed connection), but whoever is gone shall not keep a model busy. It is more than a slow database may take.
const GONE: Duration = Duration::from_millis(400);

/// Waits for a connection's first byte; `false` where it does not come. Until then nothing is held for the connection but
/// its socket. From `leave` on, what is done with it is not for here to decide.
pub async fn begins(stream: &TcpStream, leave: &CancellationToken) -> bool {
    let mut first = [0];
    tokio::select! {
        biased;
        // A new socket passes for readable until somebody has tried.
        came = timeout(HEAD, stream.peek(&mut first)) => came.is_ok(),
        () = leave.cancelled() => true,
    }
}

/// An HTTP/1 connection, watched between requests. It is not for HTTP/2, where bytes come between requests that belong to none.
pub struct Patient<T> {
    stream: T,
    busy: Arc<Busy>,
    requests: usize,
    head: Head,
    /// Wakes the connection when it may have been idle for long. Requests come and go without setting it: it goes by
    /// `since` when it wakes.
    idle: Option<Pin<Box<Sleep>>>,
    /// When a request began, or something of an answer was taken.
    since: Instant,
    allowed: Duration,
    /// Something of an answer is still to be taken.
    unsent: bool,
    /// Its client sends no more, which hyper is to hear when all is taken.
    ended: bool,
    /// Set once its client sends no more while an answer is made.
    gone: Option<Pin<Box<Sleep>>>,
    /// What its client still sends, once the connection is over.
    rest: Option<Rest>,
}

/// What has come of the next request.
enum Head {
    Nothing,
    /// All that there was to read at once; most often that is all of it.
    Something,
    /// The rest is waited for.
    Awaited(Pin<Box<Sleep>>),
}

/// What is read and thrown away. A socket that is closed with something unread is reset, and the answer is lost with it that the
/// client has not read yet (RFC 9112, section 9.6).
struct Rest {
    end: Instant,
    pause: Pin<Box<Sleep>>,
    /// There is more to come, or something came.
    due: bool,
}

impl<T> Patient<T> {
    /// Watches `stream`, which may be idle for as long as `allowed`.
    pub fn new(stream: T, allowed: Duration, busy: Arc<Busy>) -> Self {
        Patient {
            stream,
            busy,
            requests: 0,
            head: Head::Nothing,
            idle: None,
            since: Instant::now(),
            allowed,
            unsent: false,
            ended: false,
            gone: None,
            rest: None,
        }
    }

    /// Whether there is more of a request than was read: of its body, or of a head that can't be one.
    fn is_cut_short(&self) -> bool {
        let begun = self.busy.between() == Some(self.requests) && !matches!(self.head, Head::Nothing);
        begun || self.busy.is_unread()
    }

    fn wrote<W>(&mut self, written: W) -> W {
        self.unsent = true;
        self.since = Instant::now();
        written
    }

    /// Completes some time after its client stopped sending while an answer is made.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.gone.get_or_insert_with(|| Box::pin(sleep(GONE))).as_mut().poll(context)
    }

    /// Completes when nothing has been asked or taken for too long.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        let end = self.since + self.allowed;
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep_until(end)));
        while idle.as_mut().poll(context).is_ready() {
            if idle.deadline() >= end {
                return Poll::Ready(Error::new(ErrorKind::TimedOut, "no further request came"));
            }
            idle.as_mut().reset(end);
        }
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        let patient = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut patient.stream).poll_read(context, buffer);
        let ended = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
        let Some(requests) = patient.busy.between() else {
            // A body may take longer.
            patient.head = Head::Nothing;
            if ended && !patient.busy.is_upgraded() {
                ready!(patient.poll_gone(context));
            }
            return read;
        };
        if ended && patient.unsent {
            // hyper would let go of the rest. Whoever takes nothing of it is seen to by the kernel.
            patient.ended = true;
            return Poll::Pending;
        }
        // One may begin and end between two looks: its head came.
        if std::mem::replace(&mut patient.requests, requests) != requests {
            patient.head = Head::Nothing;
            patient.since = Instant::now();
        }
        match (&read, &mut patient.head) {
            (Poll::Ready(Ok(())), head @ Head::Nothing) if buffer.filled().len() > before => *head = Head::Something,
            (Poll::Pending, head @ Head::Something) => *head = Head::Awaited(Box::pin(sleep(HEAD))),
            _ => {}
        }
        match (read, &mut patient.head) {
            (Poll::Pending, Head::Awaited(end)) => {
                let late = || Error::new(ErrorKind::TimedOut, "the rest of a request's head did not come");
                end.as_mut().poll(context).map(|()| Err(late()))
            }
            (Poll::Pending, _) => patient.poll_idle(context).map(Err),
            (read, _) => read,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Error>> {
        let patient = self.get_mut();
        Pin::new(&mut patient.stream).poll_write(context, bytes).map(|written| patient.wrote(written))
    }

    /// hyper does not look at the connection again once its answer has left: this is where that begins to be idle.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let patient = self.get_mut();
        ready!(Pin::new(&mut patient.stream).poll_flush(context))?;
        patient.unsent = false;
        if std::mem::take(&mut patient.ended) {
            context.waker().wake_by_ref();
        }
        if patient.busy.between().is_some()
            && let Poll::Ready(late) = patient.poll_idle(context)
        {
            return Poll::Ready(Err(late));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let patient = self.get_mut();
        if patient.rest.is_none() {
            ready!(Pin::new(&mut patient.stream).poll_shutdown(context))?;
        }
        let due = patient.is_cut_short();
        let all = if patient.busy.leave.is_cancelled() { REST_PAUSE } else { REST };
        let rest = patient.rest.get_or_insert_with(|| Rest {
            end: Instant::now() + all,
            pause: Box::pin(sleep(REST_PAUSE)),
            due,
        });
        let mut room = [MaybeUninit::uninit(); REST_PIECE];
        loop {
            let mut piece = ReadBuf::uninit(&mut room);
            match Pin::new(&mut patient.stream).poll_read(context, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() && Instant::now() < rest.end => {
                    let pause = Instant::now() + REST_PAUSE;
                    rest.pause.as_mut().reset(pause.min(rest.end));
                    rest.due = true;
                }
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending if !rest.due => return Poll::Ready(Ok(())),
                Poll::Pending => return rest.pause.as_mut().poll(context).map(Ok),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        let patient = self.get_mut();
        Pin::new(&mut patient.stream).poll_write_vectored(context, slices).map(|written| patient.wrote(written))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn an_idle_connection_ends_so_long_after_its_last_request() {
        let allowed = Duration::from_millis(300);
        let (mut client, server) = duplex(64);
        let busy = Arc::new(Busy::new(CancellationToken::new()));
        let mut patient = Patient::new(server, allowed, Arc::clone(&busy));
        let begun = Instant::now();
        for _ in 0..3 {
            sleep(allowed / 2).await;
            client.write_all(b"GET").await.unwrap();
            assert_eq!(patient.read(&mut [0; 8]).await.unwrap(), 3);
            busy.begin();
            let more = timeout(2 * allowed, patient.read(&mut [0; 8])).await;
            assert!(more.is_err(), "a request may take long");
            busy.end();
            let more = timeout(allowed / 2, patient.read(&mut [0; 8])).await;
            assert!(more.is_err(), "it is idle for a short time only");
        }
        assert!(begun.elapsed() > 6 * allowed);
        let error = patient.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(patient.since.elapsed() >= allowed, "{:?}", patient.since.elapsed());
    }

    #[tokio::test]
    async fn whoever_sends_no_more_is_gone_a_moment_later() {
        let (mut client, server) = duplex(64);
        let busy = Arc::new(Busy::new(CancellationToken::new()));
        let mut patient = Patient::new(server, IDLE, Arc::clone(&busy));
        client.write_all(b"GET").await.unwrap();
        assert_eq!(patient.read(&mut [0; 8]).await.unwrap(), 3);
        busy.begin();
        client.shutdown().await.unwrap();
        let said = Instant::now();
        assert_eq!(patient.read(&mut [0; 8]).await.unwrap(), 0);
        assert!((GONE..20 * GONE).contains(&said.elapsed()), "{:?}", said.elapsed());
    }

    #[tokio::test]
    async fn an_answer_that_is_on_its_way_is_taken_first() {
        let (mut client, server) = duplex(4);
        let busy = Arc::new(Busy::new(CancellationToken::new()));
        let mut patient = Patient::new(server, IDLE, Arc::clone(&busy));
        client.shutdown().await.unwrap();
        assert_eq!(patient.write(b"answer").await.unwrap(), 4);
        let hears = timeout(2 * GONE, patient.read(&mut [0; 8])).await;
        assert!(hears.is_err(), "hyper would let go of the rest");
        let mut answer = [0; 6];
        let (rest, read) = tokio::join!(
            async {
                patient.write_all(b"er").await.unwrap();
                patient.flush().await.unwrap();
                patient.read(&mut [0; 8]).await.unwrap()
            },
            client.read_exact(&mut answer)
        );
        read.unwrap();
        assert_eq!((rest, &answer), (0, b"answer"));
    }

    #[tokio::test]
    async fn whoever_is_refused_is_heard_out_for_as_long_as_they_send() {
        let (mut client, server) = duplex(64);
        let mut patient = Patient::new(server, IDLE, Arc::new(Busy::new(CancellationToken::new())));
        client.write_all(b"nonsense").await.unwrap();
        assert_eq!(patient.read(&mut [0; 8]).await.unwrap(), 8);
        let begun = Instant::now();
        let sends = async {
            for _ in 0..4 {
                client.write_all(b"more").await.unwrap();
                sleep(REST_PAUSE / 3).await;
            }
        };
        let (ended, ()) = tokio::join!(patient.shutdown(), sends);
        ended.unwrap();
        assert!((2 * REST_PAUSE..REST).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn whoever_has_said_all_is_not_waited_for() {
        let (_client, server) = duplex(64);
        let mut patient = Patient::new(server, IDLE, Arc::new(Busy::new(CancellationToken::new())));
        let begun = Instant::now();
        patient.shutdown().await.unwrap();
        assert!(begun.elapsed() < REST_PAUSE, "{:?}", begun.elapsed());
    }
}
