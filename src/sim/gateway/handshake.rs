//! IDENTIFY and RESUME: what Discord checks, and what it answers.

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::events::intent;
use super::session::{Lost, NewSession};
use super::starts::Start;
use super::{Door, close};
use crate::sim::faults::{Fault, When};
use crate::sim::render;
use crate::sim::state::{Outgoing, State};

/// What an IDENTIFY or a RESUME comes to.
pub enum Answer {
    /// The session's READY or RESUMED is on its way.
    Ready(String),
    InvalidSession {
        resumable: bool,
    },
    Reconnect,
    Close(u16, String),
    Cut,
}

fn refuse(code: u16, reason: &str) -> Answer {
    Answer::Close(code, reason.to_owned())
}

/// Source: gateway events, "Identify Structure". `properties` is required.
#[derive(Deserialize)]
struct Identify {
    token: String,
    intents: u64,
    properties: Value,
    #[serde(default)]
    shard: Option<[u64; 2]>,
}

/// Source: gateway events, "Resume Structure".
#[derive(Deserialize)]
struct Resume {
    token: String,
    session_id: String,
    seq: u64,
}

/// Counts an IDENTIFY against the session start limit, and answers it when it may not be one.
pub fn count_identify(state: &mut State, door: Door) -> Option<Answer> {
    state.counters.identifies += 1;
    if door == Door::Resume {
        state.counters.identifies_at_resume_address += 1;
    }
    match state.starts.take(Instant::now()) {
        Start::Allowed => struck(state, When::Identify),
        Start::TooSoon => {
            state.violation("sent IDENTIFY within 5 seconds of another (max_concurrency is 1)");
            Some(Answer::InvalidSession { resumable: false })
        }
        Start::Spent => {
            state.violation("sent IDENTIFY with the session start limit spent: the token is reset");
            state.tokens.clear();
            state.end_sessions(close::AUTHENTICATION_FAILED, "Authentication failed.");
            Some(refuse(close::AUTHENTICATION_FAILED, "Authentication failed."))
        }
    }
}

pub fn identify(
    state: &mut State,
    connection: u64,
    data: &Value,
    resume_url: &str,
    outgoing: mpsc::UnboundedSender<Outgoing>,
) -> Answer {
    let Ok(asked) = Identify::deserialize(data) else {
        state.violation("sent an IDENTIFY without token, intents or properties");
        return refuse(close::DECODE_ERROR, "Error while decoding payload.");
    };
    if let Some(refusal) = refusal(state, &asked) {
        return refusal;
    }
    let ready = json!({
        "v": 10,
        "user": render::current_user(&state.world),
        "resume_gateway_url": resume_url,
        "application": { "id": state.world.application, "flags": state.application_flags() },
        "private_channels": [],
        "user_settings": {},
        "session_type": "normal",
        "_trace": [],
    });
    let new = NewSession { token: asked.token, intents: asked.intents, shard: asked.shard, connection, outgoing };
    Answer::Ready(state.sessions.open(&state.world, new, ready))
}

fn refusal(state: &mut State, asked: &Identify) -> Option<Answer> {
    if !asked.properties.is_object() {
        return Some(refuse(close::DECODE_ERROR, "Error while decoding payload."));
    }
    if !state.accepts(&asked.token) {
        state.violation("sent IDENTIFY with a token that is not the bot's");
        return Some(refuse(close::AUTHENTICATION_FAILED, "Authentication failed."));
    }
    if asked.shard.is_some_and(|[id, count]| count == 0 || id >= count) {
        state.violation("sent IDENTIFY with an impossible shard");
        return Some(refuse(close::INVALID_SHARD, "Invalid shard."));
    }
    if asked.intents & !intent::KNOWN != 0 {
        state.violation(format!("sent IDENTIFY with intents {}, which do not exist", asked.intents));
        return Some(refuse(close::INVALID_INTENTS, "Invalid intent(s)."));
    }
    let disallowed = asked.intents & intent::PRIVILEGED & !state.privileged_intents;
    (disallowed != 0).then(|| refuse(close::DISALLOWED_INTENTS, "Disallowed intent(s)."))
}

pub fn resume(
    state: &mut State,
    connection: u64,
    door: Door,
    data: &Value,
    outgoing: mpsc::UnboundedSender<Outgoing>,
) -> Answer {
    state.counters.resumes += 1;
    if door == Door::First {
        state.counters.resumes_at_first_address += 1;
    }
    let Ok(asked) = Resume::deserialize(data) else {
        state.violation("sent a RESUME without token, session_id or seq");
        return refuse(close::DECODE_ERROR, "Error while decoding payload.");
    };
    let fault = struck(state, When::Resume);
    if let Some(answer) = fault {
        if matches!(answer, Answer::InvalidSession { resumable: false }) {
            state.sessions.remove(&asked.session_id);
        }
        return answer;
    }
    if !state.accepts(&asked.token) {
        state.violation("sent RESUME with a token that is not the bot's");
        return refuse(close::AUTHENTICATION_FAILED, "Authentication failed.");
    }
    state.sessions.expire(Instant::now());
    match state.sessions.resume(&asked.session_id, asked.seq, connection, outgoing) {
        Ok((replayed, before)) => {
            state.counters.resumed += 1;
            state.counters.replayed += replayed;
            // The session has one connection; the one it leaves behind ends.
            if let Some(before) = before.and_then(|before| state.connections.get_mut(&before)) {
                before.session = None;
                before.tell(Outgoing::Close(4000, "The session was resumed elsewhere.".to_owned()));
            }
            Answer::Ready(asked.session_id)
        }
        Err(Lost::Unknown) => Answer::InvalidSession { resumable: false },
        Err(Lost::BadSequence) => {
            state.violation("sent RESUME with a sequence number that was never sent");
            refuse(close::INVALID_SEQUENCE, "Invalid seq.")
        }
    }
}

/// The fault that takes the place of the answer.
fn struck(state: &mut State, when: When) -> Option<Answer> {
    let fault = state.faults.strike(|fault| (fault.when() == Some(when)).then(|| fault.clone()))?;
    Some(match fault {
        Fault::Close { code, reason, .. } => Answer::Close(code, reason),
        Fault::InvalidSession { resumable, .. } => Answer::InvalidSession { resumable },
        Fault::Reconnect { .. } => Answer::Reconnect,
        _ => Answer::Cut,
    })
}

/// Bits of an application with few guilds whose portal page has the intents enabled.
///
/// Source: Application resource, "Application Flags".
const PRESENCE_LIMITED: u64 = 1 << 13;
const MEMBERS_LIMITED: u64 = 1 << 15;
const CONTENT_LIMITED: u64 = 1 << 19;

impl State {
    pub fn application_flags(&self) -> u64 {
        let enabled = |bit| self.privileged_intents & bit != 0;
        [
            (intent::GUILD_PRESENCES, PRESENCE_LIMITED),
            (intent::GUILD_MEMBERS, MEMBERS_LIMITED),
            (intent::MESSAGE_CONTENT, CONTENT_LIMITED),
        ]
        .into_iter()
        .filter(|(bit, _)| enabled(*bit))
        .fold(0, |all, (_, flag)| all | flag)
    }

    /// Whether the application may read what others say to others.
    pub fn reads_content(&self) -> bool {
        self.privileged_intents & intent::MESSAGE_CONTENT != 0
    }

    /// Ends every session and its connection.
    pub fn end_sessions(&mut self, code: u16, reason: &str) {
        self.sessions.clear();
        for connection in self.connections.values().filter(|connection| connection.session.is_some()) {
            connection.tell(Outgoing::Close(code, reason.to_owned()));
        }
    }
}
