//! API keys. A key is 256 random bits behind a prefix that scanners for leaked secrets can look for; perch is told the
//! SHA-256 of each and never a key. What makes a password's hash slow (bcrypt, Argon2) is that people choose few passwords:
//! among 2^256 keys nobody finds one by trying, however quick the hash is, and a quick one lets every request be checked.

use std::collections::BTreeSet;
use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::chat::PersonId;
use crate::hexadecimal;

/// What every key begins with, and nothing else that perch takes.
pub const PREFIX: &str = "perch_";
/// What a hash is written with, so that another kind may stand beside it one day.
const KIND: &str = "sha256:";
/// The longest name, in characters.
const LONGEST_NAME: usize = 64;

/// A SHA-256.
pub type Hash = [u8; 32];

/// Whoever may come, by the hashes of their keys.
pub struct Keys(Vec<(Hash, PersonId)>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} hashes)", self.0.len())
    }
}

/// A key that was just made. It is kept nowhere.
pub struct NewKey {
    pub key: SecretString,
    /// As it stands in the secret.
    pub hash: String,
}

/// Makes a key from the system's random source.
///
/// # Errors
/// The system gives no random bytes.
pub fn make() -> anyhow::Result<NewKey> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system gives no random bytes"))?;
    let key = format!("{PREFIX}{}", hexadecimal::of(&bytes));
    let hash = format!("{KIND}{}", hexadecimal::of(&hash(&key)));
    Ok(NewKey { key: key.into(), hash })
}

/// The hash of a credential.
#[must_use]
pub fn hash(credential: &str) -> Hash {
    Sha256::digest(credential).into()
}

/// Whether a key may be named so: the name stands in `status`, in the journal and with everything that is kept of its holder.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(fits) && !name.starts_with(PREFIX)
}

impl Keys {
    /// Reads the secret's value: a JSON object of names, each with a hash or a list of them.
    ///
    /// # Errors
    /// What is wrong with it. Nothing of it is repeated, as anything may have been put there by mistake.
    pub fn read(secret: &SecretString) -> Result<Keys, String> {
        let mut json = serde_json::Deserializer::from_str(secret.expose_secret());
        let pairs = json.deserialize_any(Pairs).and_then(|pairs| json.end().map(|()| pairs)).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("it is not a JSON object of names and hashes (line {line}, column {column})")
        })?;
        let mut keys = Vec::new();
        let (mut names, mut hashes) = (BTreeSet::new(), BTreeSet::new());
        for (index, (name, value)) in pairs.into_iter().enumerate() {
            let flaw = |text: &str| format!("entry {} {text}", index + 1);
            if !is_name(&name) {
                return Err(flaw("has a name that is not 1 to 64 of A–Z a–z 0–9 - _ . @"));
            }
            let person = PersonId::key(&name);
            if !names.insert(name) {
                return Err(flaw("has a name that was there before; put several hashes of one name in a list"));
            }
            let written = match value {
                Value::Array(written) if !written.is_empty() => written,
                Value::String(_) => vec![value],
                _ => return Err(flaw("is neither a hash nor a list of hashes")),
            };
            for written in written {
                let written = written.as_str().unwrap_or_default();
                if written.starts_with(PREFIX) {
                    return Err(flaw(
                        "holds a key in place of its hash; that key is known to others now: make a new one",
                    ));
                }
                let hash = written.strip_prefix(KIND).and_then(bytes);
                let hash = hash.ok_or_else(|| flaw("holds no hash; `perch key NAME` prints one"))?;
                if !hashes.insert(hash) {
                    return Err(flaw("has a hash that was there before"));
                }
                keys.push((hash, person.clone()));
            }
        }
        Ok(Keys(keys))
    }

    /// Whose key has this hash. All of them are looked at, in full: how long it takes says nothing of any.
    #[must_use]
    pub fn holder(&self, hash: &Hash) -> Option<&PersonId> {
        let mut found = None;
        for (known, person) in &self.0 {
            let difference = known.iter().zip(hash).fold(0, |difference, (a, b)| difference | (a ^ b));
            if std::hint::black_box(difference) == 0 {
                found = Some(person);
            }
        }
        found
    }

    /// How many keys there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// The pairs of a JSON object in their order, those that repeat a name as well.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, Value)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

