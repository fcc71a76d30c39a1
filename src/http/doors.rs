//! Where limits are kept: one door for addresses, before anything is known of the person, and one for people.
//!
//! Each answer says how the client stands, refused or not, in the fields of
//! <https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-11>: clients of that draft and of those since
//! -08 read them, and others go by `Retry-After`. `qu="tokens"` is in no registry yet; a client that does not know it
//! leaves the limit alone.

use std::io::Write;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::response::IntoResponse;

use super::front::Turned;
use super::problem::Problem;
use super::router::{App, is_api};
use super::visit::Visit;
use crate::config::{Config, limits as config};
use crate::limits::{Errand, Refusal, Standing, Who};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What a request asks for; nothing is limited of what load balancers ask.
fn errand(path: &str) -> Option<Errand> {
    match path {
        "/health" | "/ready" => None,
        "/api/chat" | "/v1/chat/completions" => Some(Errand::Answer),
        _ if is_api(path) => Some(Errand::Request),
        _ => Some(Errand::File),
    }
}

/// How a client stands whose address was let in.
pub struct Door {
    policies: Option<HeaderValue>,
    standing: Standing,
}

impl Door {
    /// Says it.
    pub fn tell(self, response: &mut Response<Body>) {
        if let Some(policies) = self.policies {
            response.headers_mut().insert(RATE_LIMIT_POLICY, policies);
        }
        tell(response, self.standing);
    }
}

/// The door for addresses.
pub fn address(app: &App, policies: &Policies, path: &str, address: IpAddr) -> Turned<Door> {
    let Some(errand) = errand(path) else {
        return ControlFlow::Continue(Door { policies: None, standing: Standing::default() });
    };
    let live = app.live.borrow();
    let policies = policies.of(&live.config, address);
    match app.limits.admit_address(&live.config.limits, address, errand) {
        Ok(standing) => ControlFlow::Continue(Door { policies, standing }),
        Err(refusal) => ControlFlow::Break(refused(refusal, policies)),
    }
}

/// The door for people; who they are was found out before.
pub fn person(app: &App, path: &str, visit: &Visit) -> Turned<Standing> {
    let errand = errand(path).filter(|errand| *errand != Errand::File);
    let (Some(errand), Some(person)) = (errand, &visit.person) else {
        return ControlFlow::Continue(Standing::default());
    };
    let address = visit.client.address;
    let live = app.live.borrow();
    let config = &live.config.limits;
    match app.limits.admit_person(config, Who { address: Some(address), person }, errand) {
        Ok(standing) => ControlFlow::Continue(standing),
        Err(refusal) => {
            app.limits.take_back(config, address);
            ControlFlow::Break(refused(refusal, None))
        }
    }
}

/// Says how the client stands, before what was said of it further in; where that refused them, there is no more to say.
pub fn tell(response: &mut Response<Body>, standing: Standing) {
    let refused = response.status() == StatusCode::TOO_MANY_REQUESTS && response.headers().contains_key(RATE_LIMIT);
    if let Some(left) = standing.nearest.filter(|_| !refused) {
        let seconds = left.window.as_secs() + u64::from(left.window.subsec_nanos() > 0);
        add(response, left.policy.name(), u64::from(left.requests), seconds);
    }
}

fn refused(refusal: Refusal, policies: Option<HeaderValue>) -> Response<Body> {
    let mut response = Problem::from(refusal).into_response();
    if let Some(policies) = policies {
        response.headers_mut().insert(RATE_LIMIT_POLICY, policies);
    }
    add(&mut response, refusal.policy.name(), 0, refusal.retry_after_seconds());
    response
}

fn add(response: &mut Response<Body>, policy: &str, left: u64, seconds: u64) {
    // The longest name, and two numbers of 20 digits at most.
    let mut text = [0; 80];
    let mut rest = &mut text[..];
    let written = write!(rest, "\"{policy}\";r={left};t={seconds}").is_ok();
    let length = 80 - rest.len();
    let value = match response.headers().get(RATE_LIMIT) {
        Some(further) => HeaderValue::from_bytes(&[&text[..length], b", ", further.as_bytes()].concat()),
        None => HeaderValue::from_bytes(&text[..length]),
    };
    if let (true, Ok(value)) = (written, value) {
        response.headers_mut().insert(RATE_LIMIT, value);
    }
}

/// The limits that hold for a client as `RateLimit-Policy` says them, written once for each configuration.
#[derive(Default)]
pub struct Policies(ArcSwapOption<Written>);

struct Written {
    config: Arc<Config>,
    /// By whether the client's address has no limits, and whether it spares people theirs of requests.
    fields: [[Option<HeaderValue>; 2]; 2],
}

impl Policies {
    fn of(&self, config: &Arc<Config>, address: IpAddr) -> Option<HeaderValue> {
        let limits = &config.limits;
        let (exempt, spared) = (limits.client(address).is_none(), limits.spares(Some(address)));
        let field = |written: &Written| written.fields[usize::from(exempt)][usize::from(spared)].clone();
        let known = self.0.load();
        if let Some(known) = known.as_ref().filter(|known| Arc::ptr_eq(&known.config, config)) {
            return field(known);
        }
        let fields = [false, true].map(|exempt| [false, true].map(|spared| policies(limits, exempt, spared)));
        let written = Arc::new(Written { config: Arc::clone(config), fields });
        self.0.store(Some(Arc::clone(&written)));
        field(&written)
    }
}

fn policies(limits: &config::Limits, exempt: bool, spared: bool) -> Option<HeaderValue> {
    let (address, person) = (Some(&limits.address).filter(|_| !exempt), &limits.person);
    let mut policies = Vec::new();
    let mut rate = |name: &str, rate: Option<config::Rate>| {
        if let Some(config::Rate { per_minute, burst }) = rate {
            policies.push(format!("\"{name}\";q={per_minute};w=60;perch-burst={burst}"));
        }
    };
    rate("address", address.and_then(|address| address.requests));
    rate("page", address.and_then(|address| address.files));
    rate("person", person.requests.filter(|_| !spared));
    let tokens = [("address-tokens", address.and_then(|address| address.tokens)), ("person-tokens", person.tokens)];
    for (name, tokens) in tokens {
        if let Some(tokens) = tokens {
            policies.push(format!("\"{name}\";q={tokens};qu=\"tokens\";w=86400"));
        }
    }
    HeaderValue::try_from(policies.join(", ")).ok().filter(|value| !value.is_empty())
}
