//! The issuer's keys: discovered, fetched, kept, and fetched anew at a pace, or when a token names one that is not known.
//!
//! Source: OpenID Connect Discovery 1.0, section 4.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::jwks::KeySet;
use crate::config;
use crate::json;
use crate::service::Blame;

/// How old the keys may grow while the issuer can be asked.
const REFRESH: Duration = Duration::from_mins(15);
/// Tokens with keys that are not known make perch ask so often at once, and after that once in so long: an issuer that
/// changes its keys is followed at once, and whoever makes up names can't make perch hammer it.
const BURST: u32 = 3;
const PACE: Duration = Duration::from_secs(30);
/// Before the second try when the issuer can't be asked; it doubles up to the last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_mins(1);
/// For a connection, and for a whole document.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request waits for keys that are being fetched.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest document, in bytes.
const LONGEST: usize = 256 << 10;
/// Below the issuer's own address.
const DISCOVERY: &str = ".well-known/openid-configuration";

/// An issuer and what is known of its keys.
pub struct Issuer {
    /// As it stands in the tokens.
    pub name: String,
    discovery: String,
    client: Client,
    keys: ArcSwapOption<KeySet>,
    asked: watch::Sender<Asked>,
    wanted: Notify,
    /// Until when the questions that tokens led to are paid for, at [`PACE`].
    paid: Mutex<Option<Instant>>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of asking.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// How often the issuer was asked, to the end.
    pub times: u64,
    /// When that was last.
    last: Option<Instant>,
    /// Why it did not help, the last time.
    pub trouble: Option<Trouble>,
}

/// Why the keys can't be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub blame: Blame,
    pub reason: String,
}

impl Trouble {
    fn outage(reason: String) -> Trouble {
        Trouble { blame: Blame::Others, reason }
    }

    /// What the configuration names is no issuer, or another.
    fn mistaken(reason: String) -> Trouble {
        Trouble { blame: Blame::Configuration, reason }
    }
}

/// There are no keys to prove a token with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKeys;

