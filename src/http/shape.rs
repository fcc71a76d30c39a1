//! Requests that two servers may read differently are refused, and their connection is closed: what one takes for the
//! end of a request, the other takes for its middle (request smuggling). hyper refuses most of them by itself; these are
//! the ones that it leaves to the application.

use std::ops::ControlFlow;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use axum::response::IntoResponse;

use super::gate::Gate;
use super::problem::Problem;

/// The longest address of a request, in bytes: nothing here has one that is longer than a hundred.
const LONGEST_ADDRESS: usize = 8 << 10;

/// What is wrong with a request's head.
fn flaw(version: Version, address: &Uri, headers: &HeaderMap) -> Option<(StatusCode, &'static str)> {
    let length = address.path_and_query().map_or(0, |address| address.as_str().len());
    if length > LONGEST_ADDRESS {
        return Some((StatusCode::URI_TOO_LONG, "the address is longer than 8 KiB"));
    }
    // RFC 9112, section 3.2.
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Some((StatusCode::BAD_REQUEST, "the request has more than one `Host`")),
        (None, None) if version == Version::HTTP_11 => {
            return Some((StatusCode::BAD_REQUEST, "the request has no `Host`"));
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
#[derive(Clone)]
pub struct WellFormed;

impl Gate for WellFormed {
    type Known = ();

    fn enter(&self, request: &mut Request<Body>) -> ControlFlow<Response<Body>> {
        let Some((status, detail)) = flaw(request.version(), request.uri(), request.headers()) else {
            return ControlFlow::Continue(());
        };
        let mut response = Problem::new(status, detail).into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        ControlFlow::Break(response)
    }
}
