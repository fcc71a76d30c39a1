//! Who somebody is, by what they show: an API key ([`keys`]) or a token of an OIDC issuer ([`token`]).
//!
//! It is a service of its own, so that a new configuration or a rotated secret is tried before it is used, and one that is
//! refused leaves what was; while it runs, it keeps the [`mod@issuer`]'s keys fresh.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use serde_json::json;

use crate::chat::PersonId;
use crate::config::Config;
use crate::config::auth::Oidc;
use crate::config::secret::SecretRef;
use crate::service::{Cause, Context, Live, Next, Part, Problem, Readiness, Reporter, Service, State};

mod attempts;
pub mod counts;
mod issuer;
mod jwks;
pub mod keys;
mod token;

use attempts::Attempts;
use counts::Counts;
use issuer::{Asked, Issuer, NoKeys};
use jwks::KeySet;
use keys::{Hash, Keys};
use token::{Expected, Flaw, Token};

/// This service's name.
pub const NAME: &str = "auth";

/// So many credentials are known to have been good.
const PROVEN: usize = 10_000;

/// The service.
#[derive(Default)]
pub struct SignIn {
    memory: Arc<Memory>,
}

/// What outlives a change of the configuration.
#[derive(Default)]
struct Memory {
    attempts: Attempts,
    /// Hashes of credentials that were good, and are looked at however often their address fails: one client with an old
    /// key in an office shall not keep the others there waiting.
    proven: Mutex<HashSet<Hash>>,
    counts: Arc<Counts>,
}

impl SignIn {
    /// A service that counts into `counts`.
    #[must_use]
    pub fn new(counts: Arc<Counts>) -> SignIn {
        SignIn { memory: Arc::new(Memory { counts, ..Memory::default() }) }
    }
}

/// What says who somebody is, as one configuration wants it: the part of this service.
pub struct Verifier {
    keys: Option<Keys>,
    oidc: Option<(Arc<Issuer>, Vec<String>)>,
    memory: Arc<Memory>,
}

/// Somebody who has signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    pub person: PersonId,
    /// When what they showed is good for nothing any more, where that comes by itself.
    pub until: Option<SystemTime>,
    shown: Shown,
}

/// What somebody showed, as far as it takes to know whether it is still good.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    Key(Hash),
    Token { issuer: String, audience: Vec<String> },
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// What they showed is no good, in words for them.
    Invalid(&'static str),
    /// Too many tries failed.
    Wait(Duration),
    /// Nobody can tell at the moment: the issuer's keys can't be had.
    Unknown,
}

impl Verifier {
    /// Who it is that shows `credential`, coming from `address`.
    ///
    /// # Errors
    /// Why they are not let in.
    pub async fn identify(&self, credential: &str, address: IpAddr) -> Result<Signed, Refusal> {
        let hash = keys::hash(credential);
        let proven = self.memory.proven.lock().unwrap_or_else(PoisonError::into_inner).contains(&hash);
        let wait = self.memory.attempts.wait(address, Instant::now()).filter(|_| !proven);
        let shown = match (credential.starts_with(keys::PREFIX), wait) {
            (true, None) => self.key(&hash, address),
            (false, None) => self.token(credential, address).await,
            (true, Some(wait)) => Err(self.wait(wait)),
            // Nobody guesses a signature: who comes with a new token each hour waits for nobody with an old key.
            (false, Some(wait)) => self.signed_by_key_at_hand(credential).ok_or_else(|| self.wait(wait)),
        };
        if shown.is_ok() {
            self.memory.counts.passed.add();
            if !proven {
                let mut known = self.memory.proven.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= PROVEN {
                    // Whoever comes again is proven again.
                    known.clear();
                }
                known.insert(hash);
            }
        }
        shown
    }

    /// Counts somebody who showed nothing.
    pub fn nothing_shown(&self) {
        self.memory.counts.missing.add();
    }

    fn wait(&self, wait: Duration) -> Refusal {
        self.memory.counts.waiting.add();
        Refusal::Wait(wait)
    }

    fn failed(&self, address: IpAddr) {
        if self.memory.attempts.failed(address, Instant::now()) && self.memory.counts.complains() {
            tracing::warn!(
                service = NAME,
                "{address} fails to sign in again and again, and has to wait after each try; others sign in as ever"
            );
        }
    }

