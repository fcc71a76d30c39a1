//! What the simulator has seen, for tests and for the page.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::snowflake::{iso8601, now_ms};

/// How many violations are kept with their text; the count goes on.
const VIOLATIONS_KEPT: usize = 200;

/// Counts since the simulator started.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counters {
    /// TCP-level connections to the gateway that got as far as a WebSocket.
    pub connections: u64,
    /// IDENTIFYs received, refused ones included.
    pub identifies: u64,
    /// RESUMEs received, refused ones included.
    pub resumes: u64,
    /// RESUMEs answered with RESUMED.
    pub resumed: u64,
    /// RESUMEs that came to the first address instead of `resume_gateway_url`.
    pub resumes_at_first_address: u64,
    /// IDENTIFYs that came to the address meant for RESUME.
    pub identifies_at_resume_address: u64,
    /// Events sent again after a RESUME.
    pub replayed: u64,
    pub heartbeats: u64,
    /// Close frames that the client sent first, by code: 1000 and 1001 give the session up, others keep it.
    pub closed_by_client: BTreeMap<u16, u64>,
    /// Messages the bot created over REST.
    pub messages_created: u64,
    /// How often the bot showed that it types.
    pub typings: u64,
    /// Requests for what people attached.
    pub files_fetched: u64,
    /// Requests answered with the first message of the same nonce.
    pub nonce_deduplicated: u64,
    /// Notifications that the bot's messages caused, one a person.
    pub pings: u64,
    pub rest_requests: u64,
    /// Requests answered with 429, by a limit or by a fault.
    pub rate_limited: u64,
    /// Requests that count towards Discord's limit of 10,000 in 10 minutes: 401, 403 and 429.
    ///
    /// Source: Rate Limits, "Invalid Request Limit".
    pub invalid_requests: u64,
    pub violation_count: u64,
    pub violations: VecDeque<Violation>,
}

/// Something the client did that Discord refuses or advises against.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    pub at: String,
    pub what: String,
}

impl Counters {
    pub fn violation(&mut self, what: impl Into<String>) -> Violation {
        let violation = Violation { at: iso8601(now_ms()), what: what.into() };
        self.violation_count += 1;
        self.violations.push_back(violation.clone());
        if self.violations.len() > VIOLATIONS_KEPT {
            self.violations.pop_front();
        }
        violation
    }
}
