//! How the ACME server is reached: by the HTTPS client that the rest of perch uses, with perch's trust.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::USER_AGENT;
use axum::http::response::Parts;
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

/// How long a connection may take, and an answer. Let's Encrypt answers within seconds even when it is busy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest answer, in bytes: a chain is a few KiB.
const LARGEST_ANSWER: usize = 1 << 20;

/// What the server said of when to come again, with the last answer that was an error.
#[derive(Clone, Default)]
pub struct ComeAgain(Arc<Mutex<Option<SystemTime>>>);

impl ComeAgain {
    /// When to come again, asked once.
    pub fn take(&self) -> Option<SystemTime> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// It said so in another way.
    pub fn put(&self, at: Option<SystemTime>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    come_again: ComeAgain,
}

/// What anybody may read of the server.
pub struct Read {
    pub status: StatusCode,
    pub body: Vec<u8>,
    pub retry_after: Option<SystemTime>,
}

/// The server gave no answer, or one that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(String);

impl Client {
    /// # Errors
    /// When the trusted certificates can't be read.
    pub fn new(come_again: ComeAgain) -> anyhow::Result<Client> {
        let http = reqwest::Client::builder()
            .use_preconfigured_tls(crate::tls::client_config()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            // ACME has none (RFC 8555), and its addresses are not for anybody else.
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .build()?;
        Ok(Client { http, come_again })
    }

    /// Reads what is at `url`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn read(&self, url: &str) -> Result<Read, Unanswered> {
        let (head, body) = self.ask(self.http.get(url), url).await?;
        Ok(Read { status: head.status, body, retry_after: retry_after(&head.headers) })
    }

    /// The head of an answer, and all of its body.
    async fn ask(&self, request: reqwest::RequestBuilder, url: &str) -> Result<(Parts, Vec<u8>), Unanswered> {
        let request = request.header(USER_AGENT, concat!("perch/", env!("CARGO_PKG_VERSION"), " instant-acme"));
        let mut response = request.send().await.map_err(|error| Unanswered(cause(url, &error)))?;
        let (mut head, ()) = axum::http::Response::new(()).into_parts();
        head.status = response.status();
        head.headers = std::mem::take(response.headers_mut());
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| Unanswered(cause(url, &error)))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > LARGEST_ANSWER {
                return Err(Unanswered(format!("{url} answers with more than 1 MiB")));
            }
        }
        Ok((head, bytes))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: axum::http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let url = head.uri.to_string();
            // Its own name is not the one to complain to.
            let mut headers = head.headers;
            headers.remove(USER_AGENT);
            let request = client.http.request(head.method, &url).headers(headers).body(body.to_bytes());
            let (head, body) = client.ask(request, &url).await.map_err(|error| Error::Other(Box::new(error)))?;
            let mut body = Bytes::from(body);
            if !head.status.is_success() {
                client.come_again.put(retry_after(&head.headers));
                // A gateway before it, or a server on its knees: what ACME itself has to say against something is JSON.
                let Ok(mut problem) = serde_json::from_slice::<serde_json::Map<_, _>>(&body) else {
                    return Err(Error::Other(Box::new(Unanswered(format!("{url} answers {}", head.status)))));
                };
                // A problem need not repeat it (RFC 9457, section 3.1.2), and what it means hangs on it.
                problem.entry("status").or_insert(head.status.as_u16().into());
                body = serde_json::to_vec(&problem)?.into();
            }
            Ok(BytesResponse::from(axum::http::Response::from_parts(head, Full::new(body))))
        })
    }
}

/// Why there was no answer, down to the first cause.
fn cause(url: &str, error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("{url} does not answer in time");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{url} can't be asked: {cause}")
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &axum::http::HeaderMap) -> Option<SystemTime> {
    let text = headers.get(axum::http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => SystemTime::now().checked_add(Duration::from_secs(seconds)),
        Err(_) => DateTime::from_str(text, Format::HttpDate).ok()?.try_into().ok(),
    }
}
