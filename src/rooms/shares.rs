//! Whose rooms there are: no client has all of them.
//!
//! A room counts for the client that is the first in it, or was when it began; when the last of theirs leaves and others
//! stay, for one of those. So whoever joins what others began has it for nothing, and nobody goes on paying for a room
//! that only others are in.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::{KEPT_BYTES, RoomName};

/// What is kept of all of a client's rooms together, in bytes, about: no one client crowds out what others said.
const KEPT_BYTES_EACH: usize = KEPT_BYTES / 4;

/// How many rooms each client has. It knows no more clients than there are rooms.
#[derive(Default)]
pub struct Shares {
    clients: HashMap<IpAddr, Share>,
    /// So many each may have, as whoever joined last was told; `None` where there is no limit.
    pub most: Option<NonZeroU32>,
}

#[derive(Default)]
struct Share {
    rooms: u32,
    /// What is kept of them, in bytes.
    bytes: usize,
    /// Those of them in which nobody is.
    empty: HashSet<RoomName>,
}

impl Shares {
    /// Whether `client` may have one more; whoever is not limited may.
    pub fn has_room(&self, client: Option<IpAddr>) -> bool {
        let (Some(client), Some(most)) = (client, self.most) else { return true };
        self.clients.get(&client).is_none_or(|share| share.rooms < most.get())
    }

    /// A room of which so many bytes are kept is `client`'s from now on.
    pub fn take(&mut self, client: Option<IpAddr>, bytes: usize) {
        if let Some(client) = client {
            let share = self.clients.entry(client).or_default();
            share.rooms += 1;
            share.bytes += bytes;
        }
    }

    /// It is not `client`'s any more.
    pub fn give_back(&mut self, client: Option<IpAddr>, room: &RoomName, bytes: usize) {
        let Some(client) = client else { return };
        let Some(share) = self.clients.get_mut(&client) else { return };
        share.rooms -= 1;
        share.bytes -= bytes;
        share.empty.remove(room);
        if share.rooms == 0 {
            self.clients.remove(&client);
        }
    }

    /// What a room of `client`'s may keep while all of them together keep too much, in bytes.
    pub fn keeps(&self, client: Option<IpAddr>) -> Option<usize> {
        let share = client.and_then(|client| self.clients.get(&client))?;
        (share.bytes > KEPT_BYTES_EACH).then(|| KEPT_BYTES_EACH / share.rooms.max(1) as usize)
    }

    /// So many bytes more are kept of a room of `client`'s, and so many not any more.
    pub fn kept(&mut self, client: Option<IpAddr>, grown: usize, gone: usize) {
        if let Some(share) = client.and_then(|client| self.clients.get_mut(&client)) {
            share.bytes = share.bytes + grown - gone;
        }
    }

    /// Nobody is in a room of `client`'s any more, or somebody is again.
    pub fn emptied(&mut self, client: Option<IpAddr>, room: &RoomName, empty: bool) {
        let Some(share) = client.and_then(|client| self.clients.get_mut(&client)) else { return };
        if empty {
            share.empty.insert(room.clone());
        } else {
            share.empty.remove(room);
        }
    }

    /// The rooms of `client`'s in which nobody is.
    pub fn empty_of(&self, client: Option<IpAddr>) -> Vec<RoomName> {
        let share = client.and_then(|client| self.clients.get(&client));
        share.map_or_else(Vec::new, |share| share.empty.iter().cloned().collect())
    }
}

#[cfg(test)]
impl Shares {
    /// How many clients it knows.
    pub fn clients(&self) -> usize {
        self.clients.len()
    }
}
