//! The public keys of an issuer, as it publishes them (JSON Web Key Set, RFC 7517).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use crate::json;

/// No issuer has more keys at a time.
const MOST_KEYS: usize = 100;
/// Of a coordinate on the curve P-256, in bytes.
const COORDINATE: usize = 32;

/// How a token may be signed. Each key is good for one of them, so that the token has no say in it (RFC 8725, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Es256,
}

impl Algorithm {
    /// By its name in a token's header (RFC 7518, section 3.1). What is not here does not exist: `none`, and those where
    /// a public key would serve as a shared secret.
    #[must_use]
    pub fn named(name: &str) -> Option<Algorithm> {
        match name {
            "RS256" => Some(Algorithm::Rs256),
            "ES256" => Some(Algorithm::Es256),
            _ => None,
        }
    }
}

/// The bytes behind a word of base64url, as keys and tokens are written (RFC 7515, section 2): without padding, white space,
/// another alphabet or bits that mean nothing, so that there is one word for them.
#[must_use]
pub fn decode(word: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(word).ok()
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub id: String,
    material: Material,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point, uncompressed.
    P256(Vec<u8>),
}

impl Key {
    /// What it is good for.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self.material {
            Material::Rsa { .. } => Algorithm::Rs256,
            Material::P256(_) => Algorithm::Es256,
        }
    }

    /// Whether it made this signature of `message`. RSA keys under 2,048 bits make none.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let key = RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Material::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
        }
    }
}

/// All that an issuer publishes and perch can use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet(Vec<Key>);

#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a document. What is for encryption, of another kind, nameless or broken is passed over (RFC 7517, section 5).
    ///
    /// # Errors
    /// It is no key set, or none of its keys is of use here.
    pub fn read(document: &[u8]) -> Result<KeySet, String> {
        let Published { keys } =
            json::object(document).map_err(|_| "what it publishes is no JSON Web Key Set".to_owned())?;
        let usable = |entry: Value| serde_json::from_value::<Entry>(entry).ok().and_then(Entry::key);
        let keys: Vec<Key> = keys.into_iter().take(MOST_KEYS).filter_map(usable).collect();
        if keys.is_empty() {
            return Err("it publishes no key for signatures with RS256 or ES256".to_owned());
        }
        Ok(KeySet(keys))
    }

    /// The keys of this id.
    pub fn named<'a>(&'a self, id: &'a str) -> impl Iterator<Item = &'a Key> {
        self.0.iter().filter(move |key| key.id == id)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Entry {
    fn key(self) -> Option<Key> {
        if self.purpose.is_some_and(|purpose| purpose != "sig")
            || self.key_ops.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify"))
        {
            return None;
        }
        let decode = |text: Option<String>| decode(&text?);
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let modulus = decode(self.n)?;
                // Some put a zero in front, as for a signed number; ring takes none.
                let modulus = modulus.iter().skip_while(|byte| **byte == 0).copied().collect();
                Material::Rsa { modulus, exponent: decode(self.e)? }
            }
            ("EC", Some("P-256")) => {
                let coordinates = [decode(self.x)?, decode(self.y)?];
                if coordinates.iter().any(|coordinate| coordinate.len() != COORDINATE) {
                    return None;
                }
                // SEC 1, section 2.3.3: 4 stands for "not compressed".
                Material::P256([&[4][..], &coordinates.concat()].concat())
            }
            _ => return None,
        };
        let key = Key { id: self.kid.filter(|id| !id.is_empty())?, material };
        let fits = self.alg.is_none_or(|named| Algorithm::named(&named) == Some(key.algorithm()));
        fits.then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(keys: &Value) -> Result<Vec<String>, String> {
        let set = KeySet::read(json!({ "keys": keys }).to_string().as_bytes())?;
        Ok(set.0.iter().map(|key| format!("{} {:?}", key.id, key.algorithm())).collect())
    }

    #[test]
    fn only_public_keys_for_signatures_are_taken() {
        let n = URL_SAFE_NO_PAD.encode([0xAB; 256]);
        let half = URL_SAFE_NO_PAD.encode([0xCD; 32]);
        let keys = json!([
            { "kty": "RSA", "kid": "plain", "n": n, "e": "AQAB" },
            { "kty": "RSA", "kid": "said", "n": n, "e": "AQAB", "alg": "RS256", "use": "sig", "key_ops": ["verify"], "x5t": "?" },
            { "kty": "EC", "kid": "curve", "crv": "P-256", "x": half, "y": half },
            { "kty": "oct", "kid": "shared", "k": n, "alg": "HS256" },
            { "kty": "oct", "kid": "shared-too", "k": n, "n": n, "e": "AQAB" },
            { "kty": "RSA", "kid": "for-encryption", "n": n, "e": "AQAB", "use": "enc" },
            { "kty": "RSA", "kid": "for-signing-alone", "n": n, "e": "AQAB", "key_ops": ["sign"] },
            { "kty": "RSA", "kid": "another-algorithm", "n": n, "e": "AQAB", "alg": "HS256" },
            { "kty": "EC", "kid": "another-curve", "crv": "P-384", "x": half, "y": half },
            { "kty": "EC", "kid": "half-a-point", "crv": "P-256", "x": half },
            { "kty": "RSA", "n": n, "e": "AQAB" },
            { "kty": "RSA", "kid": "", "n": n, "e": "AQAB" },
            { "kty": "RSA", "kid": "broken", "n": "not base64!", "e": "AQAB" },
            "nothing",
        ]);
        assert_eq!(read(&keys).unwrap(), ["plain Rs256", "said Rs256", "curve Es256"]);
        assert_eq!(read(&json!([])).unwrap_err(), "it publishes no key for signatures with RS256 or ES256");
        assert_eq!(KeySet::read(b"<html>").unwrap_err(), "what it publishes is no JSON Web Key Set");
    }

    #[test]
    fn there_is_no_algorithm_but_two() {
        for name in
            ["none", "None", "nOnE", "", "HS256", "HS512", "RS384", "PS256", "RS256 ", "rs256", "ES256K", "EdDSA"]
        {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
    }
}
