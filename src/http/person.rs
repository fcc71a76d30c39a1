//! Who a request comes from: somebody with a cookie that perch gave them, or somebody new, who gets one.
//!
//! The cookie is a random number that nobody else knows; perch knows people by its hash alone.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use sha2::{Digest, Sha256};

use super::router::is_api;
use super::visit::Visit;
use crate::chat::PersonId;
use crate::hexadecimal;

/// The cookie's name, and under HTTPS, where the prefix keeps other hosts and plain HTTP from setting it
/// (RFC 6265bis, section 4.1.3).
const COOKIE: &str = "perch";
const SECURE_COOKIE: &str = "__Host-perch";
/// 400 days in seconds: browsers keep none for longer (RFC 6265bis, section 5.5).
const AGE: &str = "34560000";

/// A cookie that is to be given.
pub struct Given {
    cookie: HeaderValue,
    /// Nothing was written.
    read: bool,
}

/// Finds out who comes for the page or the API, unless somebody signed in. Whoever is new is to be given a cookie.
pub fn acquaint(request: &Request<Body>, visit: &mut Visit) -> Option<Given> {
    let path = request.uri().path();
    if visit.person.is_some() || (path != "/" && !is_api(path)) {
        return None;
    }
    let encrypted = visit.client.encrypted;
    if let Some(cookie) = cookie(request.headers(), encrypted) {
        visit.person = Some(person(cookie));
        return None;
    }
    let cookie = hexadecimal::of(&crate::random::bits().to_be_bytes());
    visit.person = Some(person(&cookie));
    visit.newcomer = true;
    let cookie = HeaderValue::try_from(set_cookie(&cookie, encrypted)).ok()?;
    Some(Given { cookie, read: request.method() == Method::GET })
}

impl Given {
    pub fn hand_over(self, response: &mut Response<Body>) {
        let headers = response.headers_mut();
        headers.append(header::SET_COOKIE, self.cookie);
        if self.read {
            // A cache that others share would hand them this person's cookie.
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        }
    }
}

/// The cookie that perch gave, if it is there and looks as one of perch's does.
fn cookie(headers: &HeaderMap, encrypted: bool) -> Option<&str> {
    let name = if encrypted { SECURE_COOKIE } else { COOKIE };
    let sent = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = sent.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, value)| *own == name && is_ours(value)).map(|(_, value)| value)
}

fn is_ours(value: &str) -> bool {
    value.len() == 32 && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn person(cookie: &str) -> PersonId {
    PersonId::visitor(hexadecimal::write(&Sha256::digest(cookie), &mut [0; 64]))
}

fn set_cookie(value: &str, encrypted: bool) -> String {
    let (name, secure) = if encrypted { (SECURE_COOKIE, "; Secure") } else { (COOKIE, "") };
    [name, "=", value, "; Path=/; HttpOnly; SameSite=Lax; Max-Age=", AGE, secure].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, cookie.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_cookie_is_found_among_others_and_only_where_it_belongs() {
        let value = "0123456789abcdef0123456789abcdef";
        let (own, secure) = (format!("a=b; perch={value}; c=d"), format!("__Host-perch={value}"));
        assert_eq!(cookie(&headers(&[&own]), false), Some(value));
        assert_eq!(cookie(&headers(&["perch=short", &own]), false), Some(value));
        assert_eq!(cookie(&headers(&[&secure]), true), Some(value));
        // Anybody between may have set the plain one.
        assert_eq!(cookie(&headers(&[&own]), true), None);
        assert_eq!(cookie(&headers(&[&secure]), false), None);
        assert_eq!(cookie(&headers(&["perch=0123456789ABCDEF0123456789ABCDEF"]), false), None);
    }

    #[test]
    fn whom_a_cookie_stands_for_is_its_hash() {
        let value = "0123456789abcdef0123456789abcdef";
        // printf 0123456789abcdef0123456789abcdef | sha256sum
        let hash = "3eb1bd439947eb762998e566ccc2e099c791118b2f40579cc4f7da2b5061b7f9";
        assert_eq!(person(value).as_str(), format!("visitor:{hash}"));
    }

    #[test]
    fn a_cookie_is_for_this_host_and_no_script() {
        assert_eq!(set_cookie("ab", false), "perch=ab; Path=/; HttpOnly; SameSite=Lax; Max-Age=34560000");
        assert_eq!(set_cookie("ab", true), "__Host-perch=ab; Path=/; HttpOnly; SameSite=Lax; Max-Age=34560000; Secure");
    }
}
