//! Errors as clients of OpenAI's read them.
//!
//! Source: OpenAI API reference, "Error codes", and the client libraries, which go by the status
//! (<https://github.com/openai/openai-python#handling-errors>) and show the message and the code.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

/// Why a request is not done.
#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiError)]
pub struct Document<'a> {
    error: Error<'a>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = OpenAiErrorObject)]
struct Error<'a> {
    /// A sentence for people.
    message: &'a str,
    r#type: &'static str,
    /// Which part of the request it is about.
    param: Option<&'a str>,
    /// A word for programs.
    code: Option<&'static str>,
    /// What really happened, where the configuration says `environment = "development"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
}

impl<'a> Document<'a> {
    pub fn new(
        status: StatusCode,
        message: &'a str,
        param: Option<&'a str>,
        code: Option<&'static str>,
        cause: Option<&'a str>,
    ) -> Document<'a> {
        let (kind, usual) = match status {
            StatusCode::UNAUTHORIZED => ("invalid_request_error", Some("invalid_api_key")),
            StatusCode::FORBIDDEN => ("permission_error", None),
            StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", Some("rate_limit_exceeded")),
            _ if status.is_server_error() => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        Document { error: Error { message, r#type: kind, param, code: code.or(usual), cause } }
    }
}
