//! Cutting an answer into messages while it is still being written: each goes out when it is full, and a block of code goes
//! on in the next as a block of code.

use super::split::{LIMIT, between_characters};

/// What begins and ends a block of code.
const FENCE: &str = "```";
/// What ends one where it is cut, in characters.
const CLOSING: usize = FENCE.len() + 1;
/// The longest name of a language that is repeated, in bytes.
const LONGEST_LANGUAGE: usize = 32;

/// An answer as far as it is written and not yet taken.
#[derive(Default)]
pub struct Pieces {
    /// What opens the block of code again that was cut.
    prefix: String,
    text: String,
    /// White space that comes next stands at a cut, and is left out.
    cut: bool,
}

impl Pieces {
    /// More of the answer.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        if self.cut {
            self.text.drain(..self.text.len() - self.text.trim_start().len());
            self.cut = self.text.is_empty();
        }
    }

    /// The next message, if there is more than fits into it. Where it is cut depends on the text alone, and not on how it
    /// came.
    pub fn full(&mut self) -> Option<String> {
        self.full_at(LIMIT)
    }

    fn full_at(&mut self, limit: usize) -> Option<String> {
        loop {
            let whole = limit.saturating_sub(self.prefix.chars().count());
            self.text.char_indices().nth(whole)?;
            if self.closed() {
                continue;
            }
            let (window, _) = self.text.char_indices().nth(whole.saturating_sub(CLOSING).max(1))?;
            let cut = self.cut_before(window);
            let language = open_fence(&self.prefix, &self.text[..cut]);
            let before = self.text[..cut].trim_end().to_owned();
            let rest = self.text.split_off(cut);
            self.text.clear();
            let mut piece = std::mem::take(&mut self.prefix) + &before;
            if let Some(language) = language {
                // What is before code in its line is part of it.
                self.text.push_str(rest.strip_prefix('\n').unwrap_or(&rest));
                self.prefix = format!("{FENCE}{language}\n");
                piece.push('\n');
                piece.push_str(FENCE);
            } else {
                self.cut = true;
                self.push(&rest);
            }
            if !before.trim().is_empty() {
                return Some(piece);
            }
        }
    }

    /// Leaves the block of code that was cut, if it ended just there.
    fn closed(&mut self) -> bool {
        let Some(rest) = self.text.trim_start().strip_prefix(FENCE).filter(|_| !self.prefix.is_empty()) else {
            return false;
        };
        let rest = rest.to_owned();
        self.prefix.clear();
        self.text.clear();
        self.cut = true;
        self.push(&rest);
        true
    }

    /// Where to cut at or before `window`: at the end of a line, else between words, else between characters; before a
    /// block of code rather than behind its first line.
    fn cut_before(&self, window: usize) -> usize {
        let behind = window + self.text[window..].chars().next().map_or(0, char::len_utf8);
        let reachable = &self.text[..behind];
        let late = |at: &usize| *at >= window / 2 && !reachable[..*at].trim().is_empty();
        let line = reachable.rfind('\n').filter(late);
        let word = || reachable.rfind(char::is_whitespace).filter(late);
        let cut = line.or_else(word).unwrap_or_else(|| between_characters(&self.text, window));
        // A fence is torn nowhere.
        let ticks = self.text[..cut].bytes().rev().take_while(|byte| *byte == b'`').count();
        let cut = if ticks > 0 && ticks < cut && self.text[cut..].starts_with('`') { cut - ticks } else { cut };
        match self.text[..cut].rfind(FENCE) {
            Some(fence) if fence > 0 && open_fence(&self.prefix, &self.text[..cut]).is_some() => {
                let opening = &self.text[fence + FENCE.len()..cut];
                if opening.trim_end().contains('\n') { cut } else { fence }
            }
            _ => cut,
        }
    }

    /// The last messages, with `note` at their end.
    pub fn end(mut self, note: Option<&str>) -> Vec<String> {
        if let Some(note) = note {
            let open = open_fence(&self.prefix, &self.text).is_some();
            self.text.truncate(self.text.trim_end().len());
            if open {
                self.text.push('\n');
                self.text.push_str(FENCE);
            }
            if !self.text.is_empty() {
                self.text.push_str("\n\n");
            }
            self.text.push_str(note);
        }
        let mut pieces: Vec<String> = std::iter::from_fn(|| self.full()).collect();
        self.closed();
        let rest = self.text.trim_end();
        if !rest.trim().is_empty() {
            pieces.push(self.prefix + rest);
        }
        pieces
    }
}

