//! Sends who comes without TLS to where it is.

use std::ops::ControlFlow;

use axum::body::Body;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;

use crate::http::arrival::Arrival;
use crate::http::front::Turned;
use crate::http::problem::Problem;
use crate::http::router::App;

/// What is answered without TLS all the same: load balancers follow no redirect, and ACME servers begin here.
const OPEN: [&str; 2] = ["/health", "/ready"];
const CHALLENGES: &str = "/.well-known/acme-challenge/";

/// Answers a request that came without TLS with 308 (RFC 9110, section 15.4.9), once there is HTTPS with a certificate.
pub fn to_https(app: &App, request: &Request<Body>, arrival: Arrival) -> Turned<()> {
    match https_port(app, request.uri().path(), arrival) {
        Some(port) => ControlFlow::Break(redirect(request, port)),
        None => ControlFlow::Continue(()),
    }
}

fn redirect(request: &Request<Body>, port: u16) -> Response<Body> {
    let Some(host) = host(request) else {
        let detail = "name the host in the request: without it, nobody can be sent to where HTTPS is";
        return Problem::new(StatusCode::BAD_REQUEST, detail).into_response();
    };
    // With a slash before a query that stands alone. `*`, as OPTIONS may ask (RFC 9112, section 3.2.4), is no path, and
    // would become a part of the host's name.
    let path = request.uri().path_and_query().map(ToString::to_string).filter(|path| path.starts_with('/'));
    let path = path.as_deref().unwrap_or("/");
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    match HeaderValue::from_str(&format!("https://{host}{port}{path}")) {
        Ok(location) => (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response(),
        Err(_) => Problem::new(StatusCode::BAD_REQUEST, "the request's address is no text").into_response(),
    }
}

/// Where HTTPS is, if that is where this request has to go.
fn https_port(app: &App, path: &str, arrival: Arrival) -> Option<u16> {
    if arrival.encrypted || !app.certificates.are_served() {
        return None;
    }
    if OPEN.contains(&path) || path.starts_with(CHALLENGES) {
        return None;
    }
    let live = app.live.borrow();
    live.config.http.as_ref()?.tls.as_ref().map(|tls| tls.listen.port())
}

/// The host that the client meant, without its port.
fn host(request: &Request<Body>) -> Option<String> {
    // Of two, each server between here and the client may have believed another (RFC 9112, section 3.2).
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (named, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return None;
    }
    let named = || named?.to_str().ok()?.parse::<Authority>().ok();
    let authority = request.uri().authority().cloned().or_else(named)?;
    (!authority.as_str().contains('@') && !authority.host().is_empty()).then(|| authority.host().to_owned())
}
