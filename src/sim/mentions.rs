//! Who a message mentions: what its text says, and what `allowed_mentions` lets through.
//!
//! Sources: API reference, "Message Formatting"; Message resource, "Allowed Mentions Object".

use serde::Deserialize;

use super::snowflake::Snowflake;

/// The mentions written in a text, in order, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub users: Vec<Snowflake>,
    pub roles: Vec<Snowflake>,
    pub everyone: bool,
}

/// Finds `<@id>`, `<@!id>`, `<@&id>`, `@everyone` and `@here` outside of code, where Discord does not count them.
pub fn find(text: &str) -> Written {
    let mut found = Written::default();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '<', '@', '\\']) {
        rest = &rest[at..];
        if let Some(escaped) = rest.strip_prefix("\\`") {
            rest = escaped;
        } else if rest.starts_with('`') {
            rest = after_code(rest);
        } else if let Some((after, role, id)) = mention(rest) {
            let list = if role { &mut found.roles } else { &mut found.users };
            if !list.contains(&id) {
                list.push(id);
            }
            rest = after;
        } else {
            found.everyone |= rest.starts_with("@everyone") || rest.starts_with("@here");
            // Each of the four characters looked for is one byte long.
            rest = &rest[1..];
        }
    }
    found
}

/// What follows the code that begins here, or the backticks alone when nothing closes them.
fn after_code(text: &str) -> &str {
    let run = text.bytes().take_while(|&byte| byte == b'`').count();
    let fence = run.min(3);
    let inside = &text[fence..];
    let mut from = 0;
    while let Some(at) = inside[from..].find('`') {
        let start = from + at;
        let length = inside[start..].bytes().take_while(|&byte| byte == b'`').count();
        if start > 0 && (length == fence || (fence == 3 && length > 3)) {
            return &inside[start + length..];
        }
        from = start + length;
    }
    &text[run..]
}

/// A user or role mention that begins here: what follows it, whether it is a role, and the id.
fn mention(text: &str) -> Option<(&str, bool, Snowflake)> {
    let inner = text.strip_prefix("<@")?;
    let (role, inner) = match inner.strip_prefix('&') {
        Some(inner) => (true, inner),
        None => (false, inner.strip_prefix('!').unwrap_or(inner)),
    };
    let (id, after) = inner.split_once('>')?;
    // `parse` alone would take a leading plus.
    id.bytes().all(|byte| byte.is_ascii_digit()).then_some(())?;
    Some((after, role, id.parse().ok()?))
}

/// The `allowed_mentions` of a request. A missing object allows everything; an empty one nothing.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Allowed {
    #[serde(default)]
    pub parse: Option<Vec<Kind>>,
    #[serde(default)]
    pub roles: Option<Vec<Snowflake>>,
    #[serde(default)]
    pub users: Option<Vec<Snowflake>>,
    #[serde(default)]
    pub replied_user: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Roles,
    Users,
    Everyone,
}

impl Allowed {
    /// What a regular message without `allowed_mentions` gets: everything, the author replied to included.
    pub fn everything() -> Self {
        Self {
            parse: Some(vec![Kind::Users, Kind::Roles, Kind::Everyone]),
            roles: None,
            users: None,
            replied_user: Some(true),
        }
    }

    /// The mistake Discord refuses the object for: the field it is in, the code and the message.
    pub fn mistake(&self) -> Option<(&'static str, &'static str, &'static str)> {
        const EXCLUSIVE: &str = "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE";
        const MANY: usize = 100;
        let some = |list: &Option<Vec<Snowflake>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let over = |list: &Option<Vec<Snowflake>>| list.as_ref().is_some_and(|list| list.len() > MANY);
        if self.parses(Kind::Users) && some(&self.users) {
            return Some(("parse", EXCLUSIVE, "parse:[\"users\"] and users: [ids...] are mutually exclusive."));
        }
        if self.parses(Kind::Roles) && some(&self.roles) {
            return Some(("parse", EXCLUSIVE, "parse:[\"roles\"] and roles: [ids...] are mutually exclusive."));
        }
        if over(&self.users) {
            return Some(("users", "BASE_TYPE_MAX_LENGTH", "Must be 100 or fewer in length."));
        }
        over(&self.roles).then_some(("roles", "BASE_TYPE_MAX_LENGTH", "Must be 100 or fewer in length."))
    }

    pub fn user(&self, id: Snowflake) -> bool {
        self.parses(Kind::Users) || self.users.as_ref().is_some_and(|users| users.contains(&id))
    }

    pub fn role(&self, id: Snowflake) -> bool {
        self.parses(Kind::Roles) || self.roles.as_ref().is_some_and(|roles| roles.contains(&id))
    }

    pub fn everyone(&self) -> bool {
        self.parses(Kind::Everyone)
    }

    pub fn replied_user(&self) -> bool {
        self.replied_user.unwrap_or(false)
    }

    fn parses(&self, kind: Kind) -> bool {
        self.parse.as_ref().is_some_and(|kinds| kinds.contains(&kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(text: &str) -> Vec<u64> {
        find(text).users.into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn users_are_found_in_both_spellings_once() {
        assert_eq!(users("<@1> and <@!2>, again <@!1>"), [1, 2]);
        assert_eq!(users("<@ 1> <@+1> <@> <@1 <@x> <@!!3>"), [] as [u64; 0]);
        assert_eq!(find("<@&7>").roles, [Snowflake(7)]);
    }

    #[test]
    fn code_hides_mentions() {
        for text in ["`<@1>`", "``<@1>``", "```\n<@1>\n```", "```rust\n`<@1>`\n```", "`` ` <@1> ``", "`@everyone`"] {
            assert_eq!(find(text), Written::default(), "{text}");
        }
        assert_eq!(users("`code` <@1> `more`"), [1]);
        assert_eq!(users("` never closed <@1>"), [1]);
        assert_eq!(users("``` never closed <@1>"), [1]);
        assert_eq!(users("\\`<@1>\\`"), [1]);
    }

    #[test]
    fn everyone_and_here() {
        assert!(find("hey @everyone").everyone);
        assert!(find("@here").everyone);
        assert!(!find("everyone @ here").everyone);
    }

    #[test]
    fn text_of_any_script_is_walked_without_panic() {
        assert_eq!(users("🐦`🐦<@1>`🐦<@2> مرحبا <@3>`"), [2, 3]);
    }

    #[test]
    fn an_empty_object_allows_nothing() {
        let none = Allowed::default();
        assert!(!none.user(Snowflake(1)) && !none.role(Snowflake(1)) && !none.everyone() && !none.replied_user());
        let all = Allowed::everything();
        assert!(all.user(Snowflake(1)) && all.role(Snowflake(1)) && all.everyone() && all.replied_user());
    }
}