#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// An issuer that nobody has asked yet.
    ///
    /// # Errors
    /// The system's TLS configuration can't be used.
    pub fn new(config: &config::auth::Oidc) -> anyhow::Result<Issuer> {
        let client = Client::builder()
            .use_preconfigured_tls(crate::tls::client_config()?)
            .user_agent(concat!("perch/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(1)
            // What the configuration names is believed, and not where that sends one.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Issuer {
            name: config.issuer.clone(),
            discovery: discovery(config),
            client,
            keys: ArcSwapOption::empty(),
            asked: watch::Sender::default(),
            wanted: Notify::new(),
            paid: Mutex::default(),
        })
    }

    /// Whether it is the one that is configured.
    #[must_use]
    pub fn is(&self, config: &config::auth::Oidc) -> bool {
        self.name == config.issuer && self.discovery == discovery(config)
    }

    /// The keys, as soon as there are any.
    ///
    /// # Errors
    /// There are none, and none came in time.
    pub async fn keys(&self) -> Result<Arc<KeySet>, NoKeys> {
        if let Some(keys) = self.at_hand() {
            return Ok(keys);
        }
        let mut asked = self.asked.subscribe();
        if asked.borrow_and_update().times > 0 {
            // It may be back by now.
            return self.newer().await;
        }
        // The first answer is on its way.
        drop(timeout(PATIENCE, asked.wait_for(|asked| asked.times > 0)).await);
        self.at_hand().ok_or(NoKeys)
    }

    /// The keys that are known.
    #[must_use]
    pub fn at_hand(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// The keys after the issuer was asked once more, because a token names one that is not among those known.
    ///
    /// # Errors
    /// Nobody can know at the moment: the issuer does not answer, or was asked too often of late.
    pub async fn newer(&self) -> Result<Arc<KeySet>, NoKeys> {
        if !self.may_ask() {
            return Err(NoKeys);
        }
        let mut asked = self.asked.subscribe();
        let before = asked.borrow_and_update().times;
        self.wanted.notify_one();
        match timeout(PATIENCE, asked.wait_for(|asked| asked.times > before)).await {
            Ok(Ok(asked)) if asked.trouble.is_none() => self.at_hand().ok_or(NoKeys),
            _ => Err(NoKeys),
        }
    }

    fn may_ask(&self) -> bool {
        let (mut paid, now) = (self.paid.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        let owed = paid.map_or(Duration::ZERO, |paid| paid.saturating_duration_since(now));
        let may = owed <= PACE * (BURST - 1);
        if may {
            *paid = Some(now + owed + PACE);
        }
        may
    }

    /// What came of asking, now and from now on.
    #[must_use]
    pub fn asked(&self) -> watch::Receiver<Asked> {
        self.asked.subscribe()
    }

    /// How many keys are known.
    #[must_use]
    pub fn known(&self) -> usize {
        self.keys.load().as_ref().map_or(0, |keys| keys.count())
    }

    /// Asks for the keys again and again. It ends by being dropped.
    pub async fn keep_asking(&self) {
        let mut failures = u32::from(self.asked.borrow().trouble.is_some());
        loop {
            let last = self.asked.borrow().last;
            if let Some(last) = last {
                // A start of the service after a failure of its own asks no sooner than it would have.
                let due = last + if failures == 0 { REFRESH } else { retry(failures) };
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = self.wanted.notified() => {}
                }
            }
            let trouble = match self.fetch().await {
                Ok(keys) => {
                    failures = 0;
                    self.keys.store(Some(Arc::new(keys)));
                    None
                }
                Err(trouble) => {
                    failures = failures.saturating_add(1);
                    Some(trouble)
                }
            };
            self.asked.send_modify(|asked| {
                *asked = Asked { times: asked.times + 1, last: Some(Instant::now()), trouble };
            });
        }
    }

    async fn fetch(&self) -> Result<KeySet, Trouble> {
        let document = self.document(&self.discovery).await?;
        let discovered: Discovered = json::object(&document).map_err(|_| {
            Trouble::mistaken(format!("{} is no OpenID configuration: it names no issuer and jwks_uri", self.discovery))
        })?;
        if discovered.issuer != self.name {
            // Or else whoever answers there could speak for another (section 4.3).
            return Err(Trouble::mistaken(format!(
                "{} is the configuration of another issuer, {:?}; write that as `issuer`, to the letter",
                self.discovery,
                discovered.issuer.chars().take(200).collect::<String>()
            )));
        }
        let address = Url::parse(&discovered.jwks_uri).ok().filter(config::auth::is_trustworthy);
        let Some(address) = address else {
            return Err(Trouble::mistaken(format!("{} names a jwks_uri that is not https", self.discovery)));
        };
        let document = self.document(address.as_str()).await?;
        KeySet::read(&document).map_err(|flaw| Trouble::outage(format!("{address}: {flaw}")))
    }

    async fn document(&self, address: &str) -> Result<Vec<u8>, Trouble> {
        let outage = |reason: &dyn fmt::Display| Trouble::outage(format!("{address} can't be asked: {reason}"));
        let deadline = Instant::now() + DOCUMENT_TIMEOUT;
        let late = format!("no answer within {} s", DOCUMENT_TIMEOUT.as_secs());
        let request = self.client.get(address).header("accept", "application/json").send();
        let mut response = match timeout_at(deadline, request).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(outage(&bottom(&error))),
            Err(_) => return Err(outage(&late)),
        };
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => {
                return Err(Trouble::mistaken(format!("there is nothing at {address} ({})", status.as_u16())));
            }
            status => return Err(outage(&format!("it answers {}", status.as_u16()))),
        }
        let mut document = Vec::new();
        loop {
            match timeout_at(deadline, response.chunk()).await {
                Ok(Ok(Some(bytes))) if document.len() + bytes.len() <= LONGEST => document.extend_from_slice(&bytes),
                Ok(Ok(Some(_))) => return Err(outage(&"its answer is too long")),
                Ok(Ok(None)) => return Ok(document),
                Ok(Err(error)) => return Err(outage(&bottom(&error))),
                Err(_) => return Err(outage(&late)),
            }
        }
    }
}

fn discovery(config: &config::auth::Oidc) -> String {
    config.discovery.clone().unwrap_or_else(|| format!("{}/{DISCOVERY}", config.issuer.trim_end_matches('/')))
}

/// Hosts that lost the issuer together shall not come back together.
fn retry(failures: u32) -> Duration {
    let pause = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures - 1)).min(LAST_RETRY);
    pause.mul_f32(0.75 + fastrand::f32() / 4.0)
}

/// What is at the bottom of a request that was not done.
fn bottom(error: &reqwest::Error) -> String {
    let mut bottom: &dyn std::error::Error = error;
    while let Some(source) = bottom.source() {
        bottom = source;
    }
    bottom.to_string()
}