/// The bytes of a hash in hexadecimal.
fn bytes(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Keys, String> {
        Keys::read(&text.to_owned().into())
    }

    #[test]
    fn a_key_is_known_by_its_hash_alone() {
        let (ada, bob, other) = (make().unwrap(), make().unwrap(), make().unwrap());
        let keys = read(&format!(r#"{{"ada": "{}", "bob": ["{}", "{}"]}}"#, ada.hash, bob.hash, other.hash)).unwrap();
        let holder = |key: &NewKey| keys.holder(&hash(key.key.expose_secret())).cloned();
        assert_eq!(holder(&ada), Some(PersonId::key("ada")));
        assert_eq!(holder(&bob), Some(PersonId::key("bob")));
        assert_eq!(holder(&other), Some(PersonId::key("bob")), "a key and its successor, side by side");
        assert_eq!(holder(&make().unwrap()), None);
        assert_eq!(keys.holder(&hash(&ada.hash)), None, "the hash is no key");
        assert_eq!(format!("{keys:?}"), "Keys(3 hashes)");
    }

    #[test]
    fn keys_are_random_and_of_one_shape() {
        let (one, two) = (make().unwrap(), make().unwrap());
        assert_ne!(one.key.expose_secret(), two.key.expose_secret());
        for made in [&one, &two] {
            let key = made.key.expose_secret();
            assert!(key.starts_with(PREFIX) && key.len() == 70, "{key}");
            assert!(!made.hash.contains(&key[PREFIX.len()..]));
        }
    }

    #[test]
    fn what_is_wrong_with_the_secret_is_said_without_a_word_of_it() {
        let hash = format!("sha256:{}", "ab".repeat(32));
        let flaws = [
            "hunter2".to_owned(),
            r#"{"hunter2": }"#.to_owned(),
            r#"["hunter2"]"#.to_owned(),
            format!(r#"{{"hunter2!": "{hash}"}}"#),
            format!(r#"{{"{PREFIX}hunter2": "{hash}"}}"#),
            r#"{"ada": "hunter2"}"#.to_owned(),
            r#"{"ada": {"hunter2": 1}}"#.to_owned(),
            r#"{"ada": []}"#.to_owned(),
            format!(r#"{{"ada": "{PREFIX}{}"}}"#, "ab".repeat(32)),
            format!(r#"{{"ada": "sha256:{}"}}"#, "ab".repeat(31)),
            format!(r#"{{"ada": "sha256:+{}"}}"#, &"ab".repeat(32)[1..]),
            format!(r#"{{"ada": "{hash}", "ada": "sha256:{}"}}"#, "cd".repeat(32)),
            format!(r#"{{"ada": "{hash}", "bob": "{hash}"}}"#),
            format!(r#"{{"ada": "{hash}"}} hunter2"#),
        ];
        let said: Vec<String> = flaws.iter().map(|text| read(text).unwrap_err()).collect();
        insta::assert_snapshot!(said.join("\n"), @"
        it is not a JSON object of names and hashes (line 1, column 1)
        it is not a JSON object of names and hashes (line 1, column 13)
        it is not a JSON object of names and hashes (line 1, column 1)
        entry 1 has a name that is not 1 to 64 of A–Z a–z 0–9 - _ . @
        entry 1 has a name that is not 1 to 64 of A–Z a–z 0–9 - _ . @
        entry 1 holds no hash; `perch key NAME` prints one
        entry 1 is neither a hash nor a list of hashes
        entry 1 is neither a hash nor a list of hashes
        entry 1 holds a key in place of its hash; that key is known to others now: make a new one
        entry 1 holds no hash; `perch key NAME` prints one
        entry 1 holds no hash; `perch key NAME` prints one
        entry 2 has a name that was there before; put several hashes of one name in a list
        entry 2 has a hash that was there before
        it is not a JSON object of names and hashes (line 1, column 84)
        ");
        assert!(!said.concat().contains("hunter2"));
    }
}
