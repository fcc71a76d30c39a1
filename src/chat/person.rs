//! Who says something, as conversations and limits know them.

use std::fmt;
use std::sync::Arc;

/// One person, wherever they come from. It is no secret, and tells nothing that lets anybody come as them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonId(Arc<str>);

impl PersonId {
    /// Somebody known by a cookie alone: `mark` is a hash of it, in hexadecimal.
    #[must_use]
    pub fn visitor(mark: &str) -> PersonId {
        PersonId(["visitor:", mark].concat().into())
    }

    /// Whoever holds the API key of this name.
    #[must_use]
    pub fn key(name: &str) -> PersonId {
        PersonId(format!("key:{name}").into())
    }

    /// The subject of this OIDC issuer's tokens: another issuer's of the same name is somebody else.
    #[must_use]
    pub fn subject(issuer: &str, subject: &str) -> PersonId {
        PersonId(format!("oidc:{issuer}#{subject}").into())
    }

    /// A Discord user.
    #[must_use]
    pub fn discord(user: u64) -> PersonId {
        PersonId(format!("discord:{user}").into())
    }

    /// Somebody as [`PersonId::as_str`] wrote them down.
    #[must_use]
    pub fn written(text: &str) -> PersonId {
        PersonId(text.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PersonId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
