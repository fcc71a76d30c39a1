//! A signed token of an OIDC issuer: a JWT (RFC 7519) in JWS compact form (RFC 7515), read as RFC 8725 advises.
//!
//! Of the libraries that read these, those that can be compiled here bring a second cryptography or leave what matters most
//! to their caller (`crit`, repeated names, which key goes with which algorithm). So the form, which is three words of
//! base64url, is read here, strictly; the cryptography is ring's and the JSON serde's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny};

use super::jwks::{self, Algorithm, KeySet};
use crate::json;

/// The longest token, in bytes; those of today's issuers are under 2,000.
const LONGEST: usize = 8 << 10;
/// By how much the clocks of the issuer and of this host may differ.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// The longest subject and key id, in characters. Source for the first: OpenID Connect Core 1.0, section 2.
const LONGEST_SUBJECT: usize = 255;
const LONGEST_KEY_ID: usize = 255;

/// Why a token is not taken, in words for whoever sent it, fit for a quoted string of RFC 6750. They repeat nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    TooLong,
    Form,
    Header,
    Demands,
    Type,
    Algorithm,
    NoKeyId,
    UnknownKey,
    WrongAlgorithm,
    Signature,
    Claims,
    Issuer,
    Audience,
    Use,
    Subject,
    NoEnd,
    Expired,
    NotYet,
    FromTheFuture,
}

impl Flaw {
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Flaw::TooLong => "the token is too long",
            Flaw::Form => "the token is not three parts of canonical base64url",
            Flaw::Header => "the token's header is not a JSON object with the names of a JWS, each once",
            Flaw::Demands => "the token's header asks for what is not supported here",
            Flaw::Type => "the token is of another type",
            Flaw::Algorithm => "the token is not signed with RS256 or ES256",
            Flaw::NoKeyId => "the token does not name its key",
            Flaw::UnknownKey => "the token names a key that its issuer does not have",
            Flaw::WrongAlgorithm => "the token is signed with another algorithm than its key is for",
            Flaw::Signature => "the token's signature is not the issuer's",
            Flaw::Claims => "the token's claims are not a JSON object with the claims of a JWT, each once",
            Flaw::Issuer => "the token is from another issuer",
            Flaw::Audience => "the token is for another audience",
            Flaw::Use => "the token is not for signing in",
            Flaw::Subject => "the token names no subject",
            Flaw::NoEnd => "the token does not say when it ends",
            Flaw::Expired => "the token has expired",
            Flaw::NotYet => "the token is not valid yet",
            Flaw::FromTheFuture => "the token is from the future",
        }
    }

    /// Whether it may be a try to guess or to forge: nothing shows that the issuer made the token.
    #[must_use]
    pub fn is_unproven(self) -> bool {
        !matches!(
            self,
            Flaw::Claims
                | Flaw::Issuer
                | Flaw::Audience
                | Flaw::Use
                | Flaw::Subject
                | Flaw::NoEnd
                | Flaw::Expired
                | Flaw::NotYet
                | Flaw::FromTheFuture
        )
    }
}

/// What a token has to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub issuer: &'a str,
    /// One of these.
    pub audience: &'a [String],
    pub now: SystemTime,
}

/// Somebody whose token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    pub subject: String,
    /// Whom the token is for.
    pub audience: Vec<String>,
    /// When the token ends.
    pub until: SystemTime,
}

/// A token whose header is as it must be. Nothing of it is proven yet.
pub struct Token<'a> {
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: String,
}

