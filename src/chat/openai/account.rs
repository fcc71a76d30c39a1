//! Where the API is and by which key it is asked: tried before it is used.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use super::outgoing::Outgoing;
use super::wire::ApiError;
use crate::chat::NAME;

/// For trying a key, while somebody waits for a reload, or a host for its boot.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// For the body of a refusal, which only explains it, and how much of it is read, in bytes.
const EXPLANATION_TIMEOUT: Duration = Duration::from_secs(2);
const EXPLANATION: usize = 16 << 10;
/// How much of what an API says is repeated, in characters.
const QUOTE: usize = 300;
/// The longest word for programs that is repeated, in bytes.
const LONGEST_MARK: usize = 64;
/// A connection that nobody used for so long is closed; many servers close theirs after a minute.
const IDLE: Duration = Duration::from_secs(50);

/// So many are kept after a rush; each is a file of the process.
const IDLE_CONNECTIONS: usize = 16;

/// A client of one API with one key.
pub struct Account {
    client: Client,
    pub base_url: String,
    /// For people: the host, and the port where it is an unusual one.
    pub host: String,
    key: Option<SecretString>,
    connect: Duration,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("base_url", &self.base_url).field("key", &"[redacted]").finish_non_exhaustive()
    }
}

/// What came of trying a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Trial {
    /// It is good, as far as the API lets one find out.
    Good,
    Refused(String),
    /// The API can't be asked.
    Unavailable(String),
}

impl Account {
    /// A client that has not been tried.
    ///
    /// # Errors
    /// The key can't be sent, or the system's TLS configuration not be used.
    pub fn new(base_url: &str, key: Option<&SecretString>, connect: Duration) -> anyhow::Result<Account> {
        let mut headers = HeaderMap::new();
        if let Some(key) = key {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                .ok()
                .context("the key has characters in it that can't be sent")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .use_preconfigured_tls(crate::tls::client_config()?)
            .user_agent(concat!("perch/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            // A key is meant for the address that the configuration names, and for no other.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("preparing the HTTPS client for the chat backend")?;
        let url = reqwest::Url::parse(base_url)?;
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Ok(Account { client, base_url: base_url.to_owned(), host, key: key.cloned(), connect })
    }

    /// Whether this is the account of `key` at `base_url`.
    pub fn has(&self, base_url: &str, key: Option<&SecretString>) -> bool {
        let value = |key: Option<&SecretString>| key.map(|key| key.expose_secret().to_owned());
        self.base_url == base_url && value(self.key.as_ref()) == value(key)
    }

    /// Whether it waits so long for a connection.
    pub fn connects_within(&self, connect: Duration) -> bool {
        self.connect == connect
    }

    /// A request for an answer.
    pub fn completion(&self, body: &Outgoing) -> RequestBuilder {
        let url = format!("{}/chat/completions", self.base_url);
        self.client.post(url).header("content-type", "application/json").body(body.body())
    }

    /// Asks for the list of models, which costs nothing and needs a key wherever one is needed.
    ///
    /// Source: OpenAI API reference, "List models".
    pub async fn try_key(&self) -> Trial {
        let request = self.client.get(format!("{}/models", self.base_url)).send();
        let host = &self.host;
        let response = match timeout_at(Instant::now() + TRIAL_TIMEOUT, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Trial::Unavailable(format!("{host} can't be reached: {}", reason(error))),
            Err(_) => {
                return Trial::Unavailable(format!("{host} did not answer within {} s", TRIAL_TIMEOUT.as_secs()));
            }
        };
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let error = self.explanation(response).await;
                // A restricted key of OpenAI's may be good for answers and yet not for the list of models.
                if error.message.contains("Missing scopes") {
                    return Trial::Good;
                }
                Trial::Refused(self.refused(&self.said(status, &error)))
            }
            StatusCode::TOO_MANY_REQUESTS => Trial::Unavailable(format!("{host} was asked too often")),
            // It has no list of models: the key can't be proven, and is believed.
            StatusCode::NOT_IMPLEMENTED => Trial::Good,
            _ if status.is_server_error() => {
                let error = self.explanation(response).await;
                Trial::Unavailable(format!("{host} is in trouble ({})", self.said(status, &error)))
            }
            _ if status.is_redirection() => Trial::Refused(self.redirected(&response)),
            // As one that answers 501.
            _ => Trial::Good,
        }
    }

    /// What an API says in the body of its refusal.
    pub async fn explanation(&self, mut response: Response) -> ApiError {
        let mut body = Vec::new();
        let deadline = Instant::now() + EXPLANATION_TIMEOUT;
        while let Ok(Ok(Some(bytes))) = timeout_at(deadline, response.chunk()).await {
            body.extend_from_slice(&bytes);
            if body.len() > EXPLANATION {
                break;
            }
        }
        ApiError::in_body(&body)
    }

    /// How a refused key is told.
    pub fn refused(&self, said: &str) -> String {
        let host = &self.host;
        match self.key {
            Some(_) => format!("{host} refused the key ({said}); store a good one"),
            None => format!("{host} asks for a key ({said}); name one with `api_key`"),
        }
    }

    /// How a redirection is told.
    pub fn redirected(&self, response: &Response) -> String {
        let to = response.headers().get(reqwest::header::LOCATION).and_then(|value| value.to_str().ok());
        let to = self.clean(to.unwrap_or("nowhere"));
        format!(
            "{} sends elsewhere ({}, to {to}); name the right address with `base_url`",
            self.host,
            response.status()
        )
    }

    /// A status and the API's own words, fit for the journal where nothing was put to it that somebody wrote.
    pub fn said(&self, status: StatusCode, error: &ApiError) -> String {
        match self.clean(&error.message).as_str() {
            "" => status.as_u16().to_string(),
            words => format!("{}: {words}", status.as_u16()),
        }
    }

    /// The same without the words, which may be those of the person who asked: the status, and what the API has for programs.
    /// The words are for whoever turns debugging on.
    pub fn marks(&self, status: Option<StatusCode>, error: &ApiError) -> String {
        tracing::debug!(service = NAME, "{} said: {}", self.host, self.clean(&error.message));
        let status = status.map(|status| status.as_u16().to_string());
        let mut marks = Vec::new();
        for mark in [&error.code, &error.kind].into_iter().map(|mark| self.clean(mark)) {
            if is_mark(&mark) && status.as_ref() != Some(&mark) && !marks.contains(&mark) {
                marks.push(mark);
            }
        }
        let about = Some(self.clean(&error.param)).filter(|param| is_mark(param));
        marks.extend(about.map(|param| format!("about `{param}`")));
        let marks = marks.join(", ");
        match status {
            Some(status) if marks.is_empty() => status,
            Some(status) => format!("{status}: {marks}"),
            None if marks.is_empty() => "it does not say why".to_owned(),
            None => marks,
        }
    }

    /// Foreign words on one line, short, and without the key, which some servers repeat.
    pub fn clean(&self, text: &str) -> String {
        let text = match &self.key {
            Some(key) => text.replace(key.expose_secret(), "[redacted]"),
            None => text.to_owned(),
        };
        let mut clean = text.split_whitespace().collect::<Vec<_>>().join(" ");
        clean.retain(|c| !c.is_control());
        if let Some((end, _)) = clean.char_indices().nth(QUOTE) {
            clean.truncate(end);
            clean.push('…');
        }
        clean
    }
}

/// Whether it is for programs, and not a sentence.
fn is_mark(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'[' | b']');
    (1..=LONGEST_MARK).contains(&text.len()) && text.bytes().all(plain)
}

