//! Who may use the API, where the configuration says so: whoever shows a key or a token (RFC 6750).

use std::net::IpAddr;
use std::ops::ControlFlow;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::front::Turned;
use super::problem::Problem;
use super::router::{App, is_api};
use super::visit::Visit;
use crate::auth::{self, Refusal, Signed, Verifier};

/// What comes before the credential in the header (RFC 6750, section 2.1).
const SCHEME: &str = "Bearer";
/// A browser can't send a header with a WebSocket's request but this, in which it offers protocols: `perch`, which is what
/// is spoken, and this with the credential behind it, which nobody speaks.
const OFFER: &str = "bearer.";
/// What a client is told to wait where nobody can say who they are, in seconds.
const PAUSE: u32 = 5;

/// What is for everybody: the page, which asks for the key, and what load balancers ask.
fn is_open(path: &str) -> bool {
    !is_api(path) && !["/api", "/v1"].contains(&path)
}

/// Lets in who signs in, as the person that they are, and everybody where nobody has to.
pub async fn let_in(app: &App, request: &mut Request, visit: &mut Visit) -> Turned<()> {
    if is_open(request.uri().path()) {
        return ControlFlow::Continue(());
    }
    let wanted = auth::verifier(&app.live.borrow());
    match wanted {
        Ok(None) => ControlFlow::Continue(()),
        Ok(Some(verifier)) => {
            let signed = identify(&verifier, request.headers_mut(), visit.client.address).await?;
            visit.person = Some(signed.person.clone());
            visit.signed = Some(signed);
            ControlFlow::Continue(())
        }
        Err(_) => {
            let detail = "nobody can be let in yet: what knows who may sign in is not ready";
            ControlFlow::Break(later(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail), PAUSE))
        }
    }
}

/// Finds out whose the request is.
async fn identify(verifier: &Verifier, headers: &mut HeaderMap, address: IpAddr) -> Turned<Signed> {
    let credential = match credential(headers) {
        Ok(Some(credential)) => credential,
        Ok(None) => {
            verifier.nothing_shown();
            let detail = "sign in: send `Authorization: Bearer KEY`, with an API key or a token of the issuer";
            return ControlFlow::Break(challenge(StatusCode::UNAUTHORIZED, detail, None));
        }
        Err(detail) => {
            return ControlFlow::Break(challenge(StatusCode::BAD_REQUEST, detail, Some("invalid_request")));
        }
    };
    ControlFlow::Break(match verifier.identify(&credential, address).await {
        Ok(signed) => return ControlFlow::Continue(signed),
        Err(Refusal::Invalid(words)) => challenge(StatusCode::UNAUTHORIZED, words, Some("invalid_token")),
        Err(Refusal::Wait(wait)) => {
            let seconds = wait.as_secs_f32().ceil();
            let detail = format!("too many tries to sign in have failed from your address; try again in {seconds} s");
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a few seconds")]
            later(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail), seconds as u32)
        }
        Err(Refusal::Unknown) => {
            let detail = "the issuer of your token can't be asked for its keys at the moment; try again shortly";
            later(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail), PAUSE)
        }
    })
}

/// Takes the credential out of the request: whatever comes after has no use for it, and can't tell it on.
fn credential(headers: &mut HeaderMap) -> Result<Option<String>, &'static str> {
    let header::Entry::Occupied(shown) = headers.entry(header::AUTHORIZATION) else { return offered(headers) };
    let (_, mut shown) = shown.remove_entry_mult();
    let (Some(value), None) = (shown.next(), shown.next()) else {
        return Err("more than one Authorization header");
    };
    // Another scheme is as good as none.
    let (scheme, credential) = value.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
    let credential = credential.trim_matches(' ');
    Ok((scheme.eq_ignore_ascii_case(SCHEME) && !credential.is_empty()).then(|| credential.to_owned()))
}

/// The credential among the protocols that a WebSocket's client offers.
fn offered(headers: &mut HeaderMap) -> Result<Option<String>, &'static str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offers: Vec<String> = values.flat_map(|value| value.split(',')).map(|offer| offer.trim().to_owned()).collect();
    let (shown, others): (Vec<_>, Vec<_>) = offers.into_iter().partition(|offer| offer.starts_with(OFFER));
    match shown.as_slice() {
        [] => Ok(None),
        [shown] => {
            headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
            if let Some(value) = HeaderValue::from_str(&others.join(", ")).ok().filter(|value| !value.is_empty()) {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
            }
            Ok(Some(shown[OFFER.len()..].to_owned()))
        }
        _ => Err("more than one key among the protocols"),
    }
}

fn challenge(status: StatusCode, words: &'static str, error: Option<&str>) -> Response {
    let mut response = Problem::new(status, words).into_response();
    let value = match error {
        None => format!("{SCHEME} realm=\"perch\""),
        Some(error) => {
            format!("{SCHEME} realm=\"perch\", error=\"{error}\", error_description=\"{}\"", words.replace('"', "'"))
        }
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

fn later(problem: Problem, seconds: u32) -> Response {
    let mut response = problem.into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    response
}
