//! Whose turn it is: whether a message is meant for the bot, and what it says without the bot's own mention.

use super::event::{Incoming, MessageType, UserId};

/// Whether `message` asks the bot for an answer: a person wrote it, in a direct message or with a mention of the bot.
///
/// Discord's own list of mentions decides. It has everyone the message notifies by name, the author of a message that
/// is replied to included; it has nobody for `@everyone`, for a role, or for what stands inside code.
/// Source: Message Resource, "Message Object", `mentions`.
pub fn is_for(message: &Incoming, bot: UserId) -> bool {
    let by_a_person = !message.author.bot && message.author.id != bot && message.webhook_id.is_none();
    let said = matches!(message.kind, MessageType::Regular | MessageType::InlineReply);
    let direct = message.guild_id.is_none();
    by_a_person && said && (direct || message.mentions.iter().any(|user| user.id == bot))
}

/// `content` without the mentions of `bot` that stand outside code. Around each of them the white space closes up, and
/// nothing else changes.
pub fn without(content: &str, bot: UserId) -> String {
    let mentions = [format!("<@{bot}>"), format!("<@!{bot}>")];
    let mut out = String::with_capacity(content.len());
    let mut rest = content;
    while !rest.is_empty() {
        if let Some(mention) = mentions.iter().find(|mention| rest.starts_with(mention.as_str())) {
            rest = close_up(&mut out, &rest[mention.len()..]);
            continue;
        }
        let (token, after) = rest.split_at(token_length(rest));
        out.push_str(token);
        rest = after;
    }
    out
}

/// Joins what stood before a mention to `rest`, which stood behind it, and returns what is left of `rest`.
fn close_up<'a>(out: &mut String, rest: &'a str) -> &'a str {
    let blank = |c: char| c == ' ' || c == '\t';
    let line_starts = out.ends_with('\n');
    let line_ends = rest.starts_with('\n');
    if out.is_empty() {
        return rest.trim_start();
    }
    if rest.trim_start().is_empty() {
        out.truncate(out.trim_end().len());
        return "";
    }
    if line_starts && line_ends {
        return &rest[1..];
    }
    if line_ends && out.ends_with(blank) {
        out.pop();
    } else if (line_starts || out.ends_with(blank)) && rest.starts_with(blank) {
        return &rest[1..];
    }
    rest
}

/// How many bytes at the start of `text` belong together: a code span, an escaped character, or one character.
fn token_length(text: &str) -> usize {
    let mut characters = text.chars();
    match characters.next() {
        Some('`') => code_length(text),
        // As Discord's Markdown has it: a backslash takes away the meaning of the sign behind it.
        Some('\\') => match characters.next() {
            Some(next) if !next.is_alphanumeric() && !next.is_whitespace() => 1 + next.len_utf8(),
            _ => 1,
        },
        Some(other) => other.len_utf8(),
        None => 0,
    }
}

