//! One connection to the gateway, from its first byte to its last.
//!
//! twilight's shard speaks the protocol (heartbeats, IDENTIFY, RESUME) as long as it is polled. A shard here lives for
//! one connection: when to connect again, and with which session, is decided in [`bot`](super::bot).

use std::borrow::Cow;
use std::collections::HashSet;
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream as _;
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep_until, timeout_at};
use twilight_gateway::error::ReceiveMessageErrorType;
use twilight_gateway::{CloseFrame, ConfigBuilder, Intents, Message, Shard, ShardId, ShardState};
use twilight_model::gateway::event::GatewayEventDeserializer;
use twilight_model::gateway::payload::outgoing::identify::IdentifyProperties;
use twilight_model::gateway::{CloseCode, OpCode};

use super::bot::{Bot, Interrupt, gateway_base};
use super::channels::{Asked, Job};
use super::event::{
    self, ApplicationId, Deleted, DeletedAtOnce, DeletedChannel, Edited, Guild, GuildCreated, GuildId, Incoming, Ready,
};
use super::identify::Gate;
use super::seen::Place;
use super::session::Session;
use super::{NAME, mention};
use crate::service::State;

/// What perch asks to be told. A bot is given the content of messages that mention it and of direct messages without
/// the privileged intent. That messages are changed or deleted comes with the messages, and that channels are, with the
/// guilds. Source: Gateway, "List of Intents" and "Message Content Intent".
const INTENTS: Intents = Intents::GUILDS.union(Intents::GUILD_MESSAGES).union(Intents::DIRECT_MESSAGES);

/// One connection for all guilds.
pub const SHARD: ShardId = ShardId::ONE;

/// Source: Gateway, "Invalid Session": IDENTIFY again after 1 to 5 seconds.
const INVALID_SESSION_WAIT: (f64, f64) = (1.0, 5.0);

/// How long a connection may keep perch waiting. Tests shorten it.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the first byte to HELLO; twilight allows 10 s for the WebSocket handshake alone.
    pub hello: Duration,
    /// From IDENTIFY or RESUME to READY or RESUMED, or between two replayed events.
    pub ready: Duration,
    /// From our close frame to theirs.
    pub close: Duration,
    /// For reading one channel's history, which takes half a minute at most unless Discord is in trouble. Who writes there
    /// now waits behind what was missed.
    pub history: Duration,
    /// How long a connection has to hold, so that its end is taken for a first failure and soon followed by the next.
    pub stable: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            hello: Duration::from_secs(15),
            ready: Duration::from_secs(30),
            close: Duration::from_secs(2),
            history: Duration::from_mins(2),
            stable: Duration::from_mins(1),
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    Lost(Lost),
    /// Discord will not have perch like this: a close code after which trying again can't help.
    Fatal(u16),
}

/// A connection that is to be made again.
#[derive(Debug)]
pub struct Lost {
    pub reason: Cow<'static, str>,
    /// How long it had been up.
    pub held: Option<Duration>,
    /// The least time to wait before the next.
    pub wait: Duration,
    /// It did not come about at all.
    pub unconnected: bool,
}

impl Lost {
    pub fn because(reason: impl Into<Cow<'static, str>>) -> Lost {
        Lost { reason: reason.into(), held: None, wait: Duration::ZERO, unconnected: false }
    }
}

/// What a shard came up with.
enum Next {
    Frame(String),
    Unreadable,
    Closed(Option<u16>),
    Unconnected(String),
    TimedOut,
}

