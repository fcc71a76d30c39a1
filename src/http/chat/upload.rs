//! A message with files, as `multipart/form-data`: read as it comes, within the room that all uploads share, and kept
//! nowhere but in memory.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest, Multipart, Request};
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::Stream;
use thiserror::Error;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{DISCARDED, LAST_BODY, Question};
use crate::chat::files::{Announced, File, LARGEST, MOST, Reason, Share, Unfit};
use crate::config::Config;
use crate::config::chat::Attachments;
use crate::http::content;
use crate::http::problem::Problem;
use crate::http::router::App;

/// How much of all uploads together is held while they come and until the model has them, in bytes.
pub const ROOM: usize = 48 << 20;
/// How long an upload waits for room before its sender is asked to come again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);
const COME_AGAIN: Duration = Duration::from_secs(10);

/// An upload may take so long, and for each of these bytes that came a second longer: about half a megabit a second.
const GRACE: Duration = Duration::from_secs(10);
const PACE: u64 = 64 << 10;

/// How long so many bytes may take to come at that pace.
pub fn patience(bytes: u64) -> Duration {
    GRACE + Duration::from_secs(bytes / PACE)
}

/// How many parts a form may have, and how long what stands before the content of one may be, in bytes.
const PARTS: usize = 16;
const PART_HEAD: usize = 16 << 10;
/// How long the request's own Content-Type may be, in bytes. A boundary has 70 characters at most (RFC 2046, 5.1.1).
const CONTENT_TYPE: usize = 256;
/// What a form takes beside its contents, in bytes.
const FORM: u64 = 64 << 10;

/// Reads a form whose text may be `limit` bytes long, with files of the kinds that are read by whoever answers under this
/// configuration.
pub(super) async fn read(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    client: Option<IpAddr>,
    limit: u64,
    config: &Config,
) -> Result<Question, Problem> {
    let readable = config.chat.attachments();
    let incoming = Incoming::new(body, limit + FORM + (MOST * LARGEST) as u64);
    let read = Form { app, client, limit, readable }.read(headers, &incoming).await;
    if let Err(refusal) = &read {
        app.requests.uploads.count(refusal.reason);
        if refusal.reason != Reason::Slow {
            incoming.discard(headers).await;
        }
    }
    read.map_err(Refusal::into_problem)
}

/// Waits for room for so many bytes, in whichever form files come.
async fn room(app: &App, client: Option<IpAddr>, bytes: u64) -> Result<Share, Refusal> {
    let room = app.room.take_for(client, usize::try_from(bytes).unwrap_or(usize::MAX));
    timeout(ROOM_TIMEOUT, room).await.ok().flatten().ok_or_else(|| {
        let detail = "too many files are coming in at the moment; try again in a while";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Reason::Room, detail)
    })
}

/// The same for a request whose files are no parts of a form.
pub async fn share(app: &App, client: Option<IpAddr>, bytes: u64) -> Result<Share, Problem> {
    room(app, client, bytes).await.map_err(|refusal| {
        app.requests.uploads.count(refusal.reason);
        refusal.into_problem()
    })
}

/// Why an upload is not taken.
struct Refusal {
    status: StatusCode,
    reason: Reason,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, reason: Reason, detail: impl Into<String>) -> Refusal {
        Refusal { status, reason, detail: detail.into() }
    }

    fn broken(detail: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, Reason::Broken, detail)
    }

    fn into_problem(self) -> Problem {
        let problem = Problem::new(self.status, self.detail);
        if self.reason == Reason::Room { problem.retry_after(COME_AGAIN) } else { problem }
    }
}

impl From<Unfit> for Refusal {
    fn from(unfit: Unfit) -> Refusal {
        let status = match unfit.reason {
            Reason::Size | Reason::Count => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::Unreadable => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        Refusal::new(status, unfit.reason, unfit.to_string())
    }
}

struct Form<'a> {
    app: &'a App,
    /// Whoever is limited as one.
    client: Option<IpAddr>,
    limit: u64,
    readable: Attachments,
}

