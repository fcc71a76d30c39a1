//! `[auth]`: who may use the chat over HTTP. Without the table, everybody.

use std::net::IpAddr;

use reqwest::Url;

use super::document::{Place, Table, quote};
use super::secret::{self, SecretRef};

/// The longest issuer and audience, in bytes.
const LONGEST: usize = 500;

/// Who may sign in. At least one of the two is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Where the hashes of the API keys are.
    pub api_keys: Option<SecretRef>,
    pub oidc: Option<Oidc>,
}

/// An issuer whose tokens are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    /// To the letter as in its tokens, with a slash at the end or without.
    pub issuer: String,
    /// Where the configuration names it.
    pub place: Place,
    /// A token has to be for one of these.
    pub audience: Vec<String>,
    /// Where the issuer's configuration is, if it is not below the issuer's own address.
    pub discovery: Option<String>,
}

/// Whether what comes from there may say who is let in: nobody on the way can have written it.
#[must_use]
pub fn is_trustworthy(url: &Url) -> bool {
    // A port that nobody but this host's own can be reached at.
    let own = || {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    match url.scheme() {
        "https" => url.has_host(),
        "http" => own(),
        _ => false,
    }
}

impl Auth {
    pub(super) fn read(mut table: Table<'_>) -> Auth {
        let api_keys = table.has("api_keys").then(|| secret::read(&mut table, "api_keys"));
        let oidc = table.table("oidc").map(Oidc::read);
        if api_keys.is_none() && !table.has("oidc") {
            table.mistake("", "lets nobody in; add [auth.api_keys] or [auth.oidc], or leave the table out");
        }
        table.finish();
        Auth { api_keys, oidc }
    }
}

impl Oidc {
    fn read(mut table: Table<'_>) -> Oidc {
        let place = table.entry("issuer").map_or_else(|| table.place(), |entry| entry.place());
        table.required("issuer", "write it as it stands in the tokens: \"https://…\"");
        let issuer = address(&mut table, "issuer").unwrap_or_default();
        let audience = audience(&mut table);
        let discovery = address(&mut table, "discovery");
        table.finish();
        Oidc { issuer, place, audience, discovery }
    }
}

/// An address as it is written: an issuer is compared to the letter.
fn address(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    let entry = table.entry(key)?;
    let text = entry.text("an https address")?;
    let flaw = match Url::parse(text) {
        _ if text.len() > LONGEST => format!("is longer than {LONGEST} bytes"),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "must not hold a user name or password".to_owned()
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => {
            "must not hold a query or a fragment".to_owned()
        }
        Ok(url) if is_trustworthy(&url) => return Some(text.to_owned()),
        Ok(url) if url.scheme() == "http" => {
            "must be https: whoever is on the way could let himself in (http is for an issuer on this host alone)"
                .to_owned()
        }
        _ => format!("{} is not an https address", quote(text)),
    };
    entry.mistake(flaw);
    None
}

fn audience(table: &mut Table<'_>) -> Vec<String> {
    let hint =
        "name who the tokens are for, or else those for others would be good here; for Cognito, the app client's id";
    let Some(entry) = table.required("audience", hint) else { return Vec::new() };
    let entries = entry.one_or_many();
    if entries.is_empty() {
        table.mistake("audience", "lists nobody; name at least one");
    }
    let read = |entry: super::document::Entry<'_>| {
        let text = entry.text("a string, or a list of them")?;
        if text.trim().is_empty() || text.len() > LONGEST || text.chars().any(char::is_control) {
            entry.mistake(format!("must be 1 to {LONGEST} bytes on one line"));
            return None;
        }
        Some(text.to_owned())
    };
    entries.into_iter().filter_map(read).collect()
}