/// The language of the block of code that is open at the end of `text`, which stands behind `prefix`.
fn open_fence(prefix: &str, text: &str) -> Option<String> {
    let mut open = (!prefix.is_empty()).then(|| prefix.trim_matches(['`', '\n']).to_owned());
    let mut rest = text;
    while let Some(at) = rest.find(FENCE) {
        rest = &rest[at + FENCE.len()..];
        open = if open.is_some() {
            None
        } else {
            let line = rest.split('\n').next().unwrap_or_default();
            let word = line.len() < rest.len()
                && line.len() <= LONGEST_LANGUAGE
                && line.chars().all(|c| c.is_ascii_alphanumeric() || "+-_.#".contains(c));
            Some(if word { line.to_owned() } else { String::new() })
        };
    }
    open
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All of an answer's messages when it comes in pieces of this size.
    fn pieces(text: &str, step: usize, limit: usize) -> Vec<String> {
        let mut pieces = Pieces::default();
        let mut all = Vec::new();
        for piece in text.chars().collect::<Vec<_>>().chunks(step.max(1)) {
            pieces.push(&piece.iter().collect::<String>());
            all.extend(std::iter::from_fn(|| pieces.full_at(limit)));
        }
        all.extend(pieces.end(None));
        all
    }

    #[test]
    fn a_message_ends_with_a_line_or_a_word() {
        assert_eq!(pieces("", 1, 20), [""; 0]);
        assert_eq!(pieces("short", 1, 20), ["short"]);
        assert_eq!(pieces("a line of text\nand another one here", 3, 20), ["a line of text", "and another one here"]);
        assert_eq!(pieces("several words that go on and on", 4, 20), ["several words", "that go on and on"]);
        assert_eq!(pieces("0123456789abcdefghijklmn", 5, 20), ["0123456789abcdef", "ghijklmn"]);
    }

    #[test]
    fn a_block_of_code_goes_on_as_one() {
        let code = "Look:\n```rust\nfn main() {\n    let it = 1;\n    let be = 2;\n}\n```\nThat is all of it.";
        assert_eq!(
            pieces(code, 1, 40),
            [
                "Look:\n```rust\nfn main() {\n```",
                "```rust\n    let it = 1;\n```",
                "```rust\n    let be = 2;\n}\n```",
                "That is all of it."
            ]
        );
        // None begins with its first line alone, and none is left that has nothing in it.
        let text = "some words come first\n```python\nprint('hello there')\n```";
        assert_eq!(pieces(text, 7, 38), ["some words come first", "```python\nprint('hello there')\n```"]);
        let text = format!("```\n{}\n```", "0123456789 ".repeat(3).trim());
        assert!(pieces(&text, 2, 24).iter().all(|piece| piece.matches("```").count() == 2));
    }

    #[test]
    fn a_note_stands_outside_of_code() {
        let mut pieces = Pieces::default();
        pieces.push("Look:\n```rust\nfn main() {\n");
        assert_eq!(pieces.end(Some("(It broke off.)")), ["Look:\n```rust\nfn main() {\n```\n\n(It broke off.)"]);
        assert_eq!(Pieces::default().end(Some("(Nothing.)")), ["(Nothing.)"]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_no_message_is_too_long_and_it_does_not_matter_how_it_came(
            text in "(word |[a-z]{1,9} |\n|```[a-z]{0,4}\n|é|👩\u{200D}👧|`x`){0,60}",
            step in 1_usize..30,
            limit in 30_usize..80,
        ) {
            let cut = pieces(&text, step, limit);
            prop_assert_eq!(&cut, &pieces(&text, 1, limit));
            prop_assert_eq!(&cut, &pieces(&text, usize::MAX >> 1, limit));
            for piece in &cut {
                prop_assert!(piece.chars().count() <= limit, "{} in {:?}", piece.chars().count(), piece);
                prop_assert!(!piece.trim().is_empty());
            }
            let words = |text: &str| text.replace("```", " ").split_whitespace().map(str::to_owned).collect::<Vec<_>>().concat();
            // The language of a block that goes on is said again.
            if !text.contains("```") {
                prop_assert_eq!(words(&cut.concat()), words(&text));
            }
        }
    }
}
