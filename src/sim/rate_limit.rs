//! Discord's rate limits: a bucket for each route and top-level resource, and one for all requests together.
//!
//! Source: Rate Limits. Discord publishes no numbers for the routes ("should not be hard coded"); these are the ones
//! its headers have shown, and tests may scale them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::snowflake::now_ms;

/// How strict the limits are.
#[derive(Clone, Debug)]
pub struct RateLimits {
    /// What every bucket's size is multiplied with. 1 is Discord; 0 takes the limits of routes away.
    pub scale: u32,
    /// Requests a second over all routes; 0 takes the limit away.
    ///
    /// Source: Rate Limits, "Global Rate Limit".
    pub global: u32,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self { scale: 1, global: 50 }
    }
}

const GLOBAL_WINDOW: Duration = Duration::from_secs(1);

/// What the headers of an answer say.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub bucket: String,
    pub limit: u32,
    pub remaining: u32,
    pub reset_after: Duration,
    pub reset_at_ms: u64,
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Allowed(Option<Standing>),
    RouteSpent(Standing),
    GlobalSpent(Duration),
}

struct Window {
    ends: Instant,
    used: u32,
}

/// The windows now open.
pub struct Limits {
    settings: RateLimits,
    windows: HashMap<String, Window>,
    all: Option<Window>,
}

impl Limits {
    pub fn new(settings: RateLimits) -> Self {
        Self { settings, windows: HashMap::new(), all: None }
    }

    pub fn set(&mut self, settings: RateLimits) {
        self.settings = settings;
        self.windows.clear();
        self.all = None;
    }

    pub fn check(&mut self, method: &str, path: &str, now: Instant) -> Verdict {
        if self.settings.global > 0 {
            let all = self.all.take().filter(|window| window.ends > now);
            let mut all = all.unwrap_or(Window { ends: now + GLOBAL_WINDOW, used: 0 });
            all.used += 1;
            let (used, ends) = (all.used, all.ends);
            self.all = Some(all);
            if used > self.settings.global {
                return Verdict::GlobalSpent(ends - now);
            }
        }
        if self.settings.scale == 0 {
            return Verdict::Allowed(None);
        }
        self.windows.retain(|_, window| window.ends > now);
        let route = Route::of(method, path);
        let (limit, length) = route.size();
        let limit = limit.saturating_mul(self.settings.scale);
        let window = self.windows.entry(route.key()).or_insert_with(|| Window { ends: now + length, used: 0 });
        let spent = window.used >= limit;
        if !spent {
            window.used += 1;
        }
        let reset_after = window.ends - now;
        let standing = Standing {
            bucket: route.bucket(),
            limit,
            remaining: limit - window.used,
            reset_after,
            reset_at_ms: now_ms() + u64::try_from(reset_after.as_millis()).unwrap_or(0),
        };
        if spent { Verdict::RouteSpent(standing) } else { Verdict::Allowed(Some(standing)) }
    }
}

/// A method and a path with its ids left out, and the top-level resource, which has limits of its own.
struct Route {
    template: String,
    resource: String,
}

impl Route {
    fn of(method: &str, path: &str) -> Self {
        let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let is_id = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_digit());
        let mut template = method.to_owned();
        for segment in &segments {
            template.push('/');
            template.push_str(if is_id(segment) { "{id}" } else { segment });
        }
        // "Rate limits … take into account … channels, guilds, and webhooks". Source: Rate Limits, introduction.
        let resource = match segments.as_slice() {
            [kind @ ("channels" | "guilds" | "webhooks"), id, ..] => format!("{kind}/{id}"),
            _ => String::new(),
        };
        Self { template, resource }
    }

    fn size(&self) -> (u32, Duration) {
        let seconds = Duration::from_secs;
        match self.template.as_str() {
            "POST/channels/{id}/messages" | "PATCH/channels/{id}/messages/{id}" | "POST/channels/{id}/typing" => {
                (5, seconds(5))
            }
            "DELETE/channels/{id}/messages/{id}" => (5, seconds(1)),
            "GET/channels/{id}/messages" | "GET/channels/{id}/messages/{id}" => (5, seconds(5)),
            "GET/gateway/bot" => (2, seconds(5)),
            "POST/users/@me/channels" => (10, seconds(10)),
            _ => (50, seconds(1)),
        }
    }

    fn key(&self) -> String {
        format!("{} {}", self.template, self.resource)
    }

    /// An opaque name, the same for every resource ("non-inclusive of top-level resources"): FNV-1a.
    fn bucket(&self) -> String {
        let hash = self
            .template
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{hash:016x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_messages_in_five_seconds_in_each_channel() {
        let mut limits = Limits::new(RateLimits::default());
        let now = Instant::now();
        for left in (0..5).rev() {
            let Verdict::Allowed(Some(standing)) = limits.check("POST", "/channels/1/messages", now) else { panic!() };
            assert_eq!((standing.limit, standing.remaining), (5, left));
        }
        assert!(matches!(limits.check("POST", "/channels/1/messages", now), Verdict::RouteSpent(_)));
        assert!(matches!(limits.check("POST", "/channels/2/messages", now), Verdict::Allowed(_)));
        let later = now + Duration::from_secs(5);
        assert!(matches!(limits.check("POST", "/channels/1/messages", later), Verdict::Allowed(_)));
    }

    #[test]
    fn fifty_requests_a_second_in_all() {
        let mut limits = Limits::new(RateLimits { scale: 100, global: 50 });
        let now = Instant::now();
        for _ in 0..50 {
            assert!(matches!(limits.check("GET", "/users/@me", now), Verdict::Allowed(_)));
        }
        assert_eq!(limits.check("GET", "/gateway", now), Verdict::GlobalSpent(GLOBAL_WINDOW));
        assert!(matches!(limits.check("GET", "/gateway", now + GLOBAL_WINDOW), Verdict::Allowed(_)));
    }
}
