//! One conversation with an ACME server (RFC 8555): from an account to a certificate.

use std::time::{Duration, Instant, SystemTime};

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier,
    NewAccount, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};

use super::client::{Client, ComeAgain, Unanswered};
use super::kept::{Kept, Place};
use super::schedule::Kind;
use crate::config::http_tls::{Acme, Challenge};
use crate::http::tls::Certificates;

/// How long the server may take to look at the challenges, and then to sign. Let's Encrypt takes seconds.
const POLLING: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).timeout(Duration::from_secs(90));

/// What the server says of an account that it does not know (any more), and of being asked too much (RFC 8555, section
/// 6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
const LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";
/// What it says of a request whose nonce it does not know (any more): nothing came of that, and it may be tried again at once
/// (RFC 8555, section 6.5). instant-acme tries each request three times.
const STALE: &str = "urn:ietf:params:acme:error:badNonce";
/// How often an order is gone on with because of that.
const TRIES: u32 = 3;

/// A certificate with its key, both in PEM.
pub struct Issued {
    pub chain: String,
    pub key: String,
}

/// Why there is none.
#[derive(Debug)]
pub struct Failure {
    pub kind: Kind,
    pub text: String,
    /// It is one of nonces alone.
    stale: bool,
}

/// Whether the server's error is of this kind.
fn is(error: &Error, kind: &str) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref() == Some(kind))
}

impl Failure {
    fn of(doing: &str, error: &Error) -> Failure {
        let kind = match error {
            Error::Other(inner) if inner.is::<Unanswered>() => Kind::Unanswered,
            error if is(error, STALE) => Kind::Unanswered,
            error if is(error, LIMITED) => Kind::Limited,
            Error::Api(Problem { status: Some(429 | 503), .. }) => Kind::Limited,
            // It is not well, or something else stands in its place: no order comes of that.
            Error::Api(Problem { status: Some(500..), .. }) | Error::Json(_) => Kind::Unanswered,
            _ => Kind::Refused,
        };
        let text = match error {
            Error::Api(problem) => said(problem),
            Error::Json(_) => "the server answered something else than ACME".to_owned(),
            Error::Timeout(_) => "the server takes too long".to_owned(),
            error => error.to_string(),
        };
        Failure { kind, text: format!("{doing}: {text}"), stale: is(error, STALE) }
    }

    pub fn new(kind: Kind, text: String) -> Failure {
        Failure { kind, text, stale: false }
    }

    pub fn refused(text: String) -> Failure {
        Failure::new(Kind::Refused, text)
    }
}

