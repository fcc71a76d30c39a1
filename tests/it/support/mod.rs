//! What the tests run against.

pub mod account;
pub mod authority;
pub mod aws;
pub mod bot;
pub mod chat;
pub mod child;
pub mod discord;
pub mod exchange;
pub mod gateway;
pub mod host;
pub mod issuer;
pub mod namespace;
pub mod pebble;
pub mod perch;
pub mod python;
pub mod raw;
pub mod site;
pub mod socket;
pub mod upload;
pub mod upstream;
