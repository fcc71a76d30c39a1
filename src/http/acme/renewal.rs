//! When the server wants a certificate replaced: ACME Renewal Information (RFC 9773).
//!
//! It says so of each certificate, and may change its mind: earlier where the certificate is going to be revoked, or has
//! been. Where it does not say, or can't be asked, the certificate's own life decides (`schedule`).

use std::time::{Duration, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use instant_acme::CertificateIdentifier;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Result, BERReader, Tag, TagClass};

use super::client::{Client, ComeAgain};
use super::schedule::seconds;

/// The server is asked no more often and no more seldom than this, whatever it wants (RFC 9773, section 4.3.2), and
/// this often where it does not say, or says nothing of use (section 4.3.3).
const SOONEST: Duration = Duration::from_mins(1);
const LATEST: Duration = Duration::from_hours(24);
const UNTOLD: Duration = Duration::from_hours(6);
/// What an explanation is cut to, in characters.
const LONGEST_EXPLANATION: usize = 200;
/// The extension with the id of the issuer's key (RFC 5280, section 4.2.1.1).
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];

/// What the server suggests for one certificate. It outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Suggestion {
    /// The certificate, as `id` names it.
    pub of: String,
    /// From when to when it is to be replaced, in seconds since 1970.
    pub window: Option<(u64, u64)>,
    /// Where a person can read why.
    pub why: Option<String>,
    /// When the server is asked again, in seconds since 1970.
    pub again: u64,
    /// How often in a row it could not be asked.
    pub failures: u32,
}

/// How a certificate is named (RFC 9773, section 4.1); `None` where it does not say which key signed it.
pub fn id(certificate: &CertificateDer<'_>) -> Option<CertificateIdentifier<'static>> {
    let (serial, authority) = yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|reader| {
            let found = reader.next().read_sequence(|reader| {
                reader.read_optional(|reader| reader.read_tagged(Tag::context(0), skip))?;
                let serial = reader.next().read_tagged_der()?.value().to_vec();
                // Signature, issuer, validity, subject, public key.
                for _ in 0..5 {
                    reader.next().read_der()?;
                }
                // Two ids that nobody uses.
                reader.read_optional(|reader| reader.read_tagged_implicit(Tag::context(1), skip_bits))?;
                reader.read_optional(|reader| reader.read_tagged_implicit(Tag::context(2), skip_bits))?;
                let authority = reader.read_optional(|reader| reader.read_tagged(Tag::context(3), authority))?;
                Ok((serial, authority.flatten()))
            })?;
            reader.next().read_der()?;
            reader.next().read_der()?;
            Ok(found)
        })
    })
    .ok()?;
    let encode = |bytes: Vec<u8>| BASE64_URL_SAFE_NO_PAD.encode(bytes).into();
    Some(CertificateIdentifier { authority_key_identifier: encode(authority?), serial: encode(serial) })
}

fn skip(reader: BERReader<'_, '_>) -> ASN1Result<()> {
    reader.read_der().map(drop)
}

fn skip_bits(reader: BERReader<'_, '_>) -> ASN1Result<()> {
    reader.read_bitvec_bytes().map(drop)
}

fn critical(reader: BERReader<'_, '_>) -> ASN1Result<bool> {
    reader.read_bool()
}

/// The id of the issuer's key, out of the extensions.
fn authority(reader: BERReader<'_, '_>) -> ASN1Result<Option<Vec<u8>>> {
    let mut found = None;
    reader.read_sequence_of(|reader| {
        reader.read_sequence(|reader| {
            let kind = reader.next().read_oid()?;
            reader.read_optional(critical)?;
            let value = reader.next().read_bytes()?;
            if kind == ObjectIdentifier::from_slice(AUTHORITY_KEY) {
                found = key_identifier(&value);
            }
            Ok(())
        })
    })?;
    Ok(found)
}