/// How far a connection is.
struct Course {
    resuming: bool,
    greeted: bool,
    /// A second HELLO came: the shard lost its connection and made another within one poll, with no wait between them.
    strayed: bool,
    up_since: Option<Instant>,
    /// When patience ends, and with what words.
    deadline: Option<(Instant, &'static str)>,
    latency: Option<Duration>,
    /// Set once perch closes it, with what is to follow.
    closing: Option<Lost>,
}

impl Bot<'_> {
    /// Connects at `url` and serves the connection until it ends. With a `session` it is resumed, at its own address
    /// unless that one was out of reach.
    pub(super) async fn connection(&mut self, url: Option<&str>, session: Option<&Session>) -> Result<End, Interrupt> {
        let mut shard = self.shard(url, session);
        let hello = (Instant::now() + self.discord.patience.hello, "the gateway did not say hello in time");
        let mut course = Course {
            resuming: session.is_some(),
            greeted: false,
            strayed: false,
            up_since: None,
            deadline: Some(hello),
            latency: None,
            closing: None,
        };
        loop {
            let awaited = next(&mut shard, course.closing.is_some(), course.deadline.map(|(at, _)| at));
            let item = match self.attend(awaited).await {
                Ok(item) => item,
                Err(interrupt) => {
                    self.leave(shard, &interrupt).await;
                    return Err(interrupt);
                }
            };
            match item {
                Next::Frame(text) => self.frame(&text, &mut course),
                Next::Unreadable => {
                    tracing::warn!(service = NAME, "the gateway sent something unreadable, which is left out");
                }
                Next::Closed(code) => return Ok(self.closed(code, course)),
                Next::Unconnected(cause) => {
                    let reason = format!("can't connect to Discord's gateway: {cause}");
                    return Ok(End::Lost(Lost { unconnected: true, ..Lost::because(reason) }));
                }
                Next::TimedOut => {
                    let reason = course.deadline.map_or("", |(_, reason)| reason);
                    let lost = course.closing.take().unwrap_or_else(|| Lost::because(reason));
                    return Ok(End::Lost(Lost { held: course.up_since.map(|up| up.elapsed()), ..lost }));
                }
            }
            if course.strayed {
                return Ok(self.closed(None, course));
            }
            let latency = shard.latency().recent().first().copied();
            if latency != course.latency {
                course.latency = latency;
                self.tell(|facts| facts.latency = latency);
            }
        }
    }

    /// What perch asks to be told, and what the configuration asks for beside it.
    pub(super) fn intents(&self) -> Intents {
        INTENTS | Intents::from_bits_truncate(self.account.intents.0)
    }

    fn shard(&self, url: Option<&str>, session: Option<&Session>) -> Shard<Gate> {
        let token = self.account.token.expose_secret().to_owned();
        let mut config = ConfigBuilder::new(token, self.intents())
            .identify_properties(IdentifyProperties::new("perch", "perch", std::env::consts::OS))
            .queue(self.discord.gate.clone());
        if let Some(url) = url {
            config = config.proxy_url(url.to_owned());
        }
        if let Some(session) = session {
            config = config.session(twilight_gateway::Session::new(session.sequence, session.id.clone()));
            if url.is_none() {
                config = config.resume_url(gateway_base(&session.resume_url).to_owned());
            }
        }
        Shard::with_config(SHARD, config.build())
    }

