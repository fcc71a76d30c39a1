//! The difference between two configurations, in words and in what it costs.

use std::fmt;

use super::Config;
use super::auth::{Auth, Oidc};
use super::chat::{Backend, show_system};
use super::http_tls::{Certificate, Tls};
use super::limits::{self, Limits};
use super::network;
use super::secret::SecretRef;
use super::values::show_duration;

/// One thing that a new configuration changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The key path, or the table that came or went.
    pub key: String,
    pub from: String,
    pub to: String,
    pub cost: Cost,
}

impl Step {
    /// The table it is in, which is the name of the service that it touches.
    #[must_use]
    pub fn section(&self) -> String {
        let first = self.key.trim_matches(['[', ']']).split('.').next().unwrap_or_default();
        // The profile decides what clients see.
        if first == "environment" { "http".to_owned() } else { first.to_owned() }
    }
}

/// What a step costs those who are being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Nothing is touched.
    Nothing,
    /// A listener is bound or left; what is in flight on it ends by itself.
    Listener,
    /// The bot leaves its gateway session and identifies anew.
    DiscordSession,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} → {}", self.key, self.from, self.to)?;
        match self.cost {
            Cost::Nothing => Ok(()),
            Cost::Listener => f.write_str(" (rebinds)"),
            Cost::DiscordSession => f.write_str(" (new Discord session)"),
        }
    }
}

/// What changes when `new` replaces `old`. It depends on nothing else.
#[must_use]
pub fn plan(old: &Config, new: &Config) -> Vec<Step> {
    let mut steps = Steps(Vec::new());
    steps.compare("environment", &old.environment, &new.environment, Cost::Nothing);
    match (&old.discord, &new.discord) {
        (Some(old), Some(new)) => {
            steps.compare("discord.token", &places(Some(&old.token)), &places(Some(&new.token)), Cost::Nothing);
            let url = |discord: &super::discord::Discord| {
                discord.api_url.clone().unwrap_or_else(|| super::discord::API_URL.to_owned())
            };
            steps.compare("discord.api_url", &url(old), &url(new), Cost::DiscordSession);
            steps.compare("discord.respond", &old.respond, &new.respond, Cost::Nothing);
            steps.compare("discord.intents", &old.intents, &new.intents, Cost::DiscordSession);
            let (old, new) = (old.catch_up, new.catch_up);
            let age = |bounds: super::discord::CatchUp| show_duration(bounds.max_age);
            steps.compare("discord.catch_up.max_age", &age(old), &age(new), Cost::Nothing);
            steps.compare("discord.catch_up.per_channel", &old.per_channel, &new.per_channel, Cost::Nothing);
            steps.compare("discord.catch_up.total", &old.total, &new.total, Cost::Nothing);
        }
        (old, new) => steps.table("[discord]", old.is_some(), new.is_some(), Cost::DiscordSession),
    }
    match (&old.http, &new.http) {
        (Some(old), Some(new)) => {
            steps.compare("http.listen", &old.listen, &new.listen, Cost::Listener);
            steps.compare("http.max_body", &old.max_body, &new.max_body, Cost::Nothing);
            let origins = |http: &super::http::Http| match http.origins.as_slice() {
                [] => "none".to_owned(),
                origins => origins.join(", "),
            };
            steps.compare("http.origins", &origins(old), &origins(new), Cost::Nothing);
            let proxies = |http: &super::http::Http| network::show(&http.trusted_proxies);
            steps.compare("http.trusted_proxies", &proxies(old), &proxies(new), Cost::Nothing);
            steps.tls(old.tls.as_ref(), new.tls.as_ref());
        }
        (old, new) => steps.table("[http]", old.is_some(), new.is_some(), Cost::Listener),
    }
    steps.auth(old.auth.as_ref(), new.auth.as_ref());
    steps.chat(&old.chat.backend, &new.chat.backend);
    steps.limits(&old.limits, &new.limits);
    let durations = [
        ("reload.poll", old.reload.poll, new.reload.poll),
        ("reload.secrets", old.reload.secrets, new.reload.secrets),
        ("reload.bake", old.reload.bake, new.reload.bake),
        ("run.drain", old.run.drain, new.run.drain),
        ("run.unready", old.run.unready, new.run.unready),
    ];
    for (key, old, new) in durations {
        steps.compare(key, &show_duration(old), &show_duration(new), Cost::Nothing);
    }
    steps.compare("run.departure", &old.run.departure, &new.run.departure, Cost::Nothing);
    let (old_store, new_store) = (super::store::show(&old.store), super::store::show(&new.store));
    steps.compare("store.keep", &old_store.0, &new_store.0, Cost::Nothing);
    steps.compare("store.max_size", &old_store.1, &new_store.1, Cost::Nothing);
    let level = |config: &Config| config.log.level.to_string().to_lowercase();
    steps.compare("log.level", &level(old), &level(new), Cost::Nothing);
    steps.0
}

/// The places of a secret, or that there is none.
fn places(secret: Option<&SecretRef>) -> String {
    let Some(secret) = secret else { return "none".to_owned() };
    secret.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A value that the API's own stands in for.
fn or_theirs(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "the API's own".to_owned(), |value| value.to_string())
}

struct Steps(Vec<Step>);

impl Steps {
    fn push(&mut self, key: &str, from: String, to: String, cost: Cost) {
        self.0.push(Step { key: key.to_owned(), from, to, cost });
    }

    fn compare<T: PartialEq + fmt::Display>(&mut self, key: &str, old: &T, new: &T, cost: Cost) {
        if old != new {
            self.push(key, old.to_string(), new.to_string(), cost);
        }
    }

