//! `[chat]`: what makes the answers.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{Place, Table, quote};
use super::secret::{self, SecretRef};
use crate::chat::files::Kind;

/// OpenAI's own address, which is taken unless the configuration names another.
pub const OPENAI: &str = "https://api.openai.com/v1";

/// How many earlier messages are sent along unless the configuration says otherwise, and the bounds.
const HISTORY: u32 = 20;
const HISTORY_BOUNDS: RangeInclusive<u32> = 0..=200;
/// The most tokens that an answer may be limited to; models of today write fewer.
const MAX_TOKENS_BOUNDS: RangeInclusive<u32> = 1..=1_000_000;
/// In thousandths. Source: OpenAI API reference, "Create chat completion".
const TEMPERATURE_BOUNDS: RangeInclusive<u32> = 0..=2_000;
/// The longest model name and system prompt, in bytes.
const LONGEST_MODEL: usize = 200;
const LONGEST_SYSTEM: usize = 64 << 10;

const SECOND: Duration = Duration::from_secs(1);
const CONNECT_BOUNDS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);
const TOKEN_BOUNDS: RangeInclusive<Duration> = SECOND..=Duration::from_mins(10);

/// The responder's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    pub backend: Backend,
}

/// Which responder answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    #[default]
    Echo,
    OpenAi(Box<OpenAi>),
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Echo => "echo",
            Backend::OpenAi(_) => "openai",
        })
    }
}

/// An API that speaks OpenAI's chat completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAi {
    /// Without a trailing slash.
    pub base_url: String,
    /// Where the configuration names the address, or would.
    pub place: Place,
    pub model: String,
    /// `None` where the API asks for none.
    pub api_key: Option<SecretRef>,
    /// What the model is told before anything else.
    pub system: Option<String>,
    /// The API's own where it is not set.
    pub temperature: Option<Temperature>,
    /// The longest answer, in the model's tokens.
    pub max_tokens: Option<u32>,
    /// How many earlier messages of a conversation are sent along.
    pub history: u32,
    /// Which files the model reads.
    pub attachments: Attachments,
    pub timeout: Timeout,
}

/// Which files a responder reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachments {
    pub images: bool,
    pub pdf: bool,
}

impl Attachments {
    /// OpenAI's own models read both; what another server's models do with a file nobody can know from here, and some
    /// pass over it without a word.
    fn of(base_url: &str) -> Attachments {
        let own = base_url == OPENAI;
        Attachments { images: own, pdf: own }
    }

    fn read(table: &mut Table<'_>) -> Option<Attachments> {
        let mut attachments = Attachments::default();
        for entry in table.entry("attachments")?.one_or_many() {
            match entry.text("\"images\" or \"pdf\"") {
                Some("images") => attachments.images = true,
                Some("pdf") => attachments.pdf = true,
                Some(other) => entry.mistake(format!("{} is neither \"images\" nor \"pdf\"", quote(other))),
                None => {}
            }
        }
        Some(attachments)
    }

    /// Whether a file of this kind is read.
    #[must_use]
    pub fn have(self, kind: Kind) -> bool {
        if kind.is_image() { self.images } else { self.pdf }
    }
}

impl fmt::Display for Attachments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.images, self.pdf) {
            (true, true) => "images, pdf",
            (true, false) => "images",
            (false, true) => "pdf",
            (false, false) => "none",
        })
    }
}

/// How freely a model writes, from 0 to 2, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Temperature(pub u32);

impl fmt::Display for Temperature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.0) / 1_000.0)
    }
}

/// How long the API may keep somebody waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// Until it takes a connection, TLS included.
    pub connect: Duration,
    /// From the question to the first piece of the answer, further tries included; to all of it, where it is asked for
    /// whole.
    pub first_token: Duration,
    /// From one piece to the next.
    pub between_tokens: Duration,
}

impl Default for Timeout {
    fn default() -> Self {
        Timeout { connect: 5 * SECOND, first_token: 60 * SECOND, between_tokens: 30 * SECOND }
    }
}

