//! What every answer tells browsers, so that a page, an error, or what somebody wrote can do no harm in one.

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

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

/// What an answer says beside itself.
#[derive(Clone, Copy)]
pub struct Hardening {
    encrypted: bool,
    /// It is about a person: nobody keeps a copy.
    private: bool,
}

impl Hardening {
    /// For the answer to a request for `path`, from a client whose connection is `encrypted` or not.
    pub fn of(path: &str, encrypted: bool) -> Hardening {
        Hardening { encrypted, private: is_api(path) }
    }

    /// For an answer of which nobody knows what was asked for.
    pub fn of_anything(encrypted: bool) -> Hardening {
        Hardening { encrypted, private: true }
    }

    pub fn apply(self, headers: &mut HeaderMap) {
        headers.reserve(DEFAULTS.len() + 2);
        for (name, value) in DEFAULTS {
            headers.entry(name).or_insert(value);
        }
        if self.encrypted {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, TLS_ONLY);
        }
        if self.private {
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
}
