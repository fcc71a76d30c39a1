//! What every request passes on its way to the routes, and every answer on its way back, in this order:
//!
//! ```text
//!  Front::answer    an id, a count, headers for browsers, problems written out, panics caught
//!    let_in         well formed; scripts of other sites (CORS)
//!      receive      the address' limits
//!        meet       writes of other sites, TLS, sign-in, who it is, the person's limits
//!          routes   crate::http::router
//! ```

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use axum::response::IntoResponse;
use futures_util::FutureExt;
use tower::Service;

use super::afterwards::Afterwards;
use super::arrival::Arrival;
use super::client::Client;
use super::doors::{self, Policies};
use super::headers::Hardening;
use super::metrics::Requests;
use super::origins::Origins;
use super::person::Given;
use super::problem::Problem;
use super::request_id::{Asked, Ids};
use super::router::App;
use super::tls::redirect;
use super::visit::Visit;
use super::{person, shape, sign_in};
use crate::limits::Standing;

/// An answer, or the one with which a request is turned away before it gets there.
pub type Turned<T> = ControlFlow<Response<Body>, T>;

/// Everything around the routes.
pub struct Front {
    app: App,
    ids: Ids,
    origins: Origins,
    policies: Policies,
    routes: Router,
}

impl Front {
    pub fn new(routes: Router, app: App) -> Arc<Front> {
        let origins = Origins::new(Arc::clone(&app));
        Arc::new(Front { app, ids: Ids::default(), origins, policies: Policies::default(), routes })
    }

    /// Where requests are counted.
    pub fn counts(&self) -> Arc<Requests> {
        Arc::clone(&self.app.requests)
    }

    /// Answers a request.
    pub async fn answer(
        self: Arc<Self>,
        request: Request<Body>,
        arrival: Arrival,
        afterwards: Afterwards,
    ) -> Response<Body> {
        let client = Client::of(arrival, request.headers(), self.app.live.borrow().config.http.as_ref());
        let asked = Asked::new(&self.ids, request.uri().path());
        let hardening = Hardening::of(request.uri().path(), client.encrypted);
        let visit = Visit { arrival, afterwards, id: asked.id, client, person: None, newcomer: false, signed: None };
        let answered = AssertUnwindSafe(self.let_in(request, visit)).catch_unwind().await;
        let mut response = answered.unwrap_or_else(|_| {
            // The panic itself is already in the log, with its place.
            Problem::internal(&anyhow::anyhow!("the handler panicked")).into_response()
        });
        asked.finish(&mut response, &self.app);
        if self.app.departure.borrow().is_some() {
            // Where connections are balanced and not requests, a client gets to another host only with a new one.
            response.headers_mut().entry(header::CONNECTION).or_insert(HeaderValue::from_static("close"));
        }
        hardening.apply(response.headers_mut());
        response
    }

    async fn let_in(self: &Arc<Self>, request: Request<Body>, visit: Visit) -> Response<Body> {
        if let ControlFlow::Break(refused) = shape::well_formed(&request) {
            return refused;
        }
        if !self.origins.are_listed() {
            return self.receive(request, visit).await;
        }
        let front = Arc::clone(self);
        // In a box, as every request would have room for it otherwise.
        Box::pin(self.origins.tell(request, move |request| async move { front.receive(request, visit).await })).await
    }

    async fn receive(&self, mut request: Request<Body>, mut visit: Visit) -> Response<Body> {
        let door = match doors::address(&self.app, &self.policies, request.uri().path(), visit.client.address) {
            ControlFlow::Continue(door) => door,
            ControlFlow::Break(refused) => return refused,
        };
        let mut met = Met::default();
        let mut response = match self.meet(&mut request, &mut visit, &mut met).await {
            ControlFlow::Break(refused) => refused,
            ControlFlow::Continue(()) => {
                request.extensions_mut().insert(visit);
                let Ok(response) = self.routes.clone().call(request).await;
                response
            }
        };
        met.tell(&mut response);
        door.tell(&mut response);
        response
    }

    async fn meet(&self, request: &mut Request<Body>, visit: &mut Visit, met: &mut Met) -> Turned<()> {
        self.origins.check(request, visit.client.encrypted)?;
        // Before anything else is done for somebody who came without TLS.
        redirect::to_https(&self.app, request, visit.arrival)?;
        sign_in::let_in(&self.app, request, visit).await?;
        met.given = person::acquaint(request, visit);
        met.standing = doors::person(&self.app, request.uri().path(), visit)?;
        ControlFlow::Continue(())
    }
}

/// What somebody is told who was met, whatever the answer.
#[derive(Default)]
struct Met {
    standing: Standing,
    given: Option<Given>,
}

impl Met {
    fn tell(self, response: &mut Response<Body>) {
        doors::tell(response, self.standing);
        if let Some(given) = self.given {
            given.hand_over(response);
        }
    }
}