impl Form<'_> {
    async fn read(&self, headers: &HeaderMap, incoming: &Incoming) -> Result<Question, Refusal> {
        let most = incoming.lock().limit;
        let announced = content::length(headers);
        if announced.is_some_and(|length| length > most) {
            return Err(incoming.too_large());
        }
        let length = announced.unwrap_or(most);
        let mut share = room(self.app, self.client, length).await?;
        incoming.lock().begun = Instant::now();
        let stop = &self.app.stop;
        let slow = || Refusal::new(StatusCode::REQUEST_TIMEOUT, Reason::Slow, "the upload came too slowly");
        tokio::select! {
            biased;
            read = self.parts(headers, incoming, length, &mut share) => read.map_err(|refusal| incoming.cause(refusal)),
            () = incoming.lags() => Err(slow()),
            // Whoever is that slow shall not keep a restart waiting.
            () = async { stop.cancelled().await; sleep(LAST_BODY).await } => Err(slow()),
        }
    }

    /// Reads the parts of a form that is `length` bytes long at most, in whatever order they come.
    async fn parts(
        &self,
        headers: &HeaderMap,
        incoming: &Incoming,
        length: u64,
        share: &mut Share,
    ) -> Result<Question, Refusal> {
        let mut form = form(headers, incoming).await?;
        let (mut message, mut conversation, mut files) = (None, None, Vec::new());
        for parts in 1.. {
            incoming.expect_head();
            let Some(mut part) = form.next_field().await.map_err(|error| malformed(&error))? else { break };
            incoming.lock().head = None;
            if parts > PARTS {
                return Err(Refusal::broken(format!("the form has more than {PARTS} parts")));
            }
            match part.name() {
                Some(name @ "message") => self.text(name.to_owned(), &mut part, &mut message).await?,
                Some(name @ "conversation") => self.text(name.to_owned(), &mut part, &mut conversation).await?,
                Some("file") => files.extend(self.file(part, &files, incoming, length, share).await?),
                _ => {
                    // Somebody else's field: it is none of perch's business.
                    while part.chunk().await.map_err(|error| malformed(&error))?.is_some() {}
                }
            }
        }
        Ok(Question { message: message.unwrap_or_default(), conversation, files })
    }

    async fn text(&self, name: String, part: &mut Field<'_>, field: &mut Option<String>) -> Result<(), Refusal> {
        if field.is_some() {
            return Err(Refusal::broken(format!("`{name}` stands in the form twice")));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = part.chunk().await.map_err(|error| malformed(&error))? {
            if (bytes.len() + chunk.len()) as u64 > self.limit {
                let detail = format!("`{name}` is larger than {} bytes", self.limit);
                return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size, detail));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(bytes).map_err(|_| Refusal::broken(format!("`{name}` is not UTF-8")))?;
        *field = Some(text);
        Ok(())
    }

    /// Reads a file; `None` for the part that browsers send where none was chosen.
    async fn file(
        &self,
        mut part: Field<'_>,
        files: &[File],
        incoming: &Incoming,
        length: u64,
        share: &mut Share,
    ) -> Result<Option<File>, Refusal> {
        let mut next = part.chunk().await.map_err(|error| malformed(&error))?;
        let name = part.file_name().unwrap_or_default().to_owned();
        if name.is_empty() && next.as_ref().is_none_or(Bytes::is_empty) {
            return Ok(None);
        }
        if files.len() == MOST {
            return Err(Unfit::new(Reason::Count, format!("a message takes {MOST} files at most")).into());
        }
        let announced = Announced::new(&name, part.content_type())?;
        announced.readable(self.readable)?;
        // Room for all that can still come; what is not written to takes no memory.
        let left =
            length.saturating_sub(incoming.lock().received) + next.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(left).unwrap_or(LARGEST).min(LARGEST));
        while let Some(chunk) = next {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(announced.too_large().into());
            }
            bytes.extend_from_slice(&chunk);
            next = part.chunk().await.map_err(|error| malformed(&error))?;
        }
        let share = share.part(bytes.len()).ok_or_else(|| Refusal::broken("there is more than was announced"))?;
        Ok(Some(announced.with(bytes, share).await?))
    }
}

