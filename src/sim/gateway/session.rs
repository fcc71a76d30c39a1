//! Sessions outlive connections: they number the events, keep them for a while, and send them again after RESUME.
//!
//! Source: Gateway, "Disconnecting" and "Resuming".

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::events::Event;
use crate::sim::snowflake::Snowflake;
use crate::sim::state::Outgoing;
use crate::sim::world::World;

pub struct Session {
    pub token: String,
    intents: u64,
    shard: [u64; 2],
    sequence: u64,
    sent: VecDeque<(u64, String)>,
    /// The connection that has it now.
    connection: Option<(u64, mpsc::UnboundedSender<Outgoing>)>,
    left_at: Option<Instant>,
}

impl Session {
    fn push(&mut self, name: &str, data: &Value, keep: usize) {
        self.sequence += 1;
        let text = json!({ "op": 0, "t": name, "s": self.sequence, "d": data }).to_string();
        if let Some((_, outgoing)) = &self.connection {
            // A connection that has just ended takes nothing; the event stays for RESUME.
            drop(outgoing.send(Outgoing::Text(text.clone())));
        }
        self.sent.push_back((self.sequence, text));
        if self.sent.len() > keep {
            self.sent.pop_front();
        }
    }

    /// A guild belongs to one shard, direct messages to the first. Source: Gateway, "Sharding Formula".
    fn covers(&self, guild: Option<Snowflake>) -> bool {
        let [id, count] = self.shard;
        guild.map_or(id == 0, |guild| (guild.0 >> 22) % count == id)
    }
}

/// Why a session can't go on.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// Not known, expired, or events that it missed are gone: op 9, not resumable.
    Unknown,
    /// A sequence number that was never sent: close code 4007.
    BadSequence,
}

pub struct Sessions {
    all: BTreeMap<String, Session>,
    made: u64,
    ttl: Duration,
    keep: usize,
}

impl Sessions {
    pub fn new(ttl: Duration, keep: usize) -> Self {
        Self { all: BTreeMap::new(), made: 0, ttl, keep }
    }

    /// Opens a session on a connection and sends READY and the guilds. `ready` is READY without what only the session
    /// knows.
    pub fn open(&mut self, world: &World, new: NewSession, mut ready: Value) -> String {
        self.made += 1;
        // Thirty-two hexadecimal digits, as Discord's are.
        let id = format!("{:016x}{:016x}", fastrand::u64(..), self.made);
        let mut session = Session {
            token: new.token,
            intents: new.intents,
            shard: new.shard.unwrap_or([0, 1]),
            sequence: 0,
            sent: VecDeque::new(),
            connection: Some((new.connection, new.outgoing)),
            left_at: None,
        };
        let here = session.covers(Some(world.guild.id));
        let guilds = if here { json!([{ "id": world.guild.id, "unavailable": true }]) } else { json!([]) };
        ready["guilds"] = guilds;
        ready["session_id"] = json!(id);
        if let Some(shard) = new.shard {
            ready["shard"] = json!(shard);
        }
        session.push("READY", &ready, self.keep);
        // "Guilds that are unavailable due to an outage will send a Guild Delete event." Source: gateway events, "Guild
        // Create".
        let id_of_guild = world.guild.id;
        let event =
            if world.guild.available { Event::GuildCreate(id_of_guild) } else { Event::GuildDelete(id_of_guild) };
        if here && let Some((name, data)) = event.payload(world, new.intents) {
            session.push(name, &data, self.keep);
        }
        self.all.insert(id.clone(), session);
        id
    }

    pub fn dispatch(&mut self, world: &World, event: &Event) {
        for session in self.all.values_mut().filter(|session| session.covers(event.guild())) {
            if let Some((name, data)) = event.payload(world, session.intents) {
                session.push(name, &data, self.keep);
            }
        }
    }

    pub fn token(&self, id: &str) -> Option<&str> {
        self.all.get(id).map(|session| session.token.as_str())
    }

    /// Moves a session to a new connection and sends what came after `sequence`, then RESUMED. Returns how many events
    /// were sent again, and the connection that had the session until now.
    ///
    /// # Errors
    /// See [`Lost`]; in either case the session is gone.
    pub fn resume(
        &mut self,
        id: &str,
        sequence: u64,
        connection: u64,
        outgoing: mpsc::UnboundedSender<Outgoing>,
    ) -> Result<(u64, Option<u64>), Lost> {
        let session = self.all.get_mut(id).ok_or(Lost::Unknown)?;
        if sequence > session.sequence {
            self.all.remove(id);
            return Err(Lost::BadSequence);
        }
        let oldest = session.sent.front().map_or(session.sequence + 1, |(number, _)| *number);
        if sequence + 1 < oldest {
            self.all.remove(id);
            return Err(Lost::Unknown);
        }
        let mut replayed = 0;
        for (_, text) in session.sent.iter().filter(|(number, _)| *number > sequence) {
            drop(outgoing.send(Outgoing::Text(text.clone())));
            replayed += 1;
        }
        let before = session.connection.replace((connection, outgoing)).map(|(connection, _)| connection);
        session.left_at = None;
        session.push("RESUMED", &json!({}), self.keep);
        Ok((replayed, before))
    }

    /// The connection has ended; the session waits for RESUME until it expires.
    pub fn leave(&mut self, id: &str, connection: u64) {
        if let Some(session) = self.all.get_mut(id)
            && session.connection.as_ref().is_some_and(|(current, _)| *current == connection)
        {
            session.connection = None;
            session.left_at = Some(Instant::now());
        }
    }

    pub fn remove(&mut self, id: &str) {
        self.all.remove(id);
    }

    pub fn clear(&mut self) {
        self.all.clear();
    }

    pub fn expire(&mut self, now: Instant) {
        let ttl = self.ttl;
        self.all.retain(|_, session| session.left_at.is_none_or(|left| now - left < ttl));
    }

    /// The sessions without their tokens.
    pub fn list(&self) -> Vec<Value> {
        let shown = |(id, session): (&String, &Session)| {
            json!({
                "id": id,
                "sequence": session.sequence,
                "intents": session.intents,
                "shard": session.shard,
                "connection": session.connection.as_ref().map(|(connection, _)| connection),
            })
        };
        self.all.iter().map(shown).collect()
    }
}

/// What IDENTIFY asked for.
pub struct NewSession {
    pub token: String,
    pub intents: u64,
    pub shard: Option<[u64; 2]>,
    pub connection: u64,
    pub outgoing: mpsc::UnboundedSender<Outgoing>,
}
