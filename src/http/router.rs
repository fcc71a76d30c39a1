//! Every route, one a line; [`super::front`] has what is around them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

use super::acme::challenge;
use super::connection::Answerer;
use super::front::Front;
use super::headers::Hardening;
use super::tls::Certificates;
use super::{Http, Requests, Resources, chat, completions, conversations, health, openapi, page, problem, ws};
use crate::chat::files::Room;
use crate::chat::history::History;
use crate::limits::Limits;
use crate::rooms::Rooms;
use crate::service::{Context, Leaving, Live};

/// How long an answer may take that needs nothing but perch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What handlers share. It is handed on with every request, so handing it on is one count.
pub type App = Arc<Shared>;

/// What is behind an [`App`].
pub struct Shared {
    pub live: watch::Receiver<Arc<Live>>,
    pub stop: CancellationToken,
    /// Cancelled when what is still being answered has to be cut off, as perch ends.
    pub last_call: CancellationToken,
    pub departure: Leaving,
    pub requests: Arc<Requests>,
    pub history: Arc<History>,
    pub limits: Arc<Limits>,
    pub certificates: Arc<Certificates>,
    pub rooms: Arc<Rooms>,
    /// How many bytes of requests that are still coming are held, in all.
    pub bodies: AtomicUsize,
    /// Who holds how much of that.
    pub flood: Arc<chat::Flood>,
    /// The same for files, which are held until the model has them.
    pub room: Room,
}

impl Shared {
    fn new(context: &Context, http: &Http, certificates: Arc<Certificates>, last_call: CancellationToken) -> App {
        let Resources { requests, history, limits, rooms } = http.resources.clone();
        Arc::new(Shared {
            live: context.live.clone(),
            stop: context.stop.clone(),
            last_call,
            departure: context.departure.clone(),
            requests,
            history,
            limits,
            certificates,
            rooms,
            bodies: AtomicUsize::new(0),
            flood: Arc::clone(&http.flood),
            room: Room::new(chat::ROOM),
        })
    }
}

/// Whether a path is of an API, and not of the page or of what load balancers ask.
#[must_use]
pub fn is_api(path: &str) -> bool {
    path.starts_with("/api/") || path.starts_with("/v1/")
}

/// The whole HTTP application.
pub fn app(context: &Context, http: &Http, last_call: CancellationToken) -> Answerer {
    let app = Shared::new(context, http, Arc::clone(&http.certificates), last_call);
    let routes = Router::new()
        .route("/", get(page::index))
        .route("/assets/{version}/{name}", get(page::asset))
        .route("/health", get(health::health))
        .route("/ready", get(health::ready))
        .route("/.well-known/acme-challenge/{token}", get(challenge::show))
        .route("/api/conversations", get(conversations::list).delete(conversations::delete_all))
        .route("/api/conversations/{id}", get(conversations::read).delete(conversations::delete))
        .route("/api/export", get(conversations::export))
        .route("/api/openapi.json", get(openapi::openapi))
        .route("/v1/models", get(completions::models))
        .route("/v1/models/{model}", get(completions::model))
        .fallback(problem::not_found)
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, ANSWER_TIMEOUT))
        // A model may think long; the body and the responder have time-outs of their own.
        .route("/api/chat", post(chat::chat))
        .route("/v1/chat/completions", post(completions::complete))
        .route("/api/ws", get(ws::open))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(Arc::clone(&app));
    behind(Front::new(routes, app))
}

/// What answers where nothing is to be had: on a socket that the configuration does not listen on.
pub fn closed(context: &Context, http: &Http) -> Answerer {
    // Nobody is sent elsewhere from here.
    let app = Shared::new(context, http, Arc::default(), CancellationToken::new());
    behind(Front::new(Router::new().fallback(problem::not_here), app))
}

fn behind(front: Arc<Front>) -> Answerer {
    let counts = front.counts();
    Answerer::new(move |request, arrival, afterwards| Arc::clone(&front).answer(request, arrival, afterwards))
        .counting(counts)
}

/// What answers while no configuration asks for HTTP: whoever knocks hears so, and a load balancer goes elsewhere.
pub fn waiting() -> Answerer {
    Answerer::new(|request, arrival, _| {
        let hardening = Hardening::of(request.uri().path(), arrival.encrypted);
        async move {
            let asks = [Method::GET, Method::HEAD].contains(request.method());
            let mut response = if asks && request.uri().path() == "/health" {
                health::health().await.into_response()
            } else {
                let detail = "perch has no configuration yet that serves HTTP";
                let reason = Json(json!({ "ready": false, "reason": detail }));
                (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
            };
            hardening.apply(response.headers_mut());
            response
        }
    })
}
