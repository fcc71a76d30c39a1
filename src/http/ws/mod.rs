//! `GET /api/ws`: rooms, and questions with their answers, over a WebSocket (RFC 6455).
//!
//! ```text
//!  open (handshake) ──► Socket ──► rooms (crate::rooms)
//!                         │  └───► asks ──► the responder, as POST /api/chat
//!                       wire: one row of shared frames
//! ```

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::origins;
use super::problem::Problem;
use super::router::App;
use super::visit::Visit;
use crate::auth::Signed;
use crate::chat::history::Asker;

mod asks;
mod counts;
mod frame;
mod name;
mod socket;
mod wire;

pub use counts::Sockets;

/// The version of the protocol that there is (RFC 6455, section 4.1).
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// What a client may offer to speak, so that it can offer its key beside it ([`super::sign_in`]); it is spoken anyway.
const PROTOCOL: &str = "perch";

/// Who is at the other side.
#[derive(Clone)]
pub struct Visitor {
    asker: Asker,
    address: IpAddr,
    /// As whom they were let in, where that was asked.
    signed: Option<Signed>,
    /// The site whose page they came from, where that is another than perch's own.
    site: Option<Box<[u8]>>,
}

/// Opens a WebSocket, for programs, for perch's own page and those of listed sites.
#[utoipa::path(
    get,
    path = "/api/ws",
    params(("Sec-WebSocket-Protocol" = Option<String>, Header, description = "`perch`, and for a browser that signs in `bearer.KEY`")),
    responses((status = 101, description = "A WebSocket, whose frames are JSON objects with a `type`"))
)]
pub async fn open(State(app): State<App>, mut request: Request) -> Result<Response<Body>, Problem> {
    if app.stop.is_cancelled() {
        let detail = "perch is about to restart; connect again shortly";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    }
    let accept = match accept(&request) {
        Ok(accept) => accept,
        Err(answer) => return answer,
    };
    let visit = Visit::of(request.extensions())?.clone();
    // A browser that offers protocols closes a WebSocket that takes none of them (RFC 6455, section 4.1).
    let offered = lists(request.headers(), &header::SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    // What begins while it is open is theirs as well.
    let asker = Asker { newcomer: false, ..visit.asker()? };
    let Visit { id, client, afterwards, signed, .. } = visit;
    let site = origins::other_site(request.headers(), client.encrypted).map(Box::from);
    let visitor = Visitor { asker, address: client.address, signed, site };
    let upgrade = hyper::upgrade::on(&mut request);
    afterwards.then(move |leave| async move {
        // Otherwise the client went away before it had its answer.
        if let Ok(upgraded) = upgrade.await {
            socket::serve(upgraded, app, visitor, id, leave).await;
        }
    });
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if offered {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(answer)
}

/// What proves to the client that its handshake was understood (RFC 6455, section 4.2), or the answer to a request that
/// is none.
#[expect(clippy::result_large_err, reason = "once a connection")]
fn accept(request: &Request) -> Result<HeaderValue, Result<Response<Body>, Problem>> {
    let headers = request.headers();
    let named = |name, word| lists(headers, &name, word);
    if request.method() != Method::GET
        || request.version() != Version::HTTP_11
        || !named(header::CONNECTION, "upgrade")
        || !named(header::UPGRADE, "websocket")
    {
        let detail = "this is a WebSocket: connect to it with `ws://` or `wss://`";
        return Err(Err(Problem::new(StatusCode::UPGRADE_REQUIRED, detail)));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION) != Some(&VERSION) {
        // The client is told which version there is (section 4.4).
        let mut answer = Response::new(Body::from("this is a WebSocket of version 13\n"));
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, VERSION);
        return Err(Ok(answer));
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    key.and_then(|accept| HeaderValue::from_str(&accept).ok())
        .ok_or_else(|| Err(Problem::new(StatusCode::BAD_REQUEST, "the handshake has no `Sec-WebSocket-Key`")))
}

/// Whether a header's list has this word.
fn lists(headers: &HeaderMap, name: &header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}
