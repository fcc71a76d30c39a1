//! Discord's error bodies.
//!
//! Sources: Opcodes and Status Codes, "JSON"; API reference, "Error Messages".

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

#[derive(Debug)]
pub struct ApiError {
    pub status: StatusCode,
    code: u32,
    message: String,
    errors: Option<Value>,
}

impl ApiError {
    fn new(status: StatusCode, code: u32, message: &str) -> Self {
        Self { status, code, message: message.to_owned(), errors: None }
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, 0, "401: Unauthorized")
    }

    pub fn status(status: StatusCode) -> Self {
        let reason = status.canonical_reason().unwrap_or("Error");
        Self::new(status, 0, &format!("{}: {reason}", status.as_u16()))
    }

    pub fn unknown_channel() -> Self {
        Self::new(StatusCode::NOT_FOUND, 10_003, "Unknown Channel")
    }

    pub fn unknown_guild() -> Self {
        Self::new(StatusCode::NOT_FOUND, 10_004, "Unknown Guild")
    }

    pub fn unknown_member() -> Self {
        Self::new(StatusCode::NOT_FOUND, 10_007, "Unknown Member")
    }

    pub fn unknown_message() -> Self {
        Self::new(StatusCode::NOT_FOUND, 10_008, "Unknown Message")
    }

    pub fn unknown_user() -> Self {
        Self::new(StatusCode::NOT_FOUND, 10_013, "Unknown User")
    }

    pub fn missing_access() -> Self {
        Self::new(StatusCode::FORBIDDEN, 50_001, "Missing Access")
    }

    pub fn not_own_message() -> Self {
        Self::new(StatusCode::FORBIDDEN, 50_005, "Cannot edit a message authored by another user")
    }

    pub fn empty_message() -> Self {
        Self::new(StatusCode::BAD_REQUEST, 50_006, "Cannot send an empty message")
    }

    pub fn cannot_message_user() -> Self {
        Self::new(StatusCode::FORBIDDEN, 50_007, "Cannot send messages to this user")
    }

    pub fn non_text_channel() -> Self {
        Self::new(StatusCode::BAD_REQUEST, 50_008, "Cannot send messages in a non-text channel")
    }

    pub fn missing_permissions() -> Self {
        Self::new(StatusCode::FORBIDDEN, 50_013, "Missing Permissions")
    }

    /// Source: Opcodes and Status Codes, "JSON Error Codes"; clients report it with status 403.
    pub fn no_reply_without_history() -> Self {
        Self::new(StatusCode::FORBIDDEN, 160_002, "Cannot reply without permission to read message history")
    }

    pub fn invalid_json() -> Self {
        Self::new(StatusCode::BAD_REQUEST, 50_109, "The request body contains invalid JSON.")
    }

    /// 50035 about one field. `path` is where it is, outermost first.
    ///
    /// Source: API reference, "Error Messages".
    pub fn invalid_form(path: &[&str], code: &str, message: &str) -> Self {
        let innermost = json!({ "_errors": [{ "code": code, "message": message }] });
        let errors = path.iter().rev().fold(innermost, |inner, key| json!({ *key: inner }));
        Self { errors: Some(errors), ..Self::new(StatusCode::BAD_REQUEST, 50_035, "Invalid Form Body") }
    }

    pub fn too_long(path: &[&str], limit: usize) -> Self {
        Self::invalid_form(path, "BASE_TYPE_MAX_LENGTH", &format!("Must be {limit} or fewer in length."))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "message": self.message, "code": self.code });
        if let Some(errors) = self.errors {
            body["errors"] = errors;
        }
        (self.status, Json(body)).into_response()
    }
}

pub async fn not_found() -> ApiError {
    ApiError::status(StatusCode::NOT_FOUND)
}

pub async fn method_not_allowed() -> ApiError {
    ApiError::status(StatusCode::METHOD_NOT_ALLOWED)
}

/// Any version but 10, among them the unversioned path, which is version 6.
///
/// Source: Opcodes and Status Codes, "JSON": 50041.
pub async fn unsupported_version() -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, 50_041, "Invalid API version")
}
