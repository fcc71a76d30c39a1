//! What a room may be called.

use std::fmt;
use std::sync::Arc;

/// The longest name, in characters.
const LONGEST: usize = 64;

/// A room's name: any text without control characters, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoomName(Arc<str>);

impl RoomName {
    /// Takes `text` for a name.
    ///
    /// # Errors
    /// Why it can't be one, for whoever wrote it.
    pub fn new(text: &str) -> Result<RoomName, String> {
        if text.trim().is_empty() {
            return Err("a room's name must not be empty".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("a room's name must be without control characters".to_owned());
        }
        if text.chars().nth(LONGEST).is_some() {
            return Err(format!("a room's name has at most {LONGEST} characters"));
        }
        Ok(RoomName(text.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