    fn key(&self, hash: &Hash, address: IpAddr) -> Result<Signed, Refusal> {
        let holder = self.keys.as_ref().and_then(|keys| keys.holder(hash));
        let Some(person) = holder else {
            self.memory.counts.unknown_key.add();
            self.failed(address);
            return Err(Refusal::Invalid("the key is not known"));
        };
        Ok(Signed { person: person.clone(), until: None, shown: Shown::Key(*hash) })
    }

    async fn token(&self, text: &str, address: IpAddr) -> Result<Signed, Refusal> {
        let Some((issuer, _)) = &self.oidc else {
            self.memory.counts.no_issuer.add();
            self.failed(address);
            return Err(Refusal::Invalid("tokens are not taken here, only keys"));
        };
        let invalid = |flaw: Flaw| {
            self.memory.counts.flaw(flaw).add();
            // One that has expired, or is for somebody else, is nobody's guess.
            if flaw.is_unproven() {
                self.failed(address);
            }
            Refusal::Invalid(flaw.words())
        };
        let unknown = |NoKeys| {
            self.memory.counts.unavailable.add();
            Refusal::Unknown
        };
        let token = Token::read(text).map_err(invalid)?;
        let keys = issuer.keys().await.map_err(unknown)?;
        let signed = match self.prove(&token, &keys) {
            // The issuer may have begun to sign with another key.
            Err(Flaw::UnknownKey) => self.prove(&token, &*issuer.newer().await.map_err(unknown)?),
            signed => signed,
        };
        signed.map_err(invalid)
    }

    /// Whose token it is, where that is sure without asking anybody.
    fn signed_by_key_at_hand(&self, text: &str) -> Option<Signed> {
        let (issuer, _) = self.oidc.as_ref()?;
        self.prove(&Token::read(text).ok()?, &*issuer.at_hand()?).ok()
    }

    fn prove(&self, token: &Token<'_>, keys: &KeySet) -> Result<Signed, Flaw> {
        let Some((issuer, audience)) = &self.oidc else { return Err(Flaw::Issuer) };
        let proven = token.prove(keys, &Expected { issuer: &issuer.name, audience, now: SystemTime::now() })?;
        Ok(Signed {
            person: PersonId::subject(&issuer.name, &proven.subject),
            until: Some(proven.until + token::LEEWAY),
            shown: Shown::Token { issuer: issuer.name.clone(), audience: proven.audience },
        })
    }
}

#[async_trait]
impl Service for SignIn {
    fn name(&self) -> &'static str {
        NAME
    }

    fn wanted(&self, config: &Config) -> bool {
        config.auth.is_some()
    }

    /// The issuer is not asked here: that it is away keeps no configuration from being applied, nor those who hold a key
    /// from being served.
    async fn prepare(&self, next: &Next<'_>, running: Option<&Live>) -> Result<Part, Vec<Problem>> {
        let Some(config) = &next.config.auth else { return Err(Vec::new()) };
        let running = running.and_then(|live| live.part::<Verifier>(NAME));
        let keys = config.api_keys.as_ref().map(|wanted| read_keys(wanted, next)).transpose();
        let oidc = config.oidc.as_ref().map(|wanted| issuer(wanted, running.as_deref())).transpose();
        match (keys, oidc) {
            (Ok(keys), Ok(oidc)) => Ok(Arc::new(Verifier { keys, oidc, memory: Arc::clone(&self.memory) })),
            (keys, oidc) => Err(keys.err().into_iter().chain(oidc.err()).collect()),
        }
    }

    async fn run(&self, mut context: Context) -> anyhow::Result<()> {
        loop {
            let live = Arc::clone(&context.live.borrow_and_update());
            let verifier = live.part::<Verifier>(NAME);
            match (&verifier, live.parts.get(NAME)) {
                (Some(verifier), _) if verifier.oidc.is_none() => context.reporter.state(State::Running, ""),
                (Some(_), _) => {}
                (None, Some(Readiness::Held { state, reason })) => context.reporter.state(*state, reason.clone()),
                (None, _) => context.reporter.state(State::Waiting, "the configuration names nobody who may sign in"),
            }
            let serve = async {
                match verifier.as_deref() {
                    Some(verifier) => verifier.follow(&context.reporter).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = context.stop.cancelled() => return Ok(()),
                changed = context.live.changed() => if changed.is_err() { return Ok(()) },
                () = serve => {}
            }
        }
    }
}

