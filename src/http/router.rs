//! Every route, one a line, and the layers around them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use super::acme::challenge;
use super::doors::{AddressDoor, PersonDoor};
use super::gate::Behind;
use super::headers::Hardened;
use super::origins::{OtherSites, OwnSite};
use super::person::Acquainted;
use super::problem::{self, Problem};
use super::request_id::Numbered;
use super::shape::WellFormed;
use super::sign_in::SignIn;
use super::tls::Certificates;
use super::tls::redirect::ToHttps;
use super::{Http, Requests, Resources, chat, client, completions, conversations, health, openapi, page, ws};
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

/// What a connection hands its requests to.
pub trait Answers:
    Service<hyper::Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + 'static
{
}

impl<S> Answers for S where
    S: Service<hyper::Request<Incoming>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
        + Clone
        + Send
        + 'static
{
}

/// The whole HTTP application.
pub fn app(context: &Context, http: &Http, last_call: CancellationToken) -> impl Answers {
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
    layered(routes, app)
}

/// What answers where nothing is to be had: on a socket that the configuration does not listen on.
pub fn closed(context: &Context, http: &Http) -> impl Answers {
    // Nobody is sent elsewhere from here.
    let app = Shared::new(context, http, Arc::default(), CancellationToken::new());
    layered(Router::new().fallback(problem::not_here), app)
}

/// What answers while no configuration asks for HTTP: whoever knocks hears so, and a load balancer goes elsewhere.
pub fn waiting() -> impl Answers {
    let detail = "perch has no configuration yet that serves HTTP";
    let reason = Json(json!({ "ready": false, "reason": detail }));
    let routes =
        Router::new().route("/health", get(health::health)).fallback((StatusCode::SERVICE_UNAVAILABLE, reason));
    ServiceBuilder::new()
        .map_request(|request: hyper::Request<Incoming>| request.map(Body::new))
        .layer(Behind(Hardened))
        .service(routes)
}

fn layered(router: Router, app: App) -> impl Answers {
    let departure = app.departure.clone();
    let marked = Arc::clone(&app);
    ServiceBuilder::new()
        .map_request(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            client::mark(&mut request, marked.live.borrow().config.http.as_ref());
            request
        })
        .layer(Behind(Hardened))
        .map_response(move |mut answer: Response<Body>| {
            // Where connections are balanced and not requests, a client gets to another host only with a new one.
            if departure.borrow().is_some() {
                answer.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
            }
            answer
        })
        .layer(Behind(Numbered::new(Arc::clone(&app))))
        .map_response(|answer: Response<_>| answer.map(Body::new))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            // The panic itself is already in the log, with its place.
            axum::response::IntoResponse::into_response(Problem::internal(&anyhow::anyhow!("the handler panicked")))
        }))
        .layer(Behind(WellFormed))
        .layer(OtherSites::new(Arc::clone(&app)))
        .layer(Behind(AddressDoor::new(Arc::clone(&app))))
        .layer(OwnSite::new(Arc::clone(&app)))
        // Before anything else is done for somebody who came without TLS.
        .layer(Behind(ToHttps::new(Arc::clone(&app))))
        .layer(SignIn(Arc::clone(&app)))
        .layer(Behind(Acquainted))
        .layer(Behind(PersonDoor::new(app)))
        .service(router)
}