fn key_identifier(value: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    yasna::parse_der(value, |reader| {
        reader.read_sequence_of(|reader| {
            let field = reader.read_tagged_der()?;
            if field.tag().tag_class == TagClass::ContextSpecific && field.tag().tag_number == 0 {
                found = Some(field.value().to_vec());
            }
            Ok(())
        })
    })
    .ok()?;
    found
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Directory {
    renewal_info: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RenewalInfo {
    suggested_window: Window,
    #[serde(rename = "explanationURL")]
    explanation_url: Option<String>,
}

#[derive(Deserialize)]
struct Window {
    start: String,
    end: String,
}

/// What an answer of the server comes to.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Window((u64, u64), Option<String>),
    /// Nothing of use, now and probably for a while.
    Nothing,
    /// It gave no answer, or one that says that it is not well.
    Unwell,
}

/// Asks the server at `directory` for what it suggests for the certificate `of`; `before` is what it suggested last.
pub async fn ask(directory: &str, of: String, before: Suggestion, now: SystemTime) -> Suggestion {
    let (said, retry_after) = question(directory, &of).await;
    let mut next = if before.of == of { before } else { Suggestion { of, ..Suggestion::default() } };
    let wait = match said {
        Said::Window(window, why) => {
            (next.window, next.why, next.failures) = (Some(window), why, 0);
            retry_after.map_or(UNTOLD, |at| at.duration_since(now).unwrap_or_default()).clamp(SOONEST, LATEST)
        }
        Said::Nothing => {
            (next.window, next.why, next.failures) = (None, None, 0);
            UNTOLD
        }
        // What it said last holds.
        Said::Unwell => {
            next.failures = next.failures.saturating_add(1);
            let doubled = SOONEST * 2_u32.saturating_pow(next.failures.min(16) - 1);
            let asked = retry_after.and_then(|at| at.duration_since(now).ok()).unwrap_or_default();
            doubled.min(UNTOLD).max(asked.min(LATEST))
        }
    };
    next.again = seconds(now + wait);
    next
}

async fn question(directory: &str, of: &str) -> (Said, Option<SystemTime>) {
    // It can't be made where the trusted certificates can't be read: an order says so.
    let Ok(client) = Client::new(ComeAgain::default()) else { return (Said::Unwell, None) };
    let Ok(read) = client.read(directory).await else { return (Said::Unwell, None) };
    let url = match serde_json::from_slice(&read.body) {
        Ok(Directory { renewal_info: Some(url) }) => url,
        Ok(Directory { renewal_info: None }) => return (Said::Nothing, None),
        Err(_) => return (Said::Unwell, read.retry_after),
    };
    let Ok(read) = client.read(&format!("{}/{of}", url.trim_end_matches('/'))).await else {
        return (Said::Unwell, None);
    };
    let said = match read.status.as_u16() {
        200 => window(&read.body),
        408 | 429 | 500.. => Said::Unwell,
        _ => Said::Nothing,
    };
    (said, read.retry_after)
}

fn window(body: &[u8]) -> Said {
    let Ok(RenewalInfo { suggested_window, explanation_url }) = serde_json::from_slice(body) else {
        return Said::Unwell;
    };
    let time = |text: &str| {
        let time = DateTime::from_str(text, Format::DateTimeWithOffset).ok()?;
        u64::try_from(time.secs()).ok()
    };
    match time(&suggested_window.start).zip(time(&suggested_window.end)) {
        // Anything else is as good as no answer (RFC 9773, section 4.2).
        Some((from, until)) if from < until => {
            let why = explanation_url.filter(|url| url.starts_with("https://") && !url.contains(char::is_control));
            Said::Window((from, until), why.map(|url| url.chars().take(LONGEST_EXPLANATION).collect()))
        }
        _ => Said::Unwell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_named_as_the_rfc_names_its_example() {
        // RFC 9773, appendix A.
        let pem = "-----BEGIN CERTIFICATE-----\n\
            MIIBQzCB66ADAgECAgUAh2VDITAKBggqhkjOPQQDAjAVMRMwEQYDVQQDEwpFeGFt\n\
            cGxlIENBMCIYDzAwMDEwMTAxMDAwMDAwWhgPMDAwMTAxMDEwMDAwMDBaMBYxFDAS\n\
            BgNVBAMTC2V4YW1wbGUuY29tMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeBZu\n\
            7cbpAYNXZLbbh8rNIzuOoqOOtmxA1v7cRm//AwyMwWxyHz4zfwmBhcSrf47NUAFf\n\
            qzLQ2PPQxdTXREYEnKMjMCEwHwYDVR0jBBgwFoAUaYhba4dGQEHhs3uEe6CuLN4B\n\
            yNQwCgYIKoZIzj0EAwIDRwAwRAIge09+S5TZAlw5tgtiVvuERV6cT4mfutXIlwTb\n\
            +FYN/8oCIClDsqBklhB9KAelFiYt9+6FDj3z4KGVelYM5MdsO3pK\n\
            -----END CERTIFICATE-----\n";
        let certificate = <CertificateDer<'_> as rustls_pki_types::pem::PemObject>::from_pem_slice(pem.as_bytes());
        assert_eq!(id(&certificate.unwrap()).unwrap().to_string(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
        assert_eq!(id(&CertificateDer::from(vec![0x30, 0x03, 0x02, 0x01])), None);
    }

    #[test]
    fn only_a_window_that_ends_after_it_begins_is_one() {
        let said = |start: &str, end: &str| {
            let text = format!(r#"{{"suggestedWindow": {{"start": "{start}", "end": "{end}"}}}}"#);
            window(text.as_bytes())
        };
        let two_days = Said::Window((1_735_776_000, 1_735_948_800), None);
        assert_eq!(said("2025-01-02T00:00:00Z", "2025-01-04T00:00:00Z"), two_days);
        assert_eq!(said("2025-01-02T01:00:00+01:00", "2025-01-04T00:00:00.000Z"), two_days);
        assert_eq!(said("2025-01-04T00:00:00Z", "2025-01-02T00:00:00Z"), Said::Unwell);
        assert_eq!(said("2025-01-02T00:00:00Z", "2025-01-02T00:00:00Z"), Said::Unwell);
        assert_eq!(said("tomorrow", "2025-01-02T00:00:00Z"), Said::Unwell);
        assert_eq!(window(b"<html>"), Said::Unwell);
    }
}
