//! How many requests were answered, how, and how fast.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use super::ws::Sockets;
use crate::chat::files::Refused;
use crate::telemetry::metrics::{Counter, Histogram, Kind, Page, Source};

/// Every route of the router; all else is one more. As clients choose what they ask for, a path is never a label.
pub(super) const ROUTES: &[&str] = &[
    "/",
    "/assets/{version}/{name}",
    "/health",
    "/ready",
    "/.well-known/acme-challenge/{token}",
    "/api/chat",
    "/api/conversations",
    "/api/conversations/{id}",
    "/api/export",
    "/api/ws",
    "/api/openapi.json",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{model}",
];
/// What is said of a path that is no route.
const OTHER: &str = "other";

/// A route, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route(usize);

impl Route {
    /// The route that takes this path.
    #[must_use]
    pub fn of(path: &str) -> Route {
        let takes = |pattern: &&str| {
            let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
            loop {
                match (pattern.next(), path.next()) {
                    (None, None) => return true,
                    (Some(wanted), Some(segment)) if wanted == segment => {}
                    (Some(wanted), Some(segment)) if wanted.starts_with('{') && !segment.is_empty() => {}
                    _ => return false,
                }
            }
        };
        let plain = ROUTES.iter().position(|pattern| *pattern == path);
        Route(plain.or_else(|| ROUTES.iter().position(takes)).unwrap_or(ROUTES.len()))
    }
}

/// Counts answers.
pub struct Requests {
    /// For each route, and for all else.
    routes: Vec<Answers>,
    too_many: Counter,
    /// Uploads that were not taken, and why.
    pub uploads: Arc<Refused>,
    pub(super) sockets: Sockets,
}

#[derive(Default)]
struct Answers {
    /// By the class of their status.
    classes: [Counter; 5],
    took: Histogram,
}

impl Answers {
    fn count(&self, status: StatusCode) {
        self.classes[usize::from(status.as_u16() / 100).clamp(1, 5) - 1].add();
    }
}

impl Default for Requests {
    fn default() -> Self {
        let routes = (0..=ROUTES.len()).map(|_| Answers::default()).collect();
        Requests { routes, too_many: Counter::default(), uploads: Arc::default(), sockets: Sockets::default() }
    }
}

impl Requests {
    /// Counts what was said of bytes that are no request, and took no time.
    pub(super) fn count_unasked(&self, status: StatusCode) {
        self.routes[ROUTES.len()].count(status);
    }

    pub(super) fn count(&self, route: Route, status: StatusCode, took: Duration) {
        let answers = &self.routes[route.0];
        answers.count(status);
        answers.took.observe(took);
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.too_many.add();
        }
    }
}

impl Source for Requests {
    fn write(&self, page: &mut Page) {
        let named = || ROUTES.iter().copied().chain([OTHER]).zip(&self.routes);
        let help = "Requests answered, by route and class of status. A stream counts when it begins; how an answer ended is in perch_chat_answer_duration_seconds.";
        let mut family = page.family("perch_http_requests_total", Kind::Counter, help);
        for (route, answers) in named() {
            for (counter, class) in answers.classes.iter().zip(["1xx", "2xx", "3xx", "4xx", "5xx"]) {
                family.value(&[("route", route), ("class", class)], counter.get());
            }
        }
        let help = "Time from a request's head to its answer's head, by route: of a stream, until it begins.";
        let mut family = page.family("perch_http_request_duration_seconds", Kind::Histogram, help);
        for (route, answers) in named() {
            family.histogram(&[("route", route)], &answers.took);
        }
        page.family("perch_http_too_many_requests_total", Kind::Counter, "Requests answered with 429, over a limit.")
            .value(&[], self.too_many.get());
        let mut family = page.family("perch_uploads_refused_total", Kind::Counter, "Uploads refused, by the reason.");
        for (reason, count) in self.uploads.counts() {
            family.value(&[("reason", &reason.to_string())], count);
        }
        self.sockets.write(page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_counted_for_the_route_that_takes_it() {
        let name = |path: &str| ROUTES.get(Route::of(path).0).copied().unwrap_or(OTHER);
        for route in ROUTES {
            assert_eq!(
                name(
                    &route
                        .replace("{name}", "chat.js")
                        .replace("{version}", "0f")
                        .replace("{id}", "17")
                        .replace("{model}", "m")
                        .replace("{token}", "t")
                ),
                *route
            );
        }
        for path in
            ["/api", "/api/chat/", "//", "", "/assets", "/assets/", "/assets/a", "/assets/a/b/c", "/%68ealth", "*"]
        {
            assert_eq!(name(path), OTHER, "{path}");
        }
    }
}
