//! The chat page, compiled in: hashed and compressed when it is first asked for, and kept so.

use std::io::Write;
use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::hexadecimal;

/// Nothing from elsewhere, nothing inline: <https://www.w3.org/TR/CSP3/>. The previews of pictures that a person is
/// about to send are `blob:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src \
                      'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 2] = [(header::CONTENT_SECURITY_POLICY, POLICY), (header::VARY, "accept-encoding")];

/// The document names its parts by the version of them all, so that a browser never mixes two versions, and has to
/// ask for nothing else as long as they are the same.
static ASK_AGAIN: HeaderValue = HeaderValue::from_static("no-cache");
static FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Stands for the version in the document.
const VERSION: &str = "{version}";

const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const ASSETS: [(&str, &str, &str); 12] = [
    ("chat.css", CSS, include_str!("page/chat.css")),
    ("api.js", JAVASCRIPT, include_str!("page/api.js")),
    ("attachments.js", JAVASCRIPT, include_str!("page/attachments.js")),
    ("chat.js", JAVASCRIPT, include_str!("page/chat.js")),
    ("conversation.js", JAVASCRIPT, include_str!("page/conversation.js")),
    ("dom.js", JAVASCRIPT, include_str!("page/dom.js")),
    ("kept.js", JAVASCRIPT, include_str!("page/kept.js")),
    ("log.js", JAVASCRIPT, include_str!("page/log.js")),
    ("markdown.js", JAVASCRIPT, include_str!("page/markdown.js")),
    ("shelf.js", JAVASCRIPT, include_str!("page/shelf.js")),
    ("words.js", JAVASCRIPT, include_str!("page/words.js")),
    ("perch.svg", "image/svg+xml", include_str!("page/perch.svg")),
];

static PAGE: LazyLock<Page> = LazyLock::new(Page::new);

struct Page {
    version: String,
    index: File,
    assets: Vec<(&'static str, File)>,
}

/// A file in both of the forms in which it is sent.
struct File {
    kind: &'static str,
    plain: Form,
    gzip: Form,
}

struct Form {
    bytes: Bytes,
    /// RFC 9110, section 8.8.3: strong, so each form has its own.
    etag: HeaderValue,
}

impl Page {
    fn new() -> Self {
        let version = ASSETS.iter().fold(Sha256::new(), |hash, (_, _, text)| hash.chain_update(text)).finalize();
        let version = beginning(&version);
        let index = include_str!("page/index.html").replace(VERSION, &version);
        let assets = ASSETS.map(|(name, kind, text)| (name, File::new(kind, Bytes::from_static(text.as_bytes()))));
        Page { version, index: File::new("text/html; charset=utf-8", index.into()), assets: assets.into() }
    }
}

impl File {
    fn new(kind: &'static str, plain: Bytes) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = gzip.write_all(&plain).and_then(|()| gzip.finish()).expect("a vector takes what is written to it");
        File { kind, plain: Form::new(plain), gzip: Form::new(gzip.into()) }
    }

    /// The answer to a request with these `headers`.
    fn answer(&self, headers: &HeaderMap, caching: &HeaderValue) -> Response<Body> {
        let compressed = takes_gzip(headers);
        let form = if compressed { &self.gzip } else { &self.plain };
        let mut answer = (HEADERS, [(header::ETAG, &form.etag), (header::CACHE_CONTROL, caching)]).into_response();
        if has(headers, &form.etag) {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            return answer;
        }
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        if compressed {
            answer.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        *answer.body_mut() = Body::from(form.bytes.clone());
        answer
    }
}

impl Form {
    fn new(bytes: Bytes) -> Self {
        let etag = format!("\"{}\"", beginning(&Sha256::digest(&bytes)));
        Form { bytes, etag: etag.try_into().expect("hexadecimal digits in quotes") }
    }
}

/// The beginning of a hash, long enough to tell any two versions of a file apart.
fn beginning(hash: &[u8]) -> String {
    hexadecimal::of(&hash[..8])
}

/// The members of a header that is a list, over all of its lines.
fn members(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Whether `Accept-Encoding` has gzip, with a weight that is not nought (RFC 9110, section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    members(headers, header::ACCEPT_ENCODING).any(|member| {
        let (coding, weight) = member.split_once(';').unwrap_or((member, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse);
        coding.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight: f32| weight > 0.0)
    })
}

/// Whether `If-None-Match` names this tag, compared weakly (RFC 9110, section 13.1.2).
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    members(headers, header::IF_NONE_MATCH)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag).as_bytes() == etag.as_bytes())
}

/// The chat page.
#[utoipa::path(get, path = "/", responses((status = 200, description = "The page", content_type = "text/html", body = String)))]
pub async fn index(headers: HeaderMap) -> Response<Body> {
    PAGE.index.answer(&headers, &ASK_AGAIN)
}

/// A part of the page. Of another version there is only this one: whoever has an older document gets what there is,
/// and keeps it for no longer than that document.
#[utoipa::path(
    get,
    path = "/assets/{version}/{name}",
    params(("version" = String, Path), ("name" = String, Path)),
    responses((status = 200, description = "The part", content_type = "*/*", body = String))
)]
pub async fn asset(
    Path((version, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let asset = PAGE.assets.iter().find(|(known, _)| *known == name);
    let (_, file) = asset.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "there is no such file"))?;
    Ok(file.answer(&headers, if version == PAGE.version { &FOR_EVER } else { &ASK_AGAIN }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole page, compressed, in bytes: what a first visit costs.
    const MOST: usize = 60 << 10;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_whole_page_is_small() {
        let size: usize = PAGE.assets.iter().map(|(_, file)| file.gzip.bytes.len()).sum();
        let size = size + PAGE.index.gzip.bytes.len();
        assert!(size < MOST, "{size} bytes");
    }

    #[test]
    fn every_part_that_the_document_names_is_there() {
        let index = std::str::from_utf8(&PAGE.index.plain.bytes).unwrap();
        let prefix = format!("/assets/{}/", PAGE.version);
        let named: Vec<&str> = index.split(&prefix).skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        assert_eq!(index.matches("/assets/").count(), named.len());
        for (name, _, _) in ASSETS {
            assert!(named.contains(&name), "{name} is not named, so a browser would find out late that it needs it");
        }
        for name in named {
            assert!(PAGE.assets.iter().any(|(known, _)| *known == name), "{name}");
        }
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        for (value, takes) in [
            ("gzip", true),
            ("br, GZIP;q=0.5", true),
            ("deflate, gzip; q=1.0", true),
            ("gzip;q=0", false),
            ("gzip;q=0.000", false),
            ("gzip;q=nonsense", false),
            ("br", false),
            ("x-gzipped", false),
        ] {
            assert_eq!(takes_gzip(&headers(header::ACCEPT_ENCODING, value)), takes, "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn a_tag_is_found_among_others() {
        let tag = HeaderValue::from_static("\"0123456789abcdef\"");
        for (value, found) in [
            ("\"0123456789abcdef\"", true),
            ("\"other\", W/\"0123456789abcdef\"", true),
            ("*", true),
            ("0123456789abcdef", false),
            ("\"other\"", false),
        ] {
            assert_eq!(has(&headers(header::IF_NONE_MATCH, value), &tag), found, "{value}");
        }
    }
}
