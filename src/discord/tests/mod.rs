//! The bot against the simulator, through the client code that production runs.

mod catch_up;
mod chat;
mod echo;
mod outages;
mod parked;
mod restarts;
mod stage;
mod states;
