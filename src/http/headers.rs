//! What every answer tells browsers, so that a page, an error, or what somebody wrote can do no harm in one.

use std::ops::ControlFlow;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};

use super::client;
use super::gate::Gate;
use super::router::is_api;

/// Nothing is run, shown or loaded by an answer that says nothing else; the page says what it needs.
/// <https://www.w3.org/TR/CSP3/>
const NOTHING: HeaderValue =
    HeaderValue::from_static("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'");

/// Nothing of a visitor's machine is asked for; writing to the clipboard is left, for the page's own button.
/// <https://www.w3.org/TR/permissions-policy/>
const NO_PERMISSIONS: &str = "accelerometer=(), browsing-topics=(), camera=(), display-capture=(), geolocation=(), \
                              gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), usb=()";

/// For a year, and not for names below this one, which need not be perch's (RFC 6797).
const TLS_ONLY: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What is set unless the answer has its own.
const DEFAULTS: [(HeaderName, HeaderValue); 7] = [
    (header::CONTENT_SECURITY_POLICY, NOTHING),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    // For browsers that know no frame-ancestors.
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("permissions-policy"), HeaderValue::from_static(NO_PERMISSIONS)),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    // Scripts of listed sites read answers by CORS, which this leaves alone.
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
];

/// Adds them to every answer.
#[derive(Clone)]
pub struct Hardened;

/// What the request says about the answer.
#[derive(Clone, Copy)]
pub struct Asked {
    encrypted: bool,
    /// It is about a person: nobody keeps a copy.
    private: bool,
}

impl Gate for Hardened {
    type Known = Asked;

    fn enter(&self, request: &mut Request<Body>) -> ControlFlow<Response<Body>, Asked> {
        let encrypted = client::encrypted(request.extensions());
        let private = is_api(request.uri().path());
        ControlFlow::Continue(Asked { encrypted, private })
    }

    fn leave(response: &mut Response<Body>, asked: Asked) {
        harden(response.headers_mut(), asked);
    }
}

fn harden(headers: &mut HeaderMap, asked: Asked) {
    headers.reserve(DEFAULTS.len() + 2);
    for (name, value) in DEFAULTS {
        headers.entry(name).or_insert(value);
    }
    if asked.encrypted {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, TLS_ONLY);
    }
    if asked.private {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}
