//! perch: one static binary that turns a bare EC2 instance into a running Discord bot and chat service, keeps it
//! running, and changes it without losing a message.
//!
//! ```text
//!             cli ──────────────┐
//!  systemd ─ signals ─┐         │ admin socket
//!                     ▼         ▼
//!  S3 object ──► source ──► supervisor ──► services: discord, http, chat, auth
//!  secrets ────► secrets ──┘   │  ▲            └─ both answer through one chat responder
//!                              ▼  └─ reports      │  with what everybody may have: limits
//!                          status board            └─ what outlives them: store; while it lasts: rooms
//! ```
//!
//! One change goes one way, and every step is a function to point at: `look` ([`source`]) → `Document` → `Config`
//! ([`config`]) → `plan` ([`config::plan`]) → `prepare` and `commit` ([`supervisor`]).
//!
//! To add a service, a source, a secret place or a responder: one new file, and one line in the `mod.rs` beside it.

pub mod admin;
pub mod auth;
pub mod aws;
pub mod chat;
pub mod cli;
pub mod config;
pub mod discord;
pub mod hexadecimal;
pub mod http;
pub mod json;
pub mod limits;
pub mod os;
pub mod random;
pub mod rooms;
pub mod secrets;
pub mod service;
pub mod sim;
pub mod source;
pub mod store;
pub mod supervisor;
pub mod systemd;
pub mod telemetry;
pub mod tls;
