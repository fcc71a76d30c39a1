//! What AWS answered instead of what it was asked for, as perch's own small facts.

use std::error::Error;
use std::fmt;
use std::iter;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::http::Unreachable;
use super::identity::NoCredentials;
use crate::tls::TrustError;

/// The longest text of somebody else's that goes into a message, in characters.
const TEXT: usize = 400;

/// Why a call brought nothing. `Display` says what came back; who asked says what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nothing could be asked: no region, no credentials, a trust file of no use.
    Setup(String),
    /// The credentials are expired or unknown to AWS.
    CredentialsRefused {
        code: String,
        message: String,
    },
    /// No answer: the host and why.
    Unreachable(String),
    TimedOut,
    /// An answer that broke off or made no sense.
    Garbled(String),
    Refused(Refusal),
}

/// An error that the service answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub status: u16,
    /// The service's name for it; empty where the answer had no body.
    pub code: String,
    pub message: String,
    /// Where S3 says the bucket is.
    pub bucket_region: Option<String>,
    /// The delete marker that S3 found in the object's place.
    pub delete_marker: Option<String>,
}

impl Failure {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if let SdkError::ServiceError(answer) = error {
            return Self::answered(answer.err(), answer.raw());
        }
        for cause in causes(error) {
            if let Some(missing) = cause.downcast_ref::<NoCredentials>() {
                return Failure::Setup(missing.to_string());
            }
            if let Some(trust) = cause.downcast_ref::<TrustError>() {
                return Failure::Setup(trust.to_string());
            }
            if let Some(unreachable) = cause.downcast_ref::<Unreachable>() {
                return Failure::Unreachable(unreachable.to_string());
            }
        }
        match error {
            SdkError::TimeoutError(_) => Failure::TimedOut,
            SdkError::ConstructionFailure(_) => Failure::Setup(root(error)),
            SdkError::DispatchFailure(_) => Failure::Unreachable(root(error)),
            _ => Failure::Garbled(root(error)),
        }
    }

    fn answered<E>(error: &E, raw: &HttpResponse) -> Self
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        if raw.status().is_success() {
            return Failure::Garbled(root(error));
        }
        let header = |name| raw.headers().get(name).map(ToOwned::to_owned);
        let code = one_line(error.code().unwrap_or_default());
        let message = one_line(error.message().unwrap_or_default());
        match code.as_str() {
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidToken"
            | "InvalidAccessKeyId"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException" => Failure::CredentialsRefused { code, message },
            _ => Failure::Refused(Refusal {
                status: raw.status().as_u16(),
                code,
                message,
                bucket_region: header("x-amz-bucket-region"),
                delete_marker: header("x-amz-delete-marker")
                    .filter(|value| value == "true")
                    .map(|_| header("x-amz-version-id").unwrap_or_else(|| "null".to_owned())),
            }),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Setup(text) => f.write_str(text),
            Failure::CredentialsRefused { code, message } => {
                write!(f, "the AWS credentials are expired or unknown to AWS ({code}: {message})")
            }
            Failure::Unreachable(text) => write!(f, "no answer from {text}"),
            Failure::TimedOut => f.write_str("no answer in time"),
            Failure::Garbled(text) => write!(f, "the answer can't be read: {text}"),
            Failure::Refused(refusal) => refusal.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the answer was {}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        if self.code == "RequestTimeTooSkewed" {
            f.write_str("; this host's clock is wrong")?;
        }
        Ok(())
    }
}

/// `error` and what is behind it. An I/O error's payload is a cause of its own, which `source` leaves out.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().map(|payload| payload as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// What the innermost cause says: the others only say that something failed.
pub(crate) fn root(error: &(dyn Error + 'static)) -> String {
    let text = causes(error).last().map(|cause| one_line(&cause.to_string())).unwrap_or_default();
    let text = text.trim_end_matches('.').to_owned();
    let unknown_issuer = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
    if causes(error).filter_map(<dyn Error>::downcast_ref::<rustls::Error>).any(|cause| *cause == unknown_issuer) {
        return "its certificate comes from nobody who is trusted; name a private CA's file in SSL_CERT_FILE"
            .to_owned();
    }
    text
}

/// Somebody else's text, fit for one line of a journal.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        length += word.chars().count() + 1;
        if length > TEXT {
            line.push('…');
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}
