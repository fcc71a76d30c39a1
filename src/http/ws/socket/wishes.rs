//! What is done of what a client asks for, and what it is told.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::http::StatusCode;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::end::{FLOODED, Farewell};
use super::{Socket, count};
use crate::http::problem::Problem;
use crate::http::ws::asks::{Ask, Told};
use crate::http::ws::frame::{self, Reference, Wish};
use crate::limits::{Errand, Refusal};
use crate::rooms::{Full, Joined, RoomName, Said};

/// In so many rooms one may be at once, and so many questions one may have open, over one connection.
const ROOMS: usize = 16;
const ASKS: usize = 4;
/// So many rooms one may join over a connection before each counts as much as saying so many bytes: what was said there
/// is up to eight times that. A crowd that comes back after a restart joins as many for nothing.
const FREE_JOINS: u8 = 16;
const JOIN: usize = 8 << 10;
/// So many messages one may send a second, and so many at once.
const RATE: NonZeroU32 = NonZeroU32::new(10).expect("it is not zero");
const BURST: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");
/// So many refused messages are answered a second, and so many at once, before the connection is closed.
const PATIENCE: NonZeroU32 = NonZeroU32::new(1).expect("it is not zero");
const PATIENCE_BURST: NonZeroU32 = NonZeroU32::new(60).expect("it is not zero");

/// How fast somebody may send messages.
pub fn rate() -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(RATE).allow_burst(BURST))
}

/// How often a refused one is answered.
pub fn patience() -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(PATIENCE).allow_burst(PATIENCE_BURST))
}

impl Socket {
    pub fn take(&mut self, message: Message) -> Farewell {
        if let Err(farewell) = self.stands() {
            return farewell;
        }
        self.heard = Instant::now();
        self.pinged = false;
        self.wire().unfinished = 0;
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => return Some((CloseCode::Unsupported, "frames are text here")),
            // Answered by the library; who sends too many is sent away all the same.
            Message::Ping(_) | Message::Pong(_) if self.rate.check().is_err() => return FLOODED,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => return None,
        };
        count(&self.app.requests.sockets.received);
        let limited = self.rate.check().is_err();
        let wish = match Wish::read(&text) {
            Ok(wish) => wish,
            Err((problem, reference)) => return self.refuse(&problem, reference.as_ref()),
        };
        if limited {
            let detail = format!("these are too many messages at once; {RATE} a second are taken");
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
            return self.refuse(&problem, wish.reference());
        }
        if self.leaving {
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, self.why_leaving());
            return self.refuse(&problem, wish.reference());
        }
        let reference = wish.reference().cloned();
        match self.grant(wish) {
            Ok(()) => None,
            Err(problem) => self.refuse(&problem, reference.as_ref()),
        }
    }

    fn refuse(&mut self, problem: &Problem, reference: Option<&Reference>) -> Farewell {
        count(&self.app.requests.sockets.refused);
        if self.patience.check().is_err() {
            return FLOODED;
        }
        self.tell_problem(problem, reference);
        None
    }

    fn tell_problem(&mut self, problem: &Problem, reference: Option<&Reference>) {
        let live = Arc::clone(&self.app.live.borrow());
        let problem = problem.tell(self.id, &live);
        self.send(frame::error(reference, problem));
    }

    fn grant(&mut self, wish: Wish) -> Result<(), Problem> {
        match wish {
            Wish::Join { room, after, .. } => self.join(room, after),
            Wish::Leave { room, .. } => {
                let place = self.place(&room)?;
                self.rooms.swap_remove(place);
                Ok(())
            }
            Wish::Say { room, text, reference } => {
                let place = self.place(&room)?;
                self.admit(text.len())?;
                let (room, membership) = &self.rooms[place];
                let compose = |id, at| frame::message(room, id, &self.name, &text, at);
                membership.say(self.person().clone(), reference, compose);
                Ok(())
            }
            Wish::Ask { text, conversation, reference } => self.ask(text, conversation, reference),
            Wish::Stop { reference } => {
                // Where it is over already, its last frame is on its way.
                if let Some(index) = self.asks.iter().position(|ask| ask.reference.as_ref() == Some(&reference)) {
                    let ask = self.asks.swap_remove(index);
                    self.send(frame::done(ask.reference.as_ref(), ask.conversation, None));
                }
                Ok(())
            }
        }
    }

    /// Counts so many bytes that go to others in rooms, or come from there, for all connections of the client.
    fn admit(&self, bytes: usize) -> Result<(), Refusal> {
        let address = self.visitor.address;
        let live = self.app.live.borrow();
        self.app.limits.admit_address(&live.config.limits, address, Errand::Message(bytes)).map(drop)
    }

    fn place(&self, room: &RoomName) -> Result<usize, Problem> {
        self.rooms
            .iter()
            .position(|(name, _)| name == room)
            .ok_or_else(|| Problem::new(StatusCode::CONFLICT, "you are not in this room; join it first"))
    }

    fn join(&mut self, room: RoomName, after: Option<u64>) -> Result<(), Problem> {
        let again = self.rooms.iter().any(|(name, _)| *name == room);
        if !again && self.rooms.len() >= ROOMS {
            let detail = format!("you are in {ROOMS} rooms already; leave one first");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        if self.joins < FREE_JOINS {
            self.joins += 1;
        } else {
            self.admit(JOIN)?;
        }
        // Who joins again starts anew.
        self.rooms.retain(|(name, _)| *name != room);
        let most = self.app.live.borrow().config.limits.rooms;
        let joined = self.app.rooms.join(&room, after, &self.bell, most).map_err(|full| match full {
            Full::All => {
                let detail = "there are as many rooms as there may be; join one that there is, or try again later";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            }
            Full::Share(most) => {
                let detail = format!(
                    "your address has begun {most} rooms that there still are, and may have no more at once; leave one of \
                     them, or join one that somebody is in"
                );
                Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            }
        });
        let Joined { membership, members, history, incomplete } = joined?;
        let own = |said: &Said| said.by == *self.person();
        let frame = frame::joined(&room, members, &history, incomplete, own);
        self.send(frame);
        self.rooms.push((room, membership));
        Ok(())
    }

    fn ask(&mut self, text: String, conversation: Option<String>, reference: Option<Reference>) -> Result<(), Problem> {
        if self.asks.len() >= ASKS {
            let detail = format!("{ASKS} of your questions are being answered already; wait for one, or stop one");
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
        }
        if reference.is_some() && self.asks.iter().any(|ask| ask.reference == reference) {
            return Err(Problem::new(StatusCode::CONFLICT, "a question with this `ref` is being answered already"));
        }
        let (app, visitor) = (Arc::clone(&self.app), self.visitor.clone());
        self.asks.push(Ask::begin(app, visitor, text, conversation, reference)?);
        Ok(())
    }

    pub fn tell(&mut self, index: usize, told: Told) {
        let frame = match told {
            Told::Begun(conversation) => {
                self.asks[index].conversation = Some(conversation);
                return;
            }
            Told::Delta(text) => {
                let ask = &self.asks[index];
                frame::delta(ask.reference.as_ref(), &text)
            }
            Told::Done(ending) => {
                let ask = self.asks.swap_remove(index);
                frame::done(ask.reference.as_ref(), ask.conversation, ending.finish())
            }
            Told::Failed(problem) => {
                let ask = self.asks.swap_remove(index);
                return self.tell_problem(&problem, ask.reference.as_ref());
            }
        };
        self.send(frame);
    }
}