/// Names that are known and mean nothing here (`x5t`, `cty`) are passed over; one that is repeated is a mistake.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each says whether a name is there")]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // They tell whoever believes them where the key is: an attacker's, if he wrote the token.
    #[serde(default, deserialize_with = "present")]
    jku: bool,
    #[serde(default, deserialize_with = "present")]
    jwk: bool,
    #[serde(default, deserialize_with = "present")]
    x5u: bool,
    #[serde(default, deserialize_with = "present")]
    x5c: bool,
    // RFC 7515, section 4.1.11: what is in it must be understood, and nothing is. `b64` is of RFC 7797, the others say
    // that it is no JWS.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
    #[serde(default, deserialize_with = "present")]
    enc: bool,
    #[serde(default, deserialize_with = "present")]
    zip: bool,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    aud: Option<Audience>,
    client_id: Option<String>,
    token_use: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// Whatever stands there, null as well.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl<'a> Token<'a> {
    /// Reads a token's form and header.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(text: &'a str) -> Result<Token<'a>, Flaw> {
        if text.len() > LONGEST {
            return Err(Flaw::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Flaw::Form);
        };
        let signed = &text[..header.len() + 1 + claims.len()];
        let signature = decode(signature)?;
        let header: Header = json::object(&decode(header)?).map_err(|_| Flaw::Header)?;
        if header.jku || header.jwk || header.x5u || header.x5c || header.crit || header.b64 || header.enc || header.zip
        {
            return Err(Flaw::Demands);
        }
        // Access tokens of RFC 9068 say what they are, others nothing or the least.
        let kind = header.typ.map(|kind| kind.to_ascii_lowercase());
        if !matches!(kind.as_deref(), None | Some("jwt" | "at+jwt" | "application/at+jwt")) {
            return Err(Flaw::Type);
        }
        let algorithm = Algorithm::named(&header.alg).ok_or(Flaw::Algorithm)?;
        let key_id = header.kid.filter(|id| (1..=LONGEST_KEY_ID).contains(&id.len())).ok_or(Flaw::NoKeyId)?;
        Ok(Token { signed, claims, signature, algorithm, key_id })
    }

    /// Proves that one of `keys` signed it, and that it says what is `expected`.
    ///
    /// # Errors
    /// What is wrong with it; [`Flaw::UnknownKey`] may be another tomorrow, or with newer keys.
    pub fn prove(&self, keys: &KeySet, expected: &Expected<'_>) -> Result<Proven, Flaw> {
        let mut known = keys.named(&self.key_id).peekable();
        known.peek().ok_or(Flaw::UnknownKey)?;
        let mut fitting = known.filter(|key| key.algorithm() == self.algorithm).peekable();
        fitting.peek().ok_or(Flaw::WrongAlgorithm)?;
        if !fitting.any(|key| key.signed(self.signed.as_bytes(), &self.signature)) {
            return Err(Flaw::Signature);
        }
        // What is in it is the issuer's word from here on.
        let claims: Claims = json::object(&decode(self.claims)?).map_err(|_| Flaw::Claims)?;
        claims.check(expected)
    }
}

impl Claims {
    fn check(self, expected: &Expected<'_>) -> Result<Proven, Flaw> {
        if self.iss.as_deref() != Some(expected.issuer) {
            return Err(Flaw::Issuer);
        }
        let audience = match (self.aud, self.client_id) {
            (Some(Audience::One(named)), _) => vec![named],
            (Some(Audience::Many(named)), _) => named,
            // Cognito's access tokens have no audience, and name the client that they were given to.
            (None, client) => client.into_iter().collect(),
        };
        if !audience.iter().any(|named| expected.audience.contains(named)) {
            return Err(Flaw::Audience);
        }
        // Cognito's own: a refresh token is for Cognito alone.
        if !matches!(self.token_use.as_deref(), None | Some("access" | "id")) {
            return Err(Flaw::Use);
        }
        let subject = self.sub.filter(|sub| (1..=LONGEST_SUBJECT).contains(&sub.len())).ok_or(Flaw::Subject)?;
        if subject.chars().any(char::is_control) {
            return Err(Flaw::Subject);
        }
        let (now, leeway) = (seconds(expected.now), LEEWAY.as_secs_f64());
        let end = self.exp.ok_or(Flaw::NoEnd)?;
        if end <= now - leeway {
            return Err(Flaw::Expired);
        }
        if self.nbf.is_some_and(|from| from > now + leeway) {
            return Err(Flaw::NotYet);
        }
        if self.iat.is_some_and(|issued| issued > now + leeway) {
            return Err(Flaw::FromTheFuture);
        }
        // Whoever signs a token for longer than a clock can say means "for ever".
        let until = Duration::try_from_secs_f64(end).ok().and_then(|since| UNIX_EPOCH.checked_add(since));
        let until = until.unwrap_or(expected.now + Duration::from_hours(24));
        Ok(Proven { subject, audience, until })
    }
}