/// The length of the code that begins at the start of `text`, which is a backtick; of the backticks alone when nothing
/// closes them.
fn code_length(text: &str) -> usize {
    let opening = text.bytes().take_while(|byte| *byte == b'`').count();
    let inside = &text[opening..];
    if opening >= 3 {
        // A block ends at the next three backticks, wherever they stand.
        if let Some(end) = inside.find("```").filter(|end| !inside[..*end].trim().is_empty()) {
            return opening + end + 3;
        }
    }
    let mut from = 0;
    while let Some(start) = inside[from..].find('`').map(|start| from + start) {
        let closing = inside[start..].bytes().take_while(|byte| *byte == b'`').count();
        if closing == opening {
            return opening + start + closing;
        }
        from = start + closing;
    }
    opening
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const BOT: UserId = UserId::new(1);

    fn message(changes: &serde_json::Value) -> Incoming {
        let mut message = json!({
            "id": "10", "channel_id": "20", "guild_id": "30", "type": 0, "content": "<@1> hello",
            "author": {"id": "40", "username": "ann"}, "mentions": [{"id": "1", "username": "perch"}],
        });
        for (key, value) in changes.as_object().unwrap() {
            message[key] = value.clone();
        }
        serde_json::from_value(message).unwrap()
    }

    #[test]
    fn a_mention_a_pinging_reply_or_a_direct_message_is_for_the_bot() {
        for (changes, expected) in [
            (json!({}), true),
            (json!({"mentions": []}), false),
            (json!({"mentions": [{"id": "2"}]}), false),
            (json!({"mentions": [{"id": "2"}, {"id": "1"}]}), true),
            (json!({"type": 19, "content": "indeed"}), true),
            (json!({"type": 19, "content": "indeed", "mentions": [{"id": "2"}]}), false),
            (json!({"mentions": [], "mention_everyone": true, "content": "@everyone"}), false),
            (json!({"mentions": [], "mention_roles": ["1"], "content": "<@&1>"}), false),
            (json!({"guild_id": null, "mentions": [], "content": "hello"}), true),
            (json!({"author": {"id": "40", "bot": true}}), false),
            (json!({"author": {"id": "1", "bot": true}}), false),
            (json!({"author": {"id": "1"}, "guild_id": null}), false),
            (json!({"webhook_id": "50"}), false),
            (json!({"type": 6}), false),
            (json!({"type": 20}), false),
            (json!({"type": 250}), false),
        ] {
            assert_eq!(is_for(&message(&changes), BOT), expected, "{changes}");
        }
    }

    #[test]
    fn the_own_mention_goes_and_the_rest_stays() {
        for (content, expected) in [
            ("<@1> hello", "hello"),
            ("<@!1> hello", "hello"),
            ("<@1>hello", "hello"),
            ("hello <@1>", "hello"),
            ("hello<@1>", "hello"),
            ("a <@1> b", "a b"),
            ("a<@1>b", "ab"),
            ("a <@1>b", "a b"),
            ("a <@1>, b", "a , b"),
            ("<@1> a <@!1> b <@1>", "a b"),
            ("<@1> <@1> a", "a"),
            ("a <@1> <@1> b", "a b"),
            ("<@1><@1>", ""),
            ("<@1>", ""),
            ("  <@1>  ", ""),
            ("<@1>\nhello", "hello"),
            ("hello\n<@1>", "hello"),
            ("a\n<@1>\nb", "a\nb"),
            ("a\n<@1> b", "a\nb"),
            ("a <@1>\nb", "a\nb"),
            ("a  b\n\n\tc <@1> d", "a  b\n\n\tc d"),
            ("a  <@1> b", "a  b"),
            // Other people, roles and everyone stay as text.
            ("<@1> <@2> <@!2> <@&1> @everyone @here <#1>", "<@2> <@!2> <@&1> @everyone @here <#1>"),
            ("<@12> <@1>", "<@12>"),
            ("<@1", "<@1"),
            ("", ""),
            // Code.
            ("`<@1>` <@1>", "`<@1>`"),
            ("<@1> ``a ` <@1>`` b", "``a ` <@1>`` b"),
            ("<@1> ```\n<@1>\n```", "```\n<@1>\n```"),
            ("<@1> ```rust\nlet a = \"<@1>\";\n``` <@1> b", "```rust\nlet a = \"<@1>\";\n``` b"),
            ("` <@1> a", "` a"),
            ("`` <@1> ` a", "`` ` a"),
            ("```<@1> a", "``` a"),
            ("\\`<@1>` a", "\\`` a"),
            ("\\<@1> a", "\\<@1> a"),
            ("C:\\dir <@1>", "C:\\dir"),
            // Every script.
            ("<@1> 👩‍👩‍👧 <@1> שלום", "👩‍👩‍👧 שלום"),
            ("مرحبا <@1> بالعالم", "مرحبا بالعالم"),
            ("日本<@1>語", "日本語"),
        ] {
            assert_eq!(without(content, BOT), expected, "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn without_a_mention_every_byte_stays(content in "[ -~\\n\\t`\\\\é日👩]*") {
            prop_assume!(!content.contains("<@1>") && !content.contains("<@!1>"));
            prop_assert_eq!(without(&content, BOT), content);
        }

        #[test]
        fn only_white_space_and_the_mention_go(parts in proptest::collection::vec("<@1>|<@!1>|[a-z`\\\\ \\n👩]", 0..60)) {
            let content = parts.concat();
            let kept = without(&content, BOT);
            let bare = |text: &str| {
                text.replace("<@1>", "").replace("<@!1>", "").split_whitespace().collect::<String>()
            };
            prop_assert_eq!(bare(&kept), bare(&content));
        }
    }
}