/// Why a request was not done, in the words of whatever is at the bottom of it.
pub fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    if error.is_timeout() && error.is_connect() {
        return "no connection in time".to_owned();
    }
    let mut bottom: &dyn std::error::Error = &error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}

/// Whether a request met the end of its connection before anything of an answer came. That is what becomes of a kept
/// connection that the server closes in the moment in which it is used again.
pub fn is_left(error: &reqwest::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.any(|cause| {
        let http = cause.downcast_ref::<hyper::Error>();
        let closed =
            http.is_some_and(|error| error.is_incomplete_message() || error.is_canceled() || error.is_closed());
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        let gone =
            [ErrorKind::ConnectionReset, ErrorKind::ConnectionAborted, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];
        closed || kind.is_some_and(|kind| gone.contains(&kind))
    })
}

/// How long an answer asks to wait: in seconds, or until a date.
///
/// Source: RFC 9110, section 10.2.3.
pub fn retry_after(response: &Response) -> Option<Duration> {
    wait(response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim(), SystemTime::now())
}

fn wait(written: &str, now: SystemTime) -> Option<Duration> {
    match written.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        // One that has passed, by this host's clock, says nothing.
        Err(_) => httpdate::parse_http_date(written).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_in_seconds_or_until_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let waits = |written| wait(written, now);
        assert_eq!(waits("120"), Some(Duration::from_secs(120)));
        assert_eq!(waits("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(waits("Sun, 06 Nov 1994 08:51:37 GMT"), Some(Duration::from_secs(120)));
        for nothing in ["", "soon", "-1", "1e300", "NaN", "Sun, 06 Nov 1994 08:00:00 GMT"] {
            assert_eq!(waits(nothing), None, "{nothing}");
        }
    }
}