fn seconds(moment: SystemTime) -> f64 {
    moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn decode(part: &str) -> Result<Vec<u8>, Flaw> {
    jwks::decode(part).ok_or(Flaw::Form)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::{Value, json};

    use super::*;

    const ISSUER: &str = "https://issuer.example/pool/";
    const NOW: u64 = 1_800_000_000;

    /// An issuer with one key on the curve P-256. What RSA does is tried from outside.
    struct Stand {
        pair: EcdsaKeyPair,
        keys: KeySet,
    }

    impl Stand {
        fn new() -> Stand {
            let random = SystemRandom::new();
            let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
            let point = pair.public_key().as_ref();
            let (x, y) = (encode(&point[1..33]), encode(&point[33..]));
            let modulus = encode(&[0xAB; 256]);
            let keys = json!({ "keys": [
                { "kty": "EC", "kid": "curve", "crv": "P-256", "x": x, "y": y },
                { "kty": "RSA", "kid": "rsa", "n": modulus, "e": "AQAB" },
            ]});
            Stand { pair, keys: KeySet::read(keys.to_string().as_bytes()).unwrap() }
        }

        /// A token of these texts, signed.
        fn sign(&self, header: &str, claims: &str) -> String {
            let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
            let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", encode(signature.as_ref()))
        }

        fn prove(&self, token: &str) -> Result<Proven, Flaw> {
            let audience = ["perch".to_owned(), "other".to_owned()];
            let now = UNIX_EPOCH + Duration::from_secs(NOW);
            Token::read(token)?.prove(&self.keys, &Expected { issuer: ISSUER, audience: &audience, now })
        }

        /// What becomes of a token with this change of its header.
        fn with_header(&self, change: Value) -> Result<Proven, Flaw> {
            self.prove(&self.sign(&edited(header(), change).to_string(), &claims().to_string()))
        }

        fn with_claims(&self, change: Value) -> Result<Proven, Flaw> {
            self.prove(&self.sign(&header().to_string(), &edited(claims(), change).to_string()))
        }
    }

    fn encode(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn header() -> Value {
        json!({ "alg": "ES256", "kid": "curve", "typ": "JWT" })
    }

    fn claims() -> Value {
        json!({ "iss": ISSUER, "aud": "perch", "sub": "ada", "iat": NOW - 60, "nbf": NOW - 60, "exp": NOW + 600 })
    }

    /// `null` takes a name away.
    fn edited(mut object: Value, change: Value) -> Value {
        let Value::Object(change) = change else { panic!("{change}") };
        for (name, value) in change {
            match value {
                Value::Null => drop(object.as_object_mut().unwrap().remove(&name)),
                value => object[name] = value,
            }
        }
        object
    }

    #[test]
    fn a_good_token_says_who_it_is_and_until_when() {
        let stand = Stand::new();
        let subject = stand.prove(&stand.sign(&header().to_string(), &claims().to_string())).unwrap();
        let until = UNIX_EPOCH + Duration::from_secs(NOW + 600);
        assert_eq!(subject, Proven { subject: "ada".to_owned(), audience: vec!["perch".to_owned()], until });
        for good in [
            json!({ "typ": null }),
            json!({ "typ": "at+jwt" }),
            json!({ "typ": "application/AT+JWT" }),
            json!({ "x5t": "?" }),
        ] {
            assert!(stand.with_header(good.clone()).is_ok(), "{good}");
        }
        for good in [
            json!({ "aud": ["somebody", "other"] }),
            json!({ "aud": null, "client_id": "perch", "token_use": "access" }),
            json!({ "token_use": "id" }),
            json!({ "nbf": null, "iat": null }),
            json!({ "exp": 1_800_000_000.5 }),
            json!({ "exp": 1e300 }),
        ] {
            assert!(stand.with_claims(good.clone()).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_token_that_is_not_signed_is_refused_whatever_it_says_of_that() {
        let stand = Stand::new();
        for named in ["none", "None", "NONE", "nOnE", ""] {
            let header = json!({ "alg": named, "kid": "curve" });
            let unsigned =
                format!("{}.{}.", encode(header.to_string().as_bytes()), encode(claims().to_string().as_bytes()));
            assert_eq!(stand.prove(&unsigned), Err(Flaw::Algorithm), "{named}");
        }
        let whole = stand.sign(&header().to_string(), &claims().to_string());
        let (signed, _) = whole.rsplit_once('.').unwrap();
        assert_eq!(stand.prove(&format!("{signed}.")), Err(Flaw::Signature));
        assert_eq!(stand.prove(signed), Err(Flaw::Form));
        assert_eq!(stand.prove(&format!("{signed}.{}", encode(&[0; 64]))), Err(Flaw::Signature));
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        let stand = Stand::new();
        for named in ["HS256", "HS384", "HS512", "RS512", "PS256", "ES384", "EdDSA"] {
            assert_eq!(stand.with_header(json!({ "alg": named })), Err(Flaw::Algorithm), "{named}");
        }
        // Good algorithms both, and each the other key's.
        assert_eq!(stand.with_header(json!({ "alg": "RS256" })), Err(Flaw::WrongAlgorithm));
        assert_eq!(stand.with_header(json!({ "kid": "rsa" })), Err(Flaw::WrongAlgorithm));
        assert_eq!(stand.with_header(json!({ "kid": "rsa", "alg": "RS256" })), Err(Flaw::Signature));
    }

    #[test]
    fn a_token_does_not_bring_its_key() {
        let stand = Stand::new();
        for trick in [
            json!({ "jku": "https://evil.example/keys" }),
            json!({ "jwk": { "kty": "RSA" } }),
            json!({ "x5u": "https://evil.example/chain" }),
            json!({ "x5c": ["MIIB"] }),
        ] {
            assert_eq!(stand.with_header(trick.clone()), Err(Flaw::Demands), "{trick}");
        }
        let nothing = r#"{"alg": "ES256", "kid": "curve", "jwk": null}"#;
        assert_eq!(stand.prove(&stand.sign(nothing, &claims().to_string())), Err(Flaw::Demands));
    }

    #[test]
    fn what_a_header_insists_on_is_refused() {
        let stand = Stand::new();
        for trick in [
            json!({ "crit": ["exp"] }),
            json!({ "crit": [] }),
            json!({ "b64": false }),
            json!({ "zip": "DEF" }),
            json!({ "enc": "A128GCM" }),
        ] {
            assert_eq!(stand.with_header(trick.clone()), Err(Flaw::Demands), "{trick}");
        }
        for kind in ["JWE", "dpop+jwt", "logout+jwt", "secevent+jwt", ""] {
            assert_eq!(stand.with_header(json!({ "typ": kind })), Err(Flaw::Type), "{kind}");
        }
    }

    #[test]
    fn a_token_names_a_key_that_its_issuer_has() {
        let stand = Stand::new();
        assert_eq!(stand.with_header(json!({ "kid": null })), Err(Flaw::NoKeyId));
        assert_eq!(stand.with_header(json!({ "kid": "" })), Err(Flaw::NoKeyId));
        assert_eq!(stand.with_header(json!({ "kid": "k".repeat(256) })), Err(Flaw::NoKeyId));
        assert_eq!(stand.with_header(json!({ "kid": 7 })), Err(Flaw::Header));
        for made_up in ["../../dev/null", "curve\u{0}", "CURVE", "' OR 1=1"] {
            assert_eq!(stand.with_header(json!({ "kid": made_up })), Err(Flaw::UnknownKey), "{made_up}");
        }
    }

    #[test]
    fn a_signature_is_good_for_what_was_signed_alone() {
        let stand = Stand::new();
        let good = stand.sign(&header().to_string(), &claims().to_string());
        let other = stand.sign(&header().to_string(), &edited(claims(), json!({ "sub": "eve" })).to_string());
        let [good, other]: [Vec<&str>; 2] = [&good, &other].map(|token| token.split('.').collect());
        let mixed = [good[0], other[1], good[2]].join(".");
        assert_eq!(stand.prove(&mixed), Err(Flaw::Signature));
        assert_eq!(Stand::new().prove(&good.join(".")), Err(Flaw::Signature), "another issuer's key of the same name");
    }

    #[test]
    fn there_is_one_text_for_one_token() {
        let stand = Stand::new();
        let good = stand.sign(&header().to_string(), &claims().to_string());
        assert!(stand.prove(&good).is_ok());
        let parts: Vec<&str> = good.split('.').collect();
        let flipped = {
            // The last character of 64 bytes holds two bits of no byte.
            let (rest, last) = parts[2].split_at(parts[2].len() - 1);
            let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
            let place = alphabet.find(last).unwrap();
            format!("{}.{}.{rest}{}", parts[0], parts[1], &alphabet[place ^ 1..=place ^ 1])
        };
        let standard = format!("{}.{}.{}", parts[0], parts[1], parts[2].replace(['-', '_'], "+"));
        for odd in [
            flipped,
            format!("{good}=="),
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}\n"),
            format!("{good}."),
            format!("{good}.{}", parts[2]),
            format!(".{good}"),
            good.replace('.', ".."),
            "..".to_owned(),
            ".".to_owned(),
            String::new(),
            "a.b.c".to_owned(),
            "ü.ü.ü".to_owned(),
            if standard == good { "+.+.+".to_owned() } else { standard },
        ] {
            assert!(matches!(stand.prove(&odd), Err(Flaw::Form | Flaw::Header)), "{odd:?}: {:?}", stand.prove(&odd));
        }
    }

    #[test]
    fn a_huge_token_is_not_read() {
        let stand = Stand::new();
        assert_eq!(stand.prove(&"A".repeat(LONGEST + 1)), Err(Flaw::TooLong));
        assert_eq!(stand.with_claims(json!({ "more": "A".repeat(LONGEST) })), Err(Flaw::TooLong));
        let deep = format!("{}{}", "[".repeat(3_000), "]".repeat(3_000));
        assert_eq!(stand.prove(&stand.sign(&deep, "{}")), Err(Flaw::Header));
    }

    #[test]
    fn nothing_is_said_twice() {
        let stand = Stand::new();
        let claims = claims().to_string();
        for twice in [
            r#"{"alg": "ES256", "kid": "curve", "alg": "none"}"#,
            r#"{"alg": "ES256", "kid": "rsa", "kid": "curve"}"#,
            r#"{"alg": "ES256", "kid": "rsa", "\u006bid": "curve"}"#,
        ] {
            assert_eq!(stand.prove(&stand.sign(twice, &claims)), Err(Flaw::Header), "{twice}");
        }
        for name in ["iss", "aud", "sub", "exp", "nbf", "iat"] {
            let (inside, _) = claims.rsplit_once('}').unwrap();
            let twice = format!("{inside}, \"{name}\": {}}}", super::tests::claims()[name]);
            assert_eq!(stand.prove(&stand.sign(&header().to_string(), &twice)), Err(Flaw::Claims), "{twice}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let stand = Stand::new();
        for odd in [
            "",
            "null",
            "[]",
            "\"ES256\"",
            r#"["ES256","curve"]"#,
            "{",
            r#"{"alg":"ES256","kid":"curve"}{}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(stand.prove(&stand.sign(odd, &claims().to_string())), Err(Flaw::Header), "{odd}");
        }
        for odd in ["", "null", "[]", "7", "{", "{} {}"] {
            assert_eq!(stand.prove(&stand.sign(&header().to_string(), odd)), Err(Flaw::Claims), "{odd}");
        }
    }

    #[test]
    fn a_token_is_from_the_issuer_and_for_us() {
        let stand = Stand::new();
        for other in
            ["https://issuer.example/pool", "https://issuer.example/pool/ ", "HTTPS://issuer.example/pool/", ""]
        {
            assert_eq!(stand.with_claims(json!({ "iss": other })), Err(Flaw::Issuer), "{other}");
        }
        assert_eq!(stand.with_claims(json!({ "iss": null })), Err(Flaw::Issuer));
        assert_eq!(stand.with_claims(json!({ "iss": [ISSUER] })), Err(Flaw::Claims));
        for other in [
            json!({ "aud": "perc" }),
            json!({ "aud": "perch perch" }),
            json!({ "aud": [] }),
            json!({ "aud": ["somebody"] }),
            json!({ "aud": null }),
            json!({ "aud": null, "client_id": "somebody" }),
            // The audience is what counts where there is one.
            json!({ "aud": "somebody", "client_id": "perch" }),
        ] {
            assert_eq!(stand.with_claims(other.clone()), Err(Flaw::Audience), "{other}");
        }
        assert_eq!(stand.with_claims(json!({ "token_use": "refresh" })), Err(Flaw::Use));
        for nobody in [json!({ "sub": "" }), json!({ "sub": "a".repeat(256) }), json!({ "sub": "a\nb" })] {
            assert_eq!(stand.with_claims(nobody), Err(Flaw::Subject));
        }
        assert_eq!(stand.with_claims(json!({ "sub": null })), Err(Flaw::Subject));
        assert_eq!(stand.with_claims(json!({ "sub": 7 })), Err(Flaw::Claims));
    }

    #[test]
    fn a_token_has_its_time_and_clocks_differ_a_little() {
        let stand = Stand::new();
        let leeway = LEEWAY.as_secs();
        assert!(stand.with_claims(json!({ "exp": NOW - leeway + 1 })).is_ok());
        assert!(stand.with_claims(json!({ "nbf": NOW + leeway, "iat": NOW + leeway })).is_ok());
        assert_eq!(stand.with_claims(json!({ "exp": NOW - leeway })), Err(Flaw::Expired));
        assert_eq!(stand.with_claims(json!({ "exp": 0 })), Err(Flaw::Expired));
        assert_eq!(stand.with_claims(json!({ "exp": -1e300 })), Err(Flaw::Expired));
        assert_eq!(stand.with_claims(json!({ "nbf": NOW + leeway + 1 })), Err(Flaw::NotYet));
        assert_eq!(stand.with_claims(json!({ "iat": NOW + leeway + 1 })), Err(Flaw::FromTheFuture));
        assert_eq!(stand.with_claims(json!({ "exp": null })), Err(Flaw::NoEnd));
        for odd in [json!({ "exp": "1800000600" }), json!({ "exp": [] }), json!({ "nbf": "now" })] {
            assert_eq!(stand.with_claims(odd.clone()), Err(Flaw::Claims), "{odd}");
        }
        let endless = claims().to_string().replace("1800000600", "1e999");
        assert_eq!(stand.prove(&stand.sign(&header().to_string(), &endless)), Err(Flaw::Claims));
    }

    #[test]
    fn what_is_said_of_a_flaw_fits_a_quoted_string() {
        let stand = Stand::new();
        let flaw = stand.with_header(json!({ "crit": [] })).unwrap_err();
        assert!(flaw.words().chars().all(|c| c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' '));
    }
}
