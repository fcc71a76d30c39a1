//! What people attach to their messages, served as Discord's file servers do.
//!
//! Sources: Message resource, "Attachment Structure"; API Reference, "CDN Formatting" and "Signed Attachment CDN URLs".

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::snowflake::Snowflake;
use super::state::Shared;

/// So many files are kept, the newest.
const KEPT: usize = 100;

/// A file to attach: a name for one that nobody fetches, or all of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(from = "Written")]
pub struct File {
    pub name: String,
    /// What Discord takes it for.
    pub content_type: Option<String>,
    pub content: Option<Vec<u8>>,
    /// What Discord says that it has, in bytes; what it has, when left out.
    pub size: Option<u64>,
    /// What comes of fetching it.
    pub trouble: Option<Trouble>,
}

/// What comes of fetching a file, in place of all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Half of it, and then nothing for as long as anybody waits.
    Hang,
    /// It is said to be elsewhere.
    Redirect(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    File {
        name: String,
        content_type: Option<String>,
        /// In base64.
        content: Option<String>,
        size: Option<u64>,
    },
}

impl From<Written> for File {
    fn from(written: Written) -> File {
        match written {
            Written::Name(name) => File { name, ..File::default() },
            Written::File { name, content_type, content, size } => {
                let content = content.and_then(|content| aws_smithy_types::base64::decode(content).ok());
                File { name, content_type, content, size, trouble: None }
            }
        }
    }
}

/// The files of late.
pub struct Files {
    /// Where they are fetched from.
    base: String,
    kept: VecDeque<Kept>,
}

struct Kept {
    id: Snowflake,
    kind: Option<String>,
    content: Bytes,
    trouble: Option<Trouble>,
}

impl Files {
    pub fn at(base: String) -> Self {
        Files { base, kept: VecDeque::new() }
    }

    /// Keeps a file under this id, and returns the attachment that shows it.
    pub fn attach(&mut self, channel: Snowflake, id: Snowflake, file: File) -> Value {
        let url = format!("{}/attachments/{channel}/{id}/{}?ex=0&is=0&hm=0", self.base, file.name);
        let size = file.size.unwrap_or_else(|| file.content.as_ref().map_or(1, |content| content.len() as u64));
        let mut attachment = json!({ "id": id, "filename": file.name, "size": size, "url": url, "proxy_url": url });
        if let Some(kind) = &file.content_type {
            attachment["content_type"] = json!(kind);
        }
        if let Some(content) = file.content {
            let (kind, trouble) = (file.content_type, file.trouble);
            self.kept.push_back(Kept { id, kind, content: content.into(), trouble });
            if self.kept.len() > KEPT {
                self.kept.pop_front();
            }
        }
        attachment
    }
}

/// Serves a file to whoever knows where it is.
pub async fn file(
    State(shared): State<Arc<Shared>>,
    Path((_, id, _)): Path<(Snowflake, Snowflake, String)>,
) -> Response {
    let mut state = shared.state();
    state.counters.files_fetched += 1;
    let Some(Kept { kind, content, trouble, .. }) = state.files.kept.iter().find(|kept| kept.id == id) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kind = kind.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok());
    let kind = kind.unwrap_or(HeaderValue::from_static("application/octet-stream"));
    match trouble {
        None => ([(header::CONTENT_TYPE, kind)], content.clone()).into_response(),
        Some(Trouble::Redirect(to)) => (StatusCode::FOUND, [(header::LOCATION, to.clone())]).into_response(),
        Some(Trouble::Hang) => {
            let half = stream::once(ready(Ok::<_, Infallible>(content.slice(..content.len() / 2))));
            let length = (header::CONTENT_LENGTH, HeaderValue::from(content.len()));
            ([(header::CONTENT_TYPE, kind), length], Body::from_stream(half.chain(stream::pending()))).into_response()
        }
    }
}