    fn frame(&mut self, text: &str, course: &mut Course) {
        let Some((operation, sequence, name)) =
            GatewayEventDeserializer::from_json(text).map(GatewayEventDeserializer::into_parts)
        else {
            return;
        };
        let patience = self.discord.patience;
        match OpCode::from(operation) {
            Some(OpCode::Hello) => {
                course.strayed = course.greeted;
                course.greeted = true;
                if course.strayed {
                    return;
                }
                if course.resuming {
                    self.tell(|facts| facts.resumes += 1);
                }
                course.deadline = Some((Instant::now() + patience.ready, "the gateway did not begin the session"));
            }
            Some(OpCode::Dispatch) => {
                if let Some((at, _)) = &mut course.deadline {
                    *at = Instant::now() + patience.ready;
                }
                self.dispatch(name.as_deref().unwrap_or(""), sequence.unwrap_or(0), text, course);
                if let Some(sequence) = sequence {
                    self.discord.store.taken(sequence);
                }
            }
            Some(OpCode::Reconnect) => {
                course.close(Lost::because("Discord asked perch to connect again"), patience.close);
            }
            Some(OpCode::InvalidSession) => {
                let resumable = event::read::<bool>(text).unwrap_or(false);
                let mut lost = Lost::because("Discord called the session invalid");
                if !resumable {
                    let (least, most) = INVALID_SESSION_WAIT;
                    lost.wait = Duration::from_secs_f64(least + (most - least) * fastrand::f64());
                    self.lose_session();
                }
                course.close(lost, patience.close);
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, name: &str, sequence: u64, text: &str, course: &mut Course) {
        let read = match name {
            "READY" => event::read::<Ready>(text).map(|ready| {
                let application = ready.application.map(|application| application.id);
                let guilds: HashSet<GuildId> = ready.guilds.iter().map(|guild| guild.id).collect();
                self.discord.store.open(Session {
                    id: ready.session_id,
                    sequence,
                    resume_url: ready.resume_gateway_url,
                    application: application.map_or(0, ApplicationId::get),
                    guilds: guilds.iter().map(|guild| guild.get()).collect(),
                });
                let alone = ready.guilds.is_empty();
                self.tell(|facts| {
                    (facts.user, facts.application, facts.guilds) = (Some(ready.user), application, guilds);
                });
                self.catch_up.session(true, self.caused_by);
                if alone {
                    self.look_at_direct();
                }
                self.up(course);
            }),
            "RESUMED" => {
                self.catch_up.session(false, self.caused_by);
                self.up(course);
                Ok(())
            }
            "GUILD_CREATE" => event::read::<GuildCreated>(text).map(|created| {
                let guild = Guild { id: created.id, unavailable: created.unavailable };
                self.guild(&guild, false);
                self.look_around(&created, self.discord.store.event(sequence));
            }),
            "GUILD_DELETE" => event::read::<Guild>(text).map(|guild| self.guild(&guild, true)),
            "CHANNEL_DELETE" | "THREAD_DELETE" => {
                event::read::<DeletedChannel>(text).map(|gone| self.channels.delete(gone.id, |_| true))
            }
            "MESSAGE_DELETE" => event::read::<Deleted>(text)
                .map(|gone| self.channels.delete(gone.channel_id, |message| message == gone.id)),
            "MESSAGE_DELETE_BULK" => event::read::<DeletedAtOnce>(text)
                .map(|gone| self.channels.delete(gone.channel_id, |message| gone.ids.contains(&message))),
            "MESSAGE_UPDATE" => event::read::<Edited>(text).map(|edited| self.channels.edit(&edited)),
            "MESSAGE_CREATE" => event::read::<Incoming>(text).map(|message| {
                let account = Arc::clone(&self.account);
                let place = Place::new(account.user.id.get(), message.channel_id);
                let (id, channel, direct) = (message.id, message.channel_id, message.guild_id.is_none());
                if mention::is_for(&message, account.user.id) {
                    let event = self.discord.store.event(sequence);
                    self.take(Job::new(Asked::Heard { message, event }, account));
                    if self.channels.holds(channel) {
                        self.catch_up.hurry(channel);
                    }
                }
                self.discord.marks.heard(place, id, direct);
            }),
            _ => Ok(()),
        };
        if let Err(error) = read {
            // The error's own words may repeat what somebody wrote.
            let (event, column) = (name, error.column());
            tracing::warn!(
                service = NAME,
                event,
                column,
                "an event {event} can't be read (column {column}), and is left out"
            );
        }
    }

    /// The bot is, or is no longer, in a guild.
    fn guild(&self, guild: &Guild, left: bool) {
        self.tell(|facts| {
            facts.guild(guild, left);
            self.discord.store.guilds(facts.guilds.iter().map(|guild| guild.get()).collect());
        });
    }

    fn up(&mut self, course: &mut Course) {
        course.up_since = Some(Instant::now());
        course.deadline = None;
        self.connected(course.resuming);
    }

    fn closed(&self, code: Option<u16>, course: Course) -> End {
        let held = course.up_since.map(|up| up.elapsed());
        if let Some(lost) = course.closing {
            return End::Lost(Lost { held, ..lost });
        }
        let reason = match code.map(|code| (code, CloseCode::try_from(code))) {
            Some((code, Ok(known))) if !known.can_reconnect() => return End::Fatal(code),
            Some((code, known)) => {
                // Source: Opcodes and Status Codes, "Gateway Close Event Codes": after these a new session is due.
                if matches!(
                    known,
                    Ok(CloseCode::NotAuthenticated | CloseCode::InvalidSequence | CloseCode::SessionTimedOut)
                ) {
                    self.lose_session();
                }
                format!("the connection to Discord's gateway ended with code {code}").into()
            }
            None => Cow::Borrowed("the connection to Discord's gateway was cut"),
        };
        End::Lost(Lost { held, ..Lost::because(reason) })
    }

    /// Ends a connection so that its session can be resumed, after what is in flight when perch or the host stops.
    async fn leave(&mut self, mut shard: Shard<Gate>, interrupt: &Interrupt) {
        let mut open = shard.state() != ShardState::Disconnected { reconnect_attempts: 0 };
        if matches!(interrupt, Interrupt::Stop | Interrupt::Leaving) {
            open = self.drain(open.then_some(&mut shard)).await;
        }
        if !open {
            return;
        }
        shard.close(CloseFrame::RESUME);
        let deadline = Instant::now() + self.discord.patience.close;
        // Events that still come are not taken: they come again when the session is resumed.
        while let Next::Frame(_) | Next::Unreadable = next(&mut shard, true, Some(deadline)).await {}
    }

    /// Waits until everything that was taken is answered, within three quarters of the time there is. Returns whether
    /// the connection still stands.
    pub(super) async fn drain(&mut self, mut shard: Option<&mut Shard<Gate>>) -> bool {
        self.reporter.state(State::Draining, "finishing what is in flight");
        self.let_go();
        let deadline = Instant::now() + self.live.borrow().config.run.drain * 3 / 4;
        while !self.channels.idle() {
            let heartbeats = async {
                if let Some(shard) = &mut shard {
                    return next(shard, false, Some(deadline)).await;
                }
                sleep_until(deadline).await;
                Next::TimedOut
            };
            tokio::select! {
                done = self.channels.next() => {
                    self.note(done);
                }
                item = heartbeats => match item {
                    Next::Frame(_) | Next::Unreadable => {}
                    Next::Closed(_) | Next::Unconnected(_) => shard = None,
                    Next::TimedOut => {
                        tracing::warn!(service = NAME, "perch stops with messages unanswered");
                        break;
                    }
                },
            }
        }
        shard.is_some()
    }
}

impl Course {
    fn close(&mut self, lost: Lost, patience: Duration) {
        self.closing = Some(lost);
        self.deadline = Some((Instant::now() + patience, "the gateway did not close"));
    }
}

/// Polls `shard` for what comes next, and no further than the end of its connection: left to itself it would connect
/// again at once.
async fn next(shard: &mut Shard<Gate>, closing: bool, deadline: Option<Instant>) -> Next {
    let down = |state| matches!(state, ShardState::Disconnected { .. } | ShardState::FatallyClosed);
    let item = poll_fn(|context| {
        let before = shard.state();
        let polled = Pin::new(&mut *shard).poll_next(context);
        let came_back = closing && down(before) && !down(shard.state());
        let went_down = !closing && !down(before) && down(shard.state()) && polled.is_pending();
        if came_back || went_down {
            return Poll::Ready(Next::Closed(None));
        }
        polled.map(|item| match item {
            Some(Ok(Message::Text(text))) => Next::Frame(text),
            Some(Ok(Message::Close(frame))) => Next::Closed(frame.map(|frame| frame.code)),
            Some(Err(error)) => match error.kind() {
                ReceiveMessageErrorType::Reconnect => {
                    Next::Unconnected(error.source().map_or_else(String::new, ToString::to_string))
                }
                _ => Next::Unreadable,
            },
            None => Next::Closed(None),
        })
    });
    match deadline {
        Some(deadline) => timeout_at(deadline, item).await.unwrap_or(Next::TimedOut),
        None => item.await,
    }
}
