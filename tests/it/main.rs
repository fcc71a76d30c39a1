//! perch tried from outside, against stand-ins that are servers of their own.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test, and clippy exempts only the tests proper")]

mod acme;
mod aws_boundary;
mod balancer;
mod boot;
mod catch_up;
mod chat_backend;
mod cli;
mod clock;
mod completions;
mod crash_loop;
mod daemon;
mod departure;
mod discord_chat;
mod doors;
mod endurance;
mod history;
mod host;
mod journal;
mod kept_secrets;
mod last_good;
mod ledger;
mod limits;
mod metrics;
mod openapi;
mod packages;
mod pages;
mod readme;
mod reload;
mod restart;
mod role;
mod rotated_secrets;
mod sign_in;
mod state_directory;
mod static_binary;
mod supervision;
mod support;
mod systemd;
mod terraform;
mod tls;
mod trial;
mod uploads;
mod websocket;
