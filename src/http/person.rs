//! Who a request comes from: somebody with a cookie that perch gave them, or somebody new, who gets one.
//!
//! The cookie is a random number that nobody else knows; perch knows people by its hash alone.

use std::ops::ControlFlow;

use anyhow::Context;
use axum::body::Body;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, header};
use sha2::{Digest, Sha256};

use super::client::encrypted;
use super::gate::Gate;
use super::problem::Problem;
use super::router::is_api;
use crate::chat::PersonId;
use crate::chat::history::Asker;
use crate::hexadecimal;

/// The cookie's name, and under HTTPS, where the prefix keeps other hosts and plain HTTP from setting it
/// (RFC 6265bis, section 4.1.3).
const COOKIE: &str = "perch";
const SECURE_COOKIE: &str = "__Host-perch";
/// 400 days in seconds: browsers keep none for longer (RFC 6265bis, section 5.5).
const AGE: u32 = 34_560_000;

/// Marks a request of somebody who sent no cookie.
#[derive(Clone, Copy, Debug)]
struct Newcomer;

/// Who asks, as the layer found.
pub fn asker(extensions: &Extensions) -> Result<Asker, Problem> {
    let person = extensions.get::<PersonId>().cloned().context("a request from nobody");
    let person = person.map_err(|error| Problem::internal(&error))?;
    Ok(Asker { person, newcomer: extensions.get::<Newcomer>().is_some() })
}

/// Puts a [`PersonId`] into every request for the page and the API, unless somebody signed in.
#[derive(Clone, Copy)]
pub struct Acquainted;

/// A cookie that is to be given.
pub struct Given {
    cookie: String,
    encrypted: bool,
    /// Nothing was written.
    read: bool,
}

impl Gate for Acquainted {
    type Known = Option<Given>;

    fn enter(&self, request: &mut Request<Body>) -> ControlFlow<Response<Body>, Option<Given>> {
        let path = request.uri().path();
        let signed_in = request.extensions().get::<PersonId>().is_some();
        if signed_in || (path != "/" && !is_api(path)) {
            return ControlFlow::Continue(None);
        }
        let encrypted = encrypted(request.extensions());
        let known = cookie(request.headers(), encrypted).map(person);
        if let Some(person) = known {
            request.extensions_mut().insert(person);
            return ControlFlow::Continue(None);
        }
        let cookie = hexadecimal::of(&crate::random::bits().to_be_bytes());
        request.extensions_mut().insert(person(&cookie));
        request.extensions_mut().insert(Newcomer);
        let read = request.method() == Method::GET;
        ControlFlow::Continue(Some(Given { cookie, encrypted, read }))
    }

    fn leave(response: &mut Response<Body>, given: Option<Given>) {
        let Some(Given { cookie, encrypted, read }) = given else { return };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::try_from(set_cookie(&cookie, encrypted)) {
            headers.append(header::SET_COOKIE, value);
        }
        if read {
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
    PersonId::visitor(&hexadecimal::of(&Sha256::digest(cookie)))
}

fn set_cookie(value: &str, encrypted: bool) -> String {
    let (name, secure) = if encrypted { (SECURE_COOKIE, "; Secure") } else { (COOKIE, "") };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={AGE}{secure}")
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
