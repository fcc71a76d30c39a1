//! Whose rooms there are: no client has all of them.
//!
//! A room counts for the client that is the first in it, or was when it began; when the last of theirs leaves and others
//! stay, for one of those. So whoever joins what others began has it for nothing, and nobody goes on paying for a room
//! that only others are in.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::RoomName;

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
    /// Those of them in which nobody is.
    empty: HashSet<RoomName>,
}

impl Shares {
    /// Whether `client` may have one more; whoever is not limited may.
    pub fn has_room(&self, client: Option<IpAddr>) -> bool {
        let (Some(client), Some(most)) = (client, self.most) else { return true };
        self.clients.get(&client).is_none_or(|share| share.rooms < most.get())
    }

    /// A room is `client`'s from now on.
    pub fn take(&mut self, client: Option<IpAddr>) {
        if let Some(client) = client {
            self.clients.entry(client).or_default().rooms += 1;
        }
    }

    /// A room is not `client`'s any more.
    pub fn give_back(&mut self, client: Option<IpAddr>, room: &RoomName) {
        let Some(client) = client else { return };
        let Some(share) = self.clients.get_mut(&client) else { return };
        share.rooms -= 1;
        share.empty.remove(room);
        if share.rooms == 0 {
            self.clients.remove(&client);
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