    fn auth(&mut self, old: Option<&Auth>, new: Option<&Auth>) {
        let (Some(old), Some(new)) = (old, new) else {
            return self.table("[auth]", old.is_some(), new.is_some(), Cost::Nothing);
        };
        let keys = |auth: &Auth| places(auth.api_keys.as_ref());
        self.compare("auth.api_keys", &keys(old), &keys(new), Cost::Nothing);
        let (Some(old), Some(new)) = (&old.oidc, &new.oidc) else {
            return self.table("[auth.oidc]", old.oidc.is_some(), new.oidc.is_some(), Cost::Nothing);
        };
        self.compare("auth.oidc.issuer", &old.issuer, &new.issuer, Cost::Nothing);
        self.compare("auth.oidc.audience", &old.audience.join(", "), &new.audience.join(", "), Cost::Nothing);
        let discovery = |oidc: &Oidc| oidc.discovery.clone().unwrap_or_else(|| "the issuer's own".to_owned());
        self.compare("auth.oidc.discovery", &discovery(old), &discovery(new), Cost::Nothing);
    }

    fn chat(&mut self, old: &Backend, new: &Backend) {
        self.compare("chat.backend", &old.to_string(), &new.to_string(), Cost::Nothing);
        let (Backend::OpenAi(old), Backend::OpenAi(new)) = (old, new) else { return };
        self.compare("chat.base_url", &old.base_url, &new.base_url, Cost::Nothing);
        self.compare("chat.model", &old.model, &new.model, Cost::Nothing);
        self.compare("chat.api_key", &places(old.api_key.as_ref()), &places(new.api_key.as_ref()), Cost::Nothing);
        if old.system != new.system {
            let (from, to) = (show_system(old.system.as_ref()), show_system(new.system.as_ref()));
            self.push("chat.system", from, to, Cost::Nothing);
        }
        self.compare("chat.temperature", &or_theirs(old.temperature), &or_theirs(new.temperature), Cost::Nothing);
        self.compare("chat.max_tokens", &or_theirs(old.max_tokens), &or_theirs(new.max_tokens), Cost::Nothing);
        self.compare("chat.history", &old.history, &new.history, Cost::Nothing);
        self.compare("chat.attachments", &old.attachments, &new.attachments, Cost::Nothing);
        let durations = [
            ("chat.timeout.connect", old.timeout.connect, new.timeout.connect),
            ("chat.timeout.first_token", old.timeout.first_token, new.timeout.first_token),
            ("chat.timeout.between_tokens", old.timeout.between_tokens, new.timeout.between_tokens),
        ];
        for (key, old, new) in durations {
            self.compare(key, &show_duration(old), &show_duration(new), Cost::Nothing);
        }
    }

    fn limits(&mut self, old: &Limits, new: &Limits) {
        self.compare("limits.ipv6_prefix", &old.ipv6_prefix, &new.ipv6_prefix, Cost::Nothing);
        self.compare("limits.exempt", &network::show(&old.exempt), &network::show(&new.exempt), Cost::Nothing);
        for (key, old, new) in [
            ("limits.address.requests_per_minute", old.address.requests, new.address.requests),
            ("limits.address.files_per_minute", old.address.files, new.address.files),
            ("limits.address.messages_per_minute", old.address.messages, new.address.messages),
            ("limits.person.requests_per_minute", old.person.requests, new.person.requests),
            ("limits.total.requests_per_minute", old.total.requests, new.total.requests),
        ] {
            self.compare(key, &limits::show(old), &limits::show(new), Cost::Nothing);
        }
        for (key, old, new) in [
            ("limits.address.connections", old.connections, new.connections),
            ("limits.address.rooms", old.rooms, new.rooms),
            ("limits.address.tokens_per_day", old.address.tokens, new.address.tokens),
            ("limits.person.tokens_per_day", old.person.tokens, new.person.tokens),
            ("limits.total.tokens_per_day", old.total.tokens, new.total.tokens),
        ] {
            self.compare(key, &limits::show(old), &limits::show(new), Cost::Nothing);
        }
    }

    fn tls(&mut self, old: Option<&Tls>, new: Option<&Tls>) {
        let (Some(old), Some(new)) = (old, new) else {
            return self.table("[http.tls]", old.is_some(), new.is_some(), Cost::Listener);
        };
        self.compare("http.tls.listen", &old.listen, &new.listen, Cost::Listener);
        match (&old.certificate, &new.certificate) {
            (Certificate::Files(old), Certificate::Files(new)) => {
                let path = |path: &std::path::Path| path.display().to_string();
                self.compare("http.tls.cert", &path(&old.cert), &path(&new.cert), Cost::Nothing);
                self.compare("http.tls.key", &path(&old.key), &path(&new.key), Cost::Nothing);
            }
            (Certificate::Acme(old), Certificate::Acme(new)) => {
                self.compare("http.tls.acme.directory", &old.directory, &new.directory, Cost::Nothing);
                self.compare("http.tls.acme.domains", &old.domains.join(", "), &new.domains.join(", "), Cost::Nothing);
                let email = |email: &Option<String>| email.clone().unwrap_or_else(|| "none".to_owned());
                self.compare("http.tls.acme.email", &email(&old.email), &email(&new.email), Cost::Nothing);
                self.compare("http.tls.acme.challenge", &old.challenge, &new.challenge, Cost::Nothing);
            }
            (old, new) => {
                let acme = |certificate: &Certificate| matches!(certificate, Certificate::Acme(_));
                self.table("[http.tls.acme]", acme(old), acme(new), Cost::Nothing);
            }
        }
    }

    fn table(&mut self, key: &str, old: bool, new: bool, cost: Cost) {
        let show = |there| if there { "on" } else { "off" }.to_owned();
        if old != new {
            self.push(key, show(old), show(new), cost);
        }
    }
}