/// What a server said, on one line.
fn said(problem: &Problem) -> String {
    let mut text = problem.detail.clone().or_else(|| problem.r#type.clone()).unwrap_or_else(|| "no reason".to_owned());
    for below in &problem.subproblems {
        text.push_str(&format!("; {}", below.to_string().trim_start_matches(": ")));
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(600).collect()
}

/// An account as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptAccount {
    email: Option<String>,
    credentials: AccountCredentials,
}

/// An order under way as it is kept: a certificate that was issued is of no use without its key.
#[derive(Serialize, Deserialize)]
struct KeptOrder {
    url: String,
    /// In PEM.
    key: String,
}

/// Orders a certificate for the names of `acme`, or goes on with the order that an earlier try, or process, did not see the
/// end of. What the server wants to see for that is shown by `certificates`; `replaces` is the certificate that there is.
///
/// # Errors
/// Why there is no certificate.
pub async fn order(
    acme: &Acme,
    place: &Place,
    kept: &Kept,
    certificates: &Certificates,
    come_again: &ComeAgain,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Issued, Failure> {
    let mut tries = 1;
    loop {
        match attempt(acme, place, kept, certificates, come_again, replaces.clone()).await {
            Err(Failure { stale: true, .. }) if tries < TRIES => tries += 1,
            ended => return ended,
        }
    }
}

async fn attempt(
    acme: &Acme,
    place: &Place,
    kept: &Kept,
    certificates: &Certificates,
    come_again: &ComeAgain,
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Issued, Failure> {
    let _challenges = certificates.challenges.for_now();
    let client = || Client::new(come_again.clone()).map_err(|error| Failure::refused(format!("{error:#}")));
    let names: Vec<Identifier> = acme.domains.iter().cloned().map(Identifier::Dns).collect();
    let account = match known_account(acme, place, kept, client()?).await? {
        Some(account) => account,
        None => new_account(acme, place, kept, client()?).await?,
    };
    if let Some((order, key)) = unended(&account, place, kept).await? {
        return finish(order, key, acme, place, kept, come_again).await;
    }
    let mut order = match new_order(&account, &names, replaces.clone()).await {
        // A server that was set up anew; or somebody removed the account.
        Err(error) if is(&error, NO_ACCOUNT) => {
            let account = new_account(acme, place, kept, client()?).await?;
            new_order(&account, &names, replaces).await
        }
        made => made,
    }
    .map_err(|error| Failure::of("the order was not taken", &error))?;
    prove(&mut order, acme, certificates, come_again).await?;
    let key = KeyPair::generate().map_err(|error| Failure::refused(format!("no key can be made: {error}")))?;
    let text = serde_json::to_vec(&KeptOrder { url: order.url().to_owned(), key: key.serialize_pem() });
    kept.keep_order(place, &text.unwrap_or_default());
    finish(order, key, acme, place, kept, come_again).await
}

/// Makes an order that says which certificate it replaces, where the server wants to know (RFC 9773, section 5).
async fn new_order(
    account: &Account,
    names: &[Identifier],
    replaces: Option<CertificateIdentifier<'static>>,
) -> Result<Order, Error> {
    if let Some(replaced) = replaces {
        match account.new_order(&NewOrder::new(names).replaces(replaced)).await {
            Err(error) if [NO_ACCOUNT, LIMITED, STALE].iter().any(|kind| is(&error, kind)) => return Err(error),
            Err(Error::Other(inner)) if inner.is::<Unanswered>() => return Err(Error::Other(inner)),
            // It does not know that certificate, or holds it for replaced already, or does not care.
            Err(Error::Unsupported(_) | Error::Api(_) | Error::Other(_)) => {}
            made => return made,
        }
    }
    account.new_order(&NewOrder::new(names)).await
}

/// The order that was kept, if the certificate can still come of it, and the certificate's key.
async fn unended(account: &Account, place: &Place, kept: &Kept) -> Result<Option<(Order, KeyPair)>, Failure> {
    let Some(bytes) = kept.order(place) else { return Ok(None) };
    let known = serde_json::from_slice::<KeptOrder>(&bytes).ok();
    let known = known.and_then(|KeptOrder { url, key }| Some((url, KeyPair::from_pem(&key).ok()?)));
    if let Some((url, key)) = known {
        match account.order(url).await {
            Ok(mut order) => {
                if matches!(order.state().status, OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid) {
                    return Ok(Some((order, key)));
                }
            }
            Err(error) => {
                let failure = Failure::of("the order that is under way can't be read", &error);
                if failure.kind != Kind::Refused {
                    return Err(failure);
                }
            }
        }
    }
    kept.forget_order(place);
    Ok(None)
}

/// Has the certificate issued for `key`.
async fn finish(
    mut order: Order,
    key: KeyPair,
    acme: &Acme,
    place: &Place,
    kept: &Kept,
    come_again: &ComeAgain,
) -> Result<Issued, Failure> {
    let issued = async {
        if order.state().status == OrderStatus::Ready {
            let request = (|| {
                let mut params = CertificateParams::new(acme.domains.clone())?;
                params.distinguished_name = DistinguishedName::new();
                params.serialize_request(&key)
            })();
            let request = request.map_err(|error| Failure::refused(format!("no request can be made: {error}")))?;
            let sent = order.finalize_csr(request.der()).await;
            sent.map_err(|error| Failure::of("the certificate was refused", &error))?;
        }
        order.poll_certificate(&POLLING).await.map_err(|error| {
            let doing = "the certificate was not issued";
            if let Error::Timeout(again) = &error {
                come_again.put(again.and_then(moment));
                // It is asked for the same order again, which costs nothing.
                return Failure { kind: Kind::Unanswered, ..Failure::of(doing, &error) };
            }
            Failure::of(doing, &error)
        })
    };
    let issued = issued.await;
    if matches!(&issued, Err(failure) if failure.kind == Kind::Refused) {
        kept.forget_order(place);
    }
    Ok(Issued { chain: issued?, key: key.serialize_pem() })
}

/// When that is, by the clock that people read.
fn moment(at: Instant) -> Option<SystemTime> {
    SystemTime::now().checked_add(at.saturating_duration_since(Instant::now()))
}

async fn known_account(acme: &Acme, place: &Place, kept: &Kept, client: Client) -> Result<Option<Account>, Failure> {
    let Some(bytes) = kept.account(place) else { return Ok(None) };
    let damaged = |why: &str| {
        kept.set_account_aside(place);
        tracing::warn!(
            service = crate::http::NAME,
            "the account's key at {} is damaged ({why}), is kept under another name, and a new account is made",
            acme.directory
        );
        Ok(None)
    };
    let Ok(KeptAccount { email, credentials }) = serde_json::from_slice(&bytes) else {
        return damaged("it is not what perch wrote");
    };
    let text = serde_json::to_value(&credentials).unwrap_or_default();
    let account = match Account::builder_with_http(Box::new(client)).from_credentials(credentials).await {
        Ok(account) => account,
        Err(error @ (Error::KeyRejected | Error::Crypto)) => return damaged(&error.to_string()),
        Err(error) => return Err(Failure::of("the account can't be used", &error)),
    };
    if email != acme.email {
        let contact = contact(acme);
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        match account.update_contacts(&contact).await {
            Ok(()) => {
                let account = serde_json::json!({ "email": acme.email, "credentials": text });
                kept.keep_account(place, account.to_string().as_bytes());
            }
            // The order itself finds out, and a new account has the new address.
            Err(error) if is(&error, NO_ACCOUNT) => {}
            Err(error) => return Err(Failure::of("the account's address was not taken", &error)),
        }
    }
    Ok(Some(account))
}

async fn new_account(acme: &Acme, place: &Place, kept: &Kept, client: Client) -> Result<Account, Failure> {
    let contact = contact(acme);
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let wanted = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let made = Account::builder_with_http(Box::new(client)).create(&wanted, acme.directory.clone(), None).await;
    let (account, credentials) = made.map_err(|error| Failure::of("there is no account", &error))?;
    let email = acme.email.clone();
    if let Ok(bytes) = serde_json::to_vec(&KeptAccount { email, credentials }) {
        kept.set_account_aside(place);
        kept.keep_account(place, &bytes);
    }
    Ok(account)
}

fn contact(acme: &Acme) -> Vec<String> {
    acme.email.iter().map(|email| format!("mailto:{email}")).collect()
}

/// Shows the server that every name of the order leads here, and waits until it believes it.
async fn prove(
    order: &mut Order,
    acme: &Acme,
    certificates: &Certificates,
    come_again: &ComeAgain,
) -> Result<(), Failure> {
    let kind = match acme.challenge {
        Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        Challenge::Http01 => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(|error| Failure::of("the order can't be read", &error))?;
        // It remembers for some weeks what it saw.
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(kind.clone()) else {
            return Err(Failure::refused(format!("the server does not offer {}", acme.challenge)));
        };
        let name = challenge.identifier().to_string();
        let proof = challenge.key_authorization();
        match acme.challenge {
            Challenge::TlsAlpn01 => {
                let proved = certificates.challenges.prove_by_tls(&name, proof.digest().as_ref());
                proved.map_err(|error| Failure::refused(format!("no proof can be made for {name}: {error}")))?;
            }
            Challenge::Http01 => certificates.challenges.prove_by_http(&challenge.token, proof.as_str()),
        }
        challenge.set_ready().await.map_err(|error| Failure::of(&format!("{name} was not looked at"), &error))?;
    }
    match order.poll_ready(&POLLING).await {
        Ok(OrderStatus::Ready) => Ok(()),
        // The order says that it came to nothing, and each of its names why.
        Ok(_) => Err(Failure::refused(why(order, acme).await)),
        Err(error)
            if !is(&error, STALE)
                && matches!(&error, Error::Api(problem) if problem.status.is_none_or(|status| (400..429).contains(&status))) =>
        {
            Err(Failure::refused(why(order, acme).await))
        }
        Err(error) => {
            if let Error::Timeout(again) = &error {
                come_again.put(again.and_then(moment));
            }
            Err(Failure::of("the names were not looked at", &error))
        }
    }
}

/// What the server saw when it looked, by name.
async fn why(order: &mut Order, acme: &Acme) -> String {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else { continue };
        let name = state.identifier().to_string();
        let errors = state.challenges.iter().filter_map(|challenge| challenge.error.as_ref());
        reasons.extend(errors.map(|error| format!("{name}: {}", said(error))));
    }
    if reasons.is_empty() {
        reasons.push("it gave no reason".to_owned());
    }
    let port = match acme.challenge {
        Challenge::TlsAlpn01 => "port 443 of each name leads to http.tls.listen",
        Challenge::Http01 => "port 80 of each name leads to http.listen",
    };
    format!("the server could not see that the names lead here ({}); see that {port}", reasons.join("; "))
}