fn read_keys(wanted: &SecretRef, next: &Next<'_>) -> Result<Keys, Problem> {
    let problem = |cause, text| Problem { place: wanted.place.clone(), text, cause };
    let secret = next.secrets.get(&wanted.place.key);
    let secret = secret.ok_or_else(|| problem(Cause::Missing, "the keys were not found".to_owned()))?;
    Keys::read(secret).map_err(|flaw| {
        let places: Vec<String> = wanted.places.iter().map(ToString::to_string).collect();
        problem(Cause::Refused, format!("{} holds no hashes of keys: {flaw}", places.join(" or ")))
    })
}

/// The issuer that is wanted, with all that is known of it, and for whom its tokens have to be.
fn issuer(wanted: &Oidc, running: Option<&Verifier>) -> Result<(Arc<Issuer>, Vec<String>), Problem> {
    let known = running.and_then(|running| running.oidc.as_ref()).map(|(issuer, _)| issuer);
    let issuer = match known.filter(|issuer| issuer.is(wanted)) {
        Some(issuer) => Arc::clone(issuer),
        None => Arc::new(Issuer::new(wanted).map_err(|error| Problem {
            place: wanted.place.clone(),
            text: format!("{error:#}"),
            cause: Cause::Broken,
        })?),
    };
    Ok((issuer, wanted.audience.clone()))
}

impl Verifier {
    /// Keeps the issuer's keys, and tells how that goes. It ends by being dropped.
    async fn follow(&self, reporter: &Reporter) {
        let keys = self.keys.as_ref().map(Keys::count);
        let Some((issuer, _)) = &self.oidc else {
            reporter.details(json!({ "api_keys": keys }));
            return std::future::pending().await;
        };
        let mut asked = issuer.asked();
        let mut told = asked.borrow_and_update().trouble.is_some();
        let tell = async {
            loop {
                let known = issuer.known();
                reporter.details(json!({ "api_keys": keys, "issuer": issuer.name, "issuer_keys": known }));
                self.tell(reporter, &asked.borrow_and_update(), known, &mut told);
                if asked.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::join!(issuer.keep_asking(), tell);
    }

    fn tell(&self, reporter: &Reporter, asked: &Asked, known: usize, told: &mut bool) {
        if asked.times == 0 {
            return reporter.state(State::Starting, "asking the issuer for its keys");
        }
        let Some(trouble) = &asked.trouble else {
            reporter.state(State::Running, "");
            if std::mem::take(told) {
                tracing::info!(service = NAME, "the issuer's keys can be had again: {known} are known");
            }
            return;
        };
        let reason = &trouble.reason;
        let meanwhile = match (known, &self.keys) {
            (0, Some(_)) => "whoever has a token is answered with 503, whoever has a key is served",
            (0, None) => "whoever has a token is answered with 503",
            _ => "the keys that are known are used on",
        };
        reporter.failed(State::Recovering, trouble.blame, format!("{reason}; {meanwhile}"));
        if !std::mem::replace(told, true) {
            tracing::warn!(
                service = NAME,
                "the issuer's keys can't be had: {reason}; {meanwhile}, and perch goes on asking"
            );
        }
    }
}

/// Whether somebody who was let in as `signed`, or without signing in, would be let in now as well. While nobody can be,
/// those who are in stay.
#[must_use]
pub fn stands(signed: Option<&Signed>, live: &Live) -> bool {
    let Ok(Some(verifier)) = verifier(live) else { return true };
    let Some(signed) = signed else { return false };
    if signed.until.is_some_and(|until| until <= SystemTime::now()) {
        return false;
    }
    match (&signed.shown, &verifier.oidc) {
        (Shown::Key(hash), _) => verifier.keys.as_ref().and_then(|keys| keys.holder(hash)) == Some(&signed.person),
        (Shown::Token { issuer, audience }, Some((taken, wanted))) => {
            *issuer == taken.name && audience.iter().any(|named| wanted.contains(named))
        }
        (Shown::Token { .. }, None) => false,
    }
}

/// Who may sign in, if the configuration asks anybody to; `Err` where it does and nobody can be let in yet.
///
/// # Errors
/// Why nobody can, for the journal.
pub fn verifier(live: &Live) -> Result<Option<Arc<Verifier>>, String> {
    if live.config.auth.is_none() {
        return Ok(None);
    }
    match (live.part::<Verifier>(NAME), live.parts.get(NAME)) {
        (Some(verifier), _) => Ok(Some(verifier)),
        (None, Some(Readiness::Held { reason, .. })) => Err(reason.clone()),
        (None, _) => Err("sign-in is not ready".to_owned()),
    }
}