/// The form in a request. axum's own limit is out of the way, as what comes is counted here.
async fn form(headers: &HeaderMap, incoming: &Incoming) -> Result<Multipart, Refusal> {
    let no_form = || Refusal::broken("the request's Content-Type names no boundary of a form (RFC 7578)");
    let kind = headers.get(header::CONTENT_TYPE).filter(|kind| kind.len() <= CONTENT_TYPE).ok_or_else(no_form)?;
    let mut request = Request::new(Body::from_stream(incoming.clone()));
    request.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    DefaultBodyLimit::disable().apply(&mut request);
    Multipart::from_request(request, &()).await.map_err(|_| no_form())
}

fn malformed(error: &MultipartError) -> Refusal {
    // The words are the parser's, and say which part of the form is wrong.
    Refusal::broken(format!("the request is no form (RFC 7578): {}", error.body_text()))
}

/// A body on its way to the form's parser, counted.
#[derive(Clone)]
struct Incoming(Arc<Mutex<Counted>>);

struct Counted {
    body: Body,
    /// How many bytes may come, and how many did.
    limit: u64,
    received: u64,
    /// While the head of a part is expected, how much came of it.
    head: Option<usize>,
    /// The parser takes all that it can get before it looks at it; every other time it gets nothing.
    paused: bool,
    begun: Instant,
    trouble: Option<Trouble>,
}

/// What stops a form from being read to its end.
#[derive(Clone, Copy, Debug, Error)]
enum Trouble {
    #[error("the request is too large")]
    TooLarge,
    #[error("a part's head is too long")]
    LongHead,
    #[error("the request's body ended early")]
    CutShort,
}

impl Incoming {
    fn new(body: Body, limit: u64) -> Incoming {
        let counted =
            Counted { body, limit, received: 0, head: None, paused: false, begun: Instant::now(), trouble: None };
        Incoming(Arc::new(Mutex::new(counted)))
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the head of a part is to come.
    fn expect_head(&self) {
        self.lock().head = Some(0);
    }

    fn too_large(&self) -> Refusal {
        let detail =
            format!("the request is larger than {} bytes: {MOST} files of 5 MiB and a message", self.lock().limit);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::Size, detail)
    }

    /// What really happened, where the parser only says that it can't read on.
    fn cause(&self, refusal: Refusal) -> Refusal {
        let trouble = self.lock().trouble;
        match trouble {
            None => refusal,
            Some(Trouble::TooLarge) => self.too_large(),
            Some(trouble) => Refusal::broken(trouble.to_string()),
        }
    }

    /// Completes when what came is less than what should have come by now.
    async fn lags(&self) {
        loop {
            let due = {
                let counted = self.lock();
                counted.begun + patience(counted.received)
            };
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }

    /// Takes what still comes of a refused upload, and throws it away: a client that is still sending would meet a reset
    /// connection in place of the answer.
    async fn discard(&self, headers: &HeaderMap) {
        let announced = content::length(headers);
        let waits = headers.contains_key(header::EXPECT) && self.lock().received == 0;
        let left = announced.map(|length| length.saturating_sub(self.lock().received));
        if waits || left.is_some_and(|left| left > DISCARDED) {
            return;
        }
        let mut discarded = 0;
        let all = std::future::poll_fn(|context| {
            loop {
                match Pin::new(&mut self.lock().body).poll_frame(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(frame))) => {
                        discarded += frame.data_ref().map_or(0, Bytes::len) as u64;
                        if discarded > DISCARDED {
                            return Poll::Ready(());
                        }
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                }
            }
        });
        // Whether it all came or not, the answer is next.
        drop(timeout(super::DISCARD_TIMEOUT, all).await);
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, Trouble>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut counted = self.lock();
        if std::mem::take(&mut counted.paused) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let trouble = match Pin::new(&mut counted.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Err(_))) => Trouble::CutShort,
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    counted.received += data.len() as u64;
                    // What came of a head before this piece: the piece may have much more behind it.
                    let head = counted.head.unwrap_or(0);
                    counted.head = counted.head.map(|head| head + data.len());
                    if counted.received > counted.limit {
                        Trouble::TooLarge
                    } else if head > PART_HEAD {
                        Trouble::LongHead
                    } else {
                        counted.paused = true;
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            };
            counted.trouble = Some(trouble);
            return Poll::Ready(Some(Err(trouble)));
        }
    }
}