impl Chat {
    pub(super) fn read(mut table: Table<'_>) -> Chat {
        let openai = table.choice("backend", &[("echo", false), ("openai", true)]).unwrap_or(false);
        // What is written is checked whichever backend is chosen, so that changing it back finds everything in order.
        let settings = OpenAi::read(&mut table, openai);
        table.finish();
        Chat { backend: if openai { Backend::OpenAi(Box::new(settings)) } else { Backend::Echo } }
    }

    /// The secret that the backend needs.
    #[must_use]
    pub fn secret(&self) -> Option<&SecretRef> {
        match &self.backend {
            Backend::Echo => None,
            Backend::OpenAi(openai) => openai.api_key.as_ref(),
        }
    }

    /// Which files the responder reads. An echo says of every one what it is.
    #[must_use]
    pub fn attachments(&self) -> Attachments {
        match &self.backend {
            Backend::Echo => Attachments { images: true, pdf: true },
            Backend::OpenAi(openai) => openai.attachments,
        }
    }

    /// How many earlier messages of a conversation the responder wants to know.
    #[must_use]
    pub fn history(&self) -> usize {
        match &self.backend {
            Backend::Echo => 0,
            Backend::OpenAi(openai) => openai.history as usize,
        }
    }
}

impl OpenAi {
    fn read(table: &mut Table<'_>, needed: bool) -> OpenAi {
        let place = table.entry("base_url").map_or_else(|| table.place(), |entry| entry.place());
        let base_url = table.address("base_url", OPENAI).unwrap_or_else(|| OPENAI.to_owned());
        let model = match (table.has("model"), needed) {
            (false, true) => {
                table.required("model", "name the model that answers, such as \"gpt-4o-mini\"");
                None
            }
            _ => table.line("model", "the name of a model", LONGEST_MODEL),
        };
        // Only OpenAI's own address is known to need one: a server on this machine may have no keys at all.
        let api_key =
            if needed && base_url == OPENAI { Some(secret::read(table, "api_key")) } else { optional_key(table) };
        let system = system(table);
        let temperature = table.number("temperature", TEMPERATURE_BOUNDS).map(Temperature);
        let max_tokens = table.integer("max_tokens", MAX_TOKENS_BOUNDS);
        let history = table.integer("history", HISTORY_BOUNDS).unwrap_or(HISTORY);
        let attachments = Attachments::read(table).unwrap_or_else(|| Attachments::of(&base_url));
        let timeout = table.table("timeout").map(Timeout::read).unwrap_or_default();
        let model = model.unwrap_or_default();
        OpenAi { base_url, place, model, api_key, system, temperature, max_tokens, history, attachments, timeout }
    }
}

fn optional_key(table: &mut Table<'_>) -> Option<SecretRef> {
    table.entry("api_key")?;
    Some(secret::read(table, "api_key"))
}

fn system(table: &mut Table<'_>) -> Option<String> {
    let entry = table.entry("system")?;
    let text = entry.text("what the model is told first, as a string")?.trim();
    if text.len() > LONGEST_SYSTEM {
        entry.mistake(format!("is longer than {} KiB", LONGEST_SYSTEM >> 10));
        return None;
    }
    (!text.is_empty()).then(|| text.to_owned())
}

/// A system prompt as a step of a plan shows it.
pub(super) fn show_system(system: Option<&String>) -> String {
    system.map_or_else(|| "none".to_owned(), |system| quote(system))
}

impl Timeout {
    fn read(mut table: Table<'_>) -> Timeout {
        let default = Timeout::default();
        let timeout = Timeout {
            connect: table.duration("connect", CONNECT_BOUNDS).unwrap_or(default.connect),
            first_token: table.duration("first_token", TOKEN_BOUNDS).unwrap_or(default.first_token),
            between_tokens: table.duration("between_tokens", TOKEN_BOUNDS).unwrap_or(default.between_tokens),
        };
        table.finish();
        timeout
    }
}
