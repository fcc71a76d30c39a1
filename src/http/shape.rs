//! Requests that two servers may read differently are refused, and their connection is closed: what one takes for the
//! end of a request, the other takes for its middle (request smuggling). hyper refuses most of them by itself; these are
//! the ones that it leaves to the application.

use std::ops::ControlFlow;

use axum::body::Body;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use axum::response::IntoResponse;

use super::connection::LONGEST_HEAD;
use super::front::Turned;
use super::problem::Problem;

/// The longest address of a request, in bytes: nothing here has one that is longer than a hundred.
const LONGEST_ADDRESS: usize = 8 << 10;
/// How many headers a request may have. hyper counts those of HTTP/1, and h2 their bytes alone.
const MOST_HEADERS: usize = 100;

/// What a header takes beside its name and its value: a colon, a space, and the end of the line.
const LINE: usize = 4;

fn length(address: &Uri) -> usize {
    address.path_and_query().map_or(0, |address| address.as_str().len())
}

/// What is wrong with a request's head.
fn flaw(method: &Method, version: Version, address: &Uri, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    // hyper looks at how much it holds, which may be less than came at once.
    let lines: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + LINE).sum();
    if method.as_str().len() + length(address) + LINE + lines > LONGEST_HEAD {
        return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's head is longer than 32 KiB"));
    }
    // HTTP/2 may send each cookie by itself (RFC 9113, section 8.2.3).
    let cookies = headers.get_all(header::COOKIE).iter().count().saturating_sub(1);
    if headers.len() - cookies > MOST_HEADERS {
        return Some((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request has more than 100 headers"));
    }
    if length(address) > LONGEST_ADDRESS {
        return Some((StatusCode::URI_TOO_LONG, "the address is longer than 8 KiB"));
    }
    // RFC 9112, section 3.2.
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Some((StatusCode::BAD_REQUEST, "the request has more than one `Host`")),
        (None, None) if version == Version::HTTP_11 => {
            return Some((StatusCode::BAD_REQUEST, "the request has no `Host`"));
        }
        (Some(host), None) if !host.is_empty() => {
            let named = Authority::try_from(host.as_bytes()).ok().filter(|host| !host.as_str().contains('@'));
            let Some(named) = named else {
                return Some((StatusCode::BAD_REQUEST, "the request's `Host` is none"));
            };
            // Which of them counts, RFC 9112, section 3.2.2, and RFC 9113, section 8.3.1, say; some know only the other.
            if address.host().is_some_and(|host| !host.eq_ignore_ascii_case(named.host())) {
                return Some((StatusCode::BAD_REQUEST, "the request's `Host` is not the one of its address"));
            }
        }
        _ => {}
    }
    // RFC 9112, section 6.1: a coding that the server does not know.
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
        (None, _) => None,
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => None,
        _ => Some((StatusCode::NOT_IMPLEMENTED, "no `Transfer-Encoding` is known but `chunked`")),
    }
}

/// Refuses what is not well formed.
pub fn well_formed(request: &Request<Body>) -> Turned<()> {
    let Some((status, detail)) = flaw(request.method(), request.version(), request.uri(), request.headers()) else {
        return ControlFlow::Continue(());
    };
    let mut response = Problem::new(status, detail).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    ControlFlow::Break(response)
}
