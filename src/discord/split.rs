//! Cutting a long answer into messages.

/// How many characters a message holds. Discord counts Unicode code points.
///
/// Source: Message Resource, "Create Message"; that code points are counted: discord-api-docs issue 1315.
pub const LIMIT: usize = 2_000;

const ZERO_WIDTH_JOINER: char = '\u{200D}';

/// Cuts `text` into pieces of at most [`LIMIT`] characters, in order: at the end of a line, else between words, else
/// between characters. Nothing but white space around a cut is left out, and no piece is blank.
pub fn split(text: &str) -> Vec<&str> {
    split_at(text, LIMIT)
}

fn split_at(text: &str, limit: usize) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((window, _)) = rest.char_indices().nth(limit) {
        let (piece, after) = cut(rest, window, limit);
        if !piece.trim().is_empty() {
            pieces.push(piece);
        }
        rest = after;
    }
    if !rest.trim().is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// Cuts `text`, of which `window` bytes are `limit` characters, once.
fn cut(text: &str, window: usize, limit: usize) -> (&str, &str) {
    // White space at the cut is left out, so the cut may also be right behind the window.
    let behind = window + text[window..].chars().next().map_or(0, char::len_utf8);
    let at = |wanted: fn(char) -> bool| {
        let position = text[..behind].rfind(wanted)?;
        Some((text[..position].trim_end(), text[position..].trim_start())).filter(|(piece, _)| !piece.is_empty())
    };
    let pieces_of = |rest: &str| rest.chars().count().div_ceil(limit);
    match (at(|c| c == '\n'), at(char::is_whitespace)) {
        // A line's end is better than a word's, but not worth a message more.
        (Some(line), Some(word)) if pieces_of(line.1) <= pieces_of(word.1) => line,
        (_, Some(word)) => word,
        _ => text.split_at(between_characters(text, window)),
    }
}

/// The last place at or before `window` where what a reader takes for one character is not torn, if there is one.
pub fn between_characters(text: &str, window: usize) -> usize {
    let mut positions = text[..window].char_indices().rev();
    let mut at = window;
    while at > 0 {
        let (before, after) = (text[..at].chars().next_back(), text[at..].chars().next());
        let torn = after.is_some_and(joins_before)
            || before == Some(ZERO_WIDTH_JOINER)
            || (after.is_some_and(is_flag_half)
                && text[..at].chars().rev().take_while(|c| is_flag_half(*c)).count() % 2 == 1);
        if !torn {
            return at;
        }
        at = positions.next().map_or(0, |(position, _)| position);
    }
    window
}

/// Whether `c` is drawn on the character before it: combining marks, joiners, variation selectors, skin tones, tags.
fn joins_before(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036F}' | '\u{0483}'..='\u{0489}' | '\u{0591}'..='\u{05C7}' | '\u{0610}'..='\u{061A}'
        | '\u{064B}'..='\u{065F}' | '\u{0900}'..='\u{0903}' | '\u{093A}'..='\u{093C}' | '\u{093E}'..='\u{094F}'
        | '\u{0E31}' | '\u{0E34}'..='\u{0E3A}' | '\u{0E47}'..='\u{0E4E}' | '\u{1AB0}'..='\u{1AFF}'
        | '\u{1DC0}'..='\u{1DFF}' | '\u{200D}' | '\u{20D0}'..='\u{20FF}' | '\u{302A}'..='\u{302F}'
        | '\u{3099}' | '\u{309A}' | '\u{FE00}'..='\u{FE0F}' | '\u{FE20}'..='\u{FE2F}'
        | '\u{1F3FB}'..='\u{1F3FF}' | '\u{E0020}'..='\u{E007F}' | '\u{E0100}'..='\u{E01EF}')
}

/// Two of these make a flag.
fn is_flag_half(c: char) -> bool {
    matches!(c, '\u{1F1E6}'..='\u{1F1FF}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cut_is_at_a_line_else_a_word_else_a_character() {
        for (text, expected) in [
            ("", vec![]),
            ("0123456789", vec!["0123456789"]),
            ("0123456789a", vec!["0123456789", "a"]),
            ("0123456789 a", vec!["0123456789", "a"]),
            ("01234 56789a", vec!["01234", "56789a"]),
            ("0 2\n4 6789ab", vec!["0 2", "4 6789ab"]),
            // The line's end would cost a third message.
            ("0\n234 6789abcdef", vec!["0\n234", "6789abcdef"]),
            ("0\n234567 9abcdefg", vec!["0\n234567", "9abcdefg"]),
            ("a              b", vec!["a", "b"]),
            ("01234567\n\n\n\nabc", vec!["01234567", "abc"]),
            ("012345678e\u{301}f", vec!["012345678", "e\u{301}f"]),
            ("01234567👩\u{200D}👧", vec!["01234567", "👩\u{200D}👧"]),
            ("012345678🇩🇪", vec!["012345678", "🇩🇪"]),
            ("01234567🇩🇪🇫🇷", vec!["01234567🇩🇪", "🇫🇷"]),
            ("012345678👍🏽", vec!["012345678", "👍🏽"]),
        ] {
            assert_eq!(split_at(text, 10), expected, "{text:?}");
        }
    }

    #[test]
    fn two_thousand_characters_of_any_script_are_one_message() {
        for character in ["a", "é", "日", "𝄞", "👍"] {
            assert_eq!(split(&character.repeat(LIMIT)).len(), 1);
            assert_eq!(split(&character.repeat(2 * LIMIT)).len(), 2);
        }
        assert_eq!(split(&"e\u{301}".repeat(LIMIT)).len(), 2);
        assert_eq!(split("word ".repeat(800).trim()).len(), 2);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_but_white_space_at_a_cut(text in "[a-c \\n日👩🇩🇪\u{301}\u{200D}]{0,200}", limit in 1_usize..30) {
            let pieces = split_at(&text, limit);
            let mut rest = text.as_str();
            for piece in &pieces {
                prop_assert!(piece.chars().count() <= limit);
                prop_assert!(!piece.trim().is_empty());
                let position = rest.find(piece).expect("pieces are in order");
                prop_assert!(rest[..position].trim().is_empty());
                rest = &rest[position + piece.len()..];
            }
            prop_assert!(rest.trim().is_empty());
        }

        #[test]
        fn what_fits_stays_as_it_is(text in "\\PC{1,50}") {
            prop_assume!(!text.trim().is_empty());
            prop_assert_eq!(split_at(&text, 50), vec![text.as_str()]);
        }
    }
}
