//! How the ACME server is reached: by the HTTPS client that the rest of perch uses, with perch's trust.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use axum::body::Bytes;
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
}

pub struct Client {
    http: reqwest::Client,
    come_again: ComeAgain,
}

/// The server gave no answer.
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
}

impl HttpClient for Client {
    fn request(
        &self,
        request: axum::http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (http, come_again) = (self.http.clone(), self.come_again.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let url = head.uri.to_string();
            let request = http
                .request(head.method, &url)
                .headers(head.headers)
                .header(axum::http::header::USER_AGENT, concat!("perch/", env!("CARGO_PKG_VERSION"), " instant-acme"))
                .body(body.to_bytes());
            let unanswered = |text: String| Error::Other(Box::new(Unanswered(text)));
            let mut response = request.send().await.map_err(|error| unanswered(cause(&url, &error)))?;
            if !response.status().is_success() {
                *come_again.0.lock().unwrap_or_else(PoisonError::into_inner) = retry_after(response.headers());
            }
            let mut answer = axum::http::Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                *headers = std::mem::take(response.headers_mut());
            }
            let mut bytes = Vec::new();
            while let Some(piece) = response.chunk().await.map_err(|error| unanswered(cause(&url, &error)))? {
                bytes.extend_from_slice(&piece);
                if bytes.len() > LARGEST_ANSWER {
                    return Err(unanswered(format!("{url} answers with more than 1 MiB")));
                }
            }
            Ok(BytesResponse::from(answer.body(Full::new(Bytes::from(bytes)))?))
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
