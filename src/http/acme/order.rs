//! One conversation with an ACME server (RFC 8555): from an account to a certificate.

use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
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
}

impl Failure {
    fn of(doing: &str, error: &Error) -> Failure {
        let kind = match error {
            Error::Other(inner) if inner.is::<Unanswered>() => Kind::Unanswered,
            Error::Api(Problem { r#type: Some(kind), .. }) if kind == LIMITED => Kind::Limited,
            Error::Api(Problem { status: Some(429 | 503), .. }) => Kind::Limited,
            _ => Kind::Refused,
        };
        let text = match error {
            Error::Api(problem) => said(problem),
            Error::Json(_) => "the server answered something else than ACME".to_owned(),
            Error::Timeout(_) => "the server takes too long".to_owned(),
            error => error.to_string(),
        };
        Failure { kind, text: format!("{doing}: {text}") }
    }

    fn refused(text: String) -> Failure {
        Failure { kind: Kind::Refused, text }
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

/// Orders a certificate for the names of `acme`. What the server wants to see for that is shown by `certificates`.
///
/// # Errors
/// Why there is no certificate.
pub async fn order(
    acme: &Acme,
    place: &Place,
    kept: &Kept,
    certificates: &Certificates,
    come_again: &ComeAgain,
) -> Result<Issued, Failure> {
    let client = || Client::new(come_again.clone()).map_err(|error| Failure::refused(format!("{error:#}")));
    let names: Vec<Identifier> = acme.domains.iter().cloned().map(Identifier::Dns).collect();
    let account = match known_account(acme, place, kept, client()?).await? {
        Some(account) => account,
        None => new_account(acme, place, kept, client()?).await?,
    };
    let mut order = match account.new_order(&NewOrder::new(&names)).await {
        // A server that was set up anew; or somebody removed the account.
        Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
            let account = new_account(acme, place, kept, client()?).await?;
            account.new_order(&NewOrder::new(&names)).await
        }
        made => made,
    }
    .map_err(|error| Failure::of("the order was not taken", &error))?;
    let proved = prove(&mut order, acme, certificates).await;
    certificates.challenges.clear();
    proved?;
    let key = KeyPair::generate().map_err(|error| Failure::refused(format!("no key can be made: {error}")))?;
    let request = (|| {
        let mut params = CertificateParams::new(acme.domains.clone())?;
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&key)
    })();
    let request = request.map_err(|error| Failure::refused(format!("no request can be made: {error}")))?;
    order.finalize_csr(request.der()).await.map_err(|error| Failure::of("the certificate was refused", &error))?;
    let chain = order.poll_certificate(&POLLING).await;
    let chain = chain.map_err(|error| Failure::of("the certificate was not issued", &error))?;
    Ok(Issued { chain, key: key.serialize_pem() })
}

async fn known_account(acme: &Acme, place: &Place, kept: &Kept, client: Client) -> Result<Option<Account>, Failure> {
    let known = kept.account(place).and_then(|bytes| serde_json::from_slice::<KeptAccount>(&bytes).ok());
    let Some(KeptAccount { email, credentials }) = known else { return Ok(None) };
    let text = serde_json::to_value(&credentials).unwrap_or_default();
    let account = Account::builder_with_http(Box::new(client)).from_credentials(credentials).await;
    let account = account.map_err(|error| Failure::of("the account can't be used", &error))?;
    if email != acme.email {
        let contact = contact(acme);
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        match account.update_contacts(&contact).await {
            Ok(()) => {
                let account = serde_json::json!({ "email": acme.email, "credentials": text });
                kept.keep_account(place, account.to_string().as_bytes());
            }
            // The order itself finds out, and a new account has the new address.
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {}
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
        kept.keep_account(place, &bytes);
    }
    Ok(account)
}

fn contact(acme: &Acme) -> Vec<String> {
    acme.email.iter().map(|email| format!("mailto:{email}")).collect()
}

/// Shows the server that every name of the order leads here, and waits until it believes it.
async fn prove(order: &mut Order, acme: &Acme, certificates: &Certificates) -> Result<(), Failure> {
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
        Ok(_) | Err(Error::Api(_)) => Err(Failure::refused(why(order, acme).await)),
        Err(error) => Err(Failure::of("the names were not looked at", &error)),
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
