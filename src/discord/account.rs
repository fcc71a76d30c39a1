//! The bot's account: a token that was tried, and the client that uses it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::event::User;
use super::rest::{Rest, RestError};
use crate::config;
use crate::config::discord::Intents;
use crate::config::secret::SecretRef;
use crate::service::{Cause, Problem};

/// Where a person mends what is wrong with a bot.
pub const PORTAL: &str = "https://discord.com/developers/applications";

/// What Discord's `prepare` makes.
pub struct Account {
    pub token: SecretString,
    pub api_url: Option<String>,
    /// Asked for beside those that perch needs.
    pub intents: Intents,
    pub user: User,
    pub rest: Arc<Rest>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("token", &"[redacted]")
            .field("api_url", &self.api_url)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Account {
    /// Asks Discord who `token` belongs to. A `proven` account is returned as it is when it is the same one; it is
    /// asked about again only when somebody `asked`, and then Discord being in trouble does not count against it.
    ///
    /// # Errors
    /// Why the token can't be used.
    pub async fn try_token(
        config: &config::discord::Discord,
        token: &SecretString,
        resolve: Option<SocketAddr>,
        proven: Option<Arc<Account>>,
        asked: bool,
    ) -> Result<Arc<Account>, Problem> {
        let proven = proven.filter(|account| account.has(token, config.api_url.as_deref()));
        // What it asks to be told has nothing to do with whose token it is; only the gateway knows what is granted.
        let proven = proven.map(|account| account.with_intents(config.intents));
        if let Some(account) = &proven
            && !asked
        {
            return Ok(Arc::clone(account));
        }
        let problem = |cause, text| Problem { place: config.token.place.clone(), text, cause };
        if let Some(flaw) = flaw(token.expose_secret()) {
            let text = format!(
                "{} holds no bot token: {flaw}; copy the token from the Bot page of the application in {PORTAL}",
                places(&config.token)
            );
            return Err(problem(Cause::Refused, text));
        }
        let rest = Rest::new(token, config.api_url.as_deref(), resolve)
            .map_err(|error| problem(Cause::Broken, format!("{error:#}")))?;
        match (rest.me().await, proven) {
            (Ok(_) | Err(RestError::Unavailable(_)), Some(account)) => Ok(account),
            (Ok(user), None) => {
                let (token, api_url, intents) = (token.clone(), config.api_url.clone(), config.intents);
                Ok(Arc::new(Account { token, api_url, intents, user, rest: Arc::new(rest) }))
            }
            (Err(RestError::Unavailable(what)), None) => {
                Err(problem(Cause::Unavailable, format!("can't try the token, as Discord can't be asked: {what}")))
            }
            (Err(RestError::Unauthorized(said)), _) => Err(problem(Cause::Refused, refused(&said, &config.token))),
            (Err(error @ RestError::Refused { .. }), _) => {
                let text = format!("Discord would not say who the token belongs to: {error}");
                Err(problem(Cause::Refused, text))
            }
        }
    }

    /// Whether this is the account of `token` at `api_url`.
    pub fn has(&self, token: &SecretString, api_url: Option<&str>) -> bool {
        self.token.expose_secret() == token.expose_secret() && self.api_url.as_deref() == api_url
    }

    /// Whether `other` is this account, asking for the same.
    pub fn same(&self, other: &Account) -> bool {
        self.has(&other.token, other.api_url.as_deref()) && self.intents == other.intents
    }

    fn with_intents(self: Arc<Account>, intents: Intents) -> Arc<Account> {
        if self.intents == intents {
            return self;
        }
        let (token, api_url) = (self.token.clone(), self.api_url.clone());
        Arc::new(Account { token, api_url, intents, user: self.user.clone(), rest: Arc::clone(&self.rest) })
    }
}

/// What to say when Discord refused a token with the words `said`.
pub fn refused(said: &str, token: &SecretRef) -> String {
    format!(
        "Discord refused the bot token ({said}); reset it on the Bot page of the application in {PORTAL} and store the \
         new one in {}",
        places(token)
    )
}

fn places(token: &SecretRef) -> String {
    token.places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

/// Why `token` can't be one, in words that repeat nothing of it.
fn flaw(token: &str) -> Option<&'static str> {
    match token {
        "" => Some("it is empty"),
        _ if token.starts_with("Bot ") => Some("it begins with \"Bot \", which does not belong to the token"),
        _ if token.contains(['\n', '\r']) => Some("it has a line break in it"),
        _ if token.contains(char::is_whitespace) => Some("it has white space in it"),
        _ if !token.chars().all(|c| c.is_ascii_graphic()) => Some("it has characters in it that no token has"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn what_cannot_be_a_token_is_refused_without_being_repeated() {
        let document = b"[discord]\ntoken = { env = \"TOKEN\" }\n";
        let config = Config::load(document).unwrap().discord.unwrap();
        for (token, expected) in [
            ("", "it is empty"),
            ("Bot hushhush", "it begins with \"Bot \", which does not belong to the token"),
            ("hushhush\nhushhush", "it has a line break in it"),
            ("hush hush", "it has white space in it"),
            ("hushhüsh", "it has characters in it that no token has"),
        ] {
            let token = SecretString::from(token);
            let problem = Account::try_token(&config, &token, None, None, false).await.unwrap_err();
            assert_eq!(
                problem.text,
                format!(
                    "environment variable `TOKEN` holds no bot token: {expected}; copy the token from the Bot page of \
                     the application in https://discord.com/developers/applications"
                )
            );
            assert_eq!(problem.cause, Cause::Refused);
        }
    }

    #[test]
    fn an_account_does_not_show_its_token() {
        let token = SecretString::from("MTk4.hushhush.aaaa");
        let rest = Rest::new(&token, None, None).unwrap();
        let user = User { id: super::super::event::UserId::new(1), username: "perch".to_owned() };
        let account = Account { token, api_url: None, intents: Intents::default(), user, rest: Arc::new(rest) };
        assert!(!format!("{account:?}").contains("hushhush"));
    }
}
