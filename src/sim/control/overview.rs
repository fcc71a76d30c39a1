//! The whole state at once, and what happens as it happens.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use crate::sim::render;
use crate::sim::state::{Shared, State as Sim};
use crate::sim::world::Channel;

/// How many of a channel's newest messages the state shows.
const MESSAGES_SHOWN: usize = 100;

/// Proxies and browsers drop a stream that is silent for long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub async fn show(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(state(&shared.state(), &shared))
}

/// Everything but tokens.
pub fn state(state: &Sim, shared: &Shared) -> Value {
    let world = &state.world;
    let people: Vec<_> = world
        .people
        .values()
        .map(|person| {
            let mut object = render::user(person);
            object["display_name"] = json!(person.display_name);
            object["member"] = json!(person.member);
            object["accepts_direct_messages"] = json!(person.accepts_direct_messages);
            object
        })
        .collect();
    json!({
        "bot": render::current_user(world),
        "people": people,
        "guilds": [{
            "id": world.guild.id,
            "name": world.guild.name,
            "roles": world.guild.roles.iter().enumerate().map(|(at, it)| render::role(it, at)).collect::<Vec<_>>(),
        }],
        "channels": world.channels.values().map(|it| with_messages(state, it)).collect::<Vec<_>>(),
        "counters": state.counters,
        "gateway": state.gateway(),
        "faults": state.faults.list(),
        "privileged_intents": state.privileged_intents,
        "heartbeat_interval_ms": u64::try_from(shared.options.heartbeat_interval.as_millis()).unwrap_or(u64::MAX),
    })
}

fn with_messages(state: &Sim, it: &Channel) -> Value {
    let mut object = channel(state, it);
    let newest = it.messages.values().rev().take(MESSAGES_SHOWN);
    let mut messages: Vec<_> = newest.map(|message| state.shown(message)).collect();
    messages.reverse();
    object["messages"] = json!(messages);
    object
}

/// Discord's channel object, and what the simulator knows besides.
pub fn channel(state: &Sim, channel: &Channel) -> Value {
    let mut object = render::channel(&state.world, channel);
    object["kind"] = json!(channel.kind.name());
    object["view"] = json!(channel.access.view);
    object["send"] = json!(channel.access.send);
    object["history"] = json!(channel.access.history);
    object
}

/// Server-sent events; each one's data is an object with a `type`. After a gap comes `lagged`, upon which a listener
/// should read the state anew.
pub async fn events(State(shared): State<Arc<Shared>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let happenings = shared.state().listen();
    let stream = stream::unfold((shared, happenings), |(shared, mut happenings)| async move {
        let data = tokio::select! {
            // What has happened is told before the stream ends.
            biased;
            happening = happenings.recv() => match happening {
                Ok(data) => data,
                Err(RecvError::Lagged(_)) => "{\"type\":\"lagged\"}".into(),
                Err(RecvError::Closed) => return None,
            },
            () = shared.shutdown.cancelled() => return None,
        };
        Some((Ok(Event::default().data(&*data)), (shared, happenings)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
