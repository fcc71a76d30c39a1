//! JSON that others wrote.

use serde::de::{DeserializeOwned, Error};

/// Reads an object. serde would take an array for one as well, with the values in the order of the names.
///
/// # Errors
/// It is none, or none with these names.
pub fn object<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    match json.trim_ascii_start().first() {
        Some(b'{') | None => serde_json::from_slice(json),
        Some(_) => Err(Error::custom("it is no object")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Pair {
        _first: u8,
        _second: Option<u8>,
    }

    #[test]
    fn an_array_is_no_object() {
        assert!(super::object::<Pair>(b" {\"_first\": 1}").is_ok());
        for odd in ["[1,2]", " [1,2]", "1", "", "{}", "{\"_first\": 1} 2", "\u{feff}{\"_first\": 1}"] {
            assert!(super::object::<Pair>(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
