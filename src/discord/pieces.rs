//! Cutting an answer into messages while it is still being written: each goes out when it is full, and a block of code goes
//! on in the next as a block of code, as what is hidden behind `||` stays hidden.

use super::split::{LIMIT, between_characters};

/// So many backticks and more begin a block of code, which as many end.
const FENCE: usize = 3;
/// More of them than this count as so many.
const LONGEST_FENCE: usize = 16;
/// The longest name of a language that is repeated, in bytes.
const LONGEST_LANGUAGE: usize = 32;
/// Between an answer and a note.
const GAP: &str = "\n\n";
/// What hides what it stands around.
const BARS: &str = "||";

/// An answer as far as it is written and not yet taken.
#[derive(Clone, Default)]
pub struct Pieces {
    /// What the cut before this went through, and the next message opens again.
    open: Open,
    text: String,
    /// White space that comes next stands at a cut, and is left out.
    cut: bool,
}

/// What is open at one place of an answer. Code stands in what is hidden, and never around it.
#[derive(Clone, Default)]
struct Open {
    hidden: bool,
    code: Option<Block>,
}

/// A block of code.
#[derive(Clone)]
struct Block {
    fence: usize,
    language: String,
    /// Where it begins; 0 if that was before.
    at: usize,
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
            let whole = limit.saturating_sub(self.open.beginning().chars().count());
            let (end, _) = self.text.char_indices().nth(whole)?;
            if self.closed() {
                continue;
            }
            let room = whole.saturating_sub(self.closing(end)).max(1);
            let (window, _) = self.text.char_indices().nth(room)?;
            let cut = self.cut_before(window);
            let open = self.open.behind(&self.text[..cut]);
            let before = self.text[..cut].trim_end().to_owned();
            let rest = self.text.split_off(cut);
            self.text.clear();
            let piece = self.open.beginning() + &before + &open.ending();
            // What is before code in its line is part of it.
            self.cut = open.code.is_none();
            let in_code = !self.cut;
            self.open = open;
            self.push(if in_code { rest.strip_prefix('\n').unwrap_or(&rest) } else { &rest });
            if !before.trim().is_empty() {
                return Some(piece);
            }
        }
    }

    /// How many characters may be needed at most to close what is open somewhere before `end`.
    fn closing(&self, end: usize) -> usize {
        let open = self.open.code.as_ref().map_or(FENCE, |block| block.fence);
        let longest = self.text[..end].split(|c| c != '`').map(str::len).max().unwrap_or(0);
        let hidden = self.open.hidden || self.text[..end].contains(BARS);
        1 + open.max(longest.min(LONGEST_FENCE)) + if hidden { BARS.len() } else { 0 }
    }

    /// Leaves what was cut, if it ended just there.
    fn closed(&mut self) -> bool {
        let text = self.text.trim_start();
        let rest = match &self.open.code {
            Some(block) => Some(text.trim_start_matches('`')).filter(|rest| text.len() - rest.len() >= block.fence),
            None => text.strip_prefix(BARS).filter(|_| self.open.hidden),
        };
        let Some(rest) = rest.map(str::to_owned) else { return false };
        if self.open.code.take().is_none() {
            self.open.hidden = false;
        }
        self.text.clear();
        self.cut = true;
        self.push(&rest);
        true
    }

    /// Where to cut at or before `window`: at the end of a line, else between words, else between characters; before a
    /// block of code or what is hidden rather than right behind its beginning.
    fn cut_before(&self, window: usize) -> usize {
        let behind = window + self.text[window..].chars().next().map_or(0, char::len_utf8);
        let reachable = &self.text[..behind];
        let late = |at: &usize| *at >= window / 2 && !reachable[..*at].trim().is_empty();
        let line = reachable.rfind('\n').filter(late);
        let word = || reachable.rfind(char::is_whitespace).filter(late);
        let mut cut = line.or_else(word).unwrap_or_else(|| between_characters(&self.text, window));
        // A fence is torn nowhere, and no bars are.
        for sign in ['`', '|'] {
            let signs = self.text[..cut].bytes().rev().take_while(|byte| char::from(*byte) == sign).count();
            if signs > 0 && signs < cut && self.text[cut..].starts_with(sign) {
                cut -= signs;
            }
        }
        let open = self.open.behind(&self.text[..cut]);
        if let Some(block) = &open.code
            && block.at > 0
            && !self.text[block.at + block.fence..cut].trim_end().contains('\n')
        {
            return block.at;
        }
        let before = self.text[..cut].trim_end();
        match before.strip_suffix(BARS) {
            Some(shown) if open.hidden && open.code.is_none() && !shown.trim().is_empty() => shown.len(),
            _ => cut,
        }
    }

    /// Whether what there is takes more than one message.
    pub fn more_than_one(&self) -> bool {
        self.clone().end(None).len() > 1
    }

    /// The last messages, with `note` at their end.
    pub fn end(self, note: Option<&str>) -> Vec<String> {
        self.end_at(LIMIT, note)
    }

    fn end_at(mut self, limit: usize, note: Option<&str>) -> Vec<String> {
        let mut pieces: Vec<String> = std::iter::from_fn(|| self.full_at(limit)).collect();
        while self.clone().rest().is_some_and(|rest| rest.chars().count() > limit) {
            // There is no room for what closes it. One cut may only be before what is to be closed.
            let there = self.length();
            match self.full_at(there - 1) {
                Some(piece) => pieces.push(piece),
                // It was shorter behind what ended just there.
                None if self.length() < there => {}
                None => break,
            }
        }
        let rest = self.rest();
        let Some(note) = note else {
            pieces.extend(rest);
            return pieces;
        };
        match rest {
            Some(rest) if rest.chars().count() + GAP.len() + note.chars().count() <= limit => {
                pieces.push(rest + GAP + note);
            }
            rest => pieces.extend(rest.into_iter().chain([note.to_owned()])),
        }
        pieces
    }

    /// How long it is with what opens it again, in characters.
    fn length(&self) -> usize {
        self.open.beginning().chars().chain(self.text.chars()).count()
    }

    /// The first `most` messages of what is more than that, with `note` at the end of the last.
    pub fn end_within(mut self, most: usize, note: &str) -> Vec<String> {
        let mut pieces: Vec<String> = std::iter::from_fn(|| self.full()).take(most.saturating_sub(1)).collect();
        let room = LIMIT - GAP.len() - note.chars().count();
        let last = self.full_at(room).or_else(|| self.rest());
        pieces.push(last.map_or_else(|| note.to_owned(), |last| last + GAP + note));
        pieces
    }

    /// What there is, with what is open closed: code that nobody ended, and what a cut went through.
    fn rest(mut self) -> Option<String> {
        while self.closed() {}
        let mut open = self.open.behind(&self.text);
        // What is hidden to the end of an answer is not hidden at all; the sign of it stays as it is.
        open.hidden &= self.open.hidden;
        let rest = self.text.trim_end();
        (!rest.trim().is_empty()).then(|| self.open.beginning() + rest + &open.ending())
    }
}

impl Open {
    /// What opens it.
    fn beginning(&self) -> String {
        let mut text = if self.hidden { BARS.to_owned() } else { String::new() };
        if let Some(Block { fence, language, .. }) = &self.code {
            text.extend(std::iter::repeat_n('`', *fence));
            text.push_str(language);
            text.push('\n');
        }
        text
    }

    /// What closes it.
    fn ending(&self) -> String {
        let mut text = String::new();
        if let Some(Block { fence, .. }) = &self.code {
            text.push('\n');
            text.extend(std::iter::repeat_n('`', *fence));
        }
        if self.hidden {
            text.push_str(BARS);
        }
        text
    }

    /// What is open behind `text` where this is before it.
    fn behind(&self, text: &str) -> Open {
        let mut open = self.clone();
        if let Some(block) = &mut open.code {
            block.at = 0;
        }
        let mut at = 0;
        while let Some(next) = text[at..].chars().next() {
            let rest = &text[at..];
            let ticks = rest.len() - rest.trim_start_matches('`').len();
            at += match (&open.code, next) {
                (Some(block), '`') => {
                    if ticks >= block.fence {
                        open.code = None;
                    }
                    ticks
                }
                (None, '`') if ticks >= FENCE => {
                    let language = language(&rest[ticks..]).to_owned();
                    open.code = Some(Block { fence: ticks.min(LONGEST_FENCE), language, at });
                    ticks
                }
                (None, '`') => code_span(rest, ticks),
                (None, '\\') => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                (None, '|') if rest.starts_with(BARS) => {
                    // Between blanks it is somebody's "or".
                    let or = text[..at].ends_with([' ', '\t']) && rest[BARS.len()..].starts_with(char::is_whitespace);
                    open.hidden = !open.hidden && !or;
                    BARS.len()
                }
                _ => next.len_utf8(),
            };
        }
        open
    }
}

/// The language of a block of code, of which this is what stands behind the fence.
fn language(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or_default();
    let word = line.len() < text.len()
        && line.len() <= LONGEST_LANGUAGE
        && line.chars().all(|c| c.is_ascii_alphanumeric() || "+-_.#".contains(c));
    if word { line } else { "" }
}

/// The length of the code within a line at the start of `text`, behind so many backticks; of these alone where nothing
/// closes it.
fn code_span(text: &str, ticks: usize) -> usize {
    let mut from = ticks;
    while let Some(start) = text[from..].find('`').map(|start| from + start) {
        let closing = text[start..].bytes().take_while(|byte| *byte == b'`').count();
        if closing == ticks {
            return start + closing;
        }
        if closing >= FENCE {
            break;
        }
        from = start + closing;
    }
    ticks
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
        all.extend(pieces.end_at(limit, None));
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
    fn a_block_in_four_backticks_goes_on_with_what_is_quoted_in_it() {
        let text = "Write:\n````md\n```rust\nfn main() {}\n```\nand then more of it\n````\nThat is all of it.";
        assert_eq!(
            pieces(text, 1, 44),
            [
                "Write:\n````md\n```rust\nfn main() {}\n```\n````",
                "````md\nand then more of it\n````",
                "That is all of it."
            ]
        );
    }

    #[test]
    fn what_is_hidden_stays_hidden_behind_a_cut() {
        let text = "He asks who did it, and ||it was the butler, in the pantry, with a ladle|| as ever.";
        assert_eq!(
            pieces(text, 3, 40),
            ["He asks who did it, and ||it was||", "||the butler, in the pantry, with||", "||a ladle|| as ever."]
        );
        assert_eq!(pieces("So much text, and ||a word||", 1, 24), ["So much text, and", "||a word||"]);
        // An "or" hides nothing, in code or out of it.
        for text in ["if this one || that one is the case", "if `this||that` is the case, and more"] {
            assert_eq!(pieces(text, 1, 26).concat().replace(' ', ""), text.replace(' ', ""));
        }
    }

    #[test]
    fn a_block_that_nobody_ended_ends_with_its_message() {
        assert_eq!(pieces("Look:\n```rust\nfn main() {", 1, 40), ["Look:\n```rust\nfn main() {\n```"]);
        // Neither is there room for both fences here, nor behind a first cut.
        let text = "`x````\n```\n````a\n||```aaaa\n\naaaaaaaa 👩\u{200D}👧👩\u{200D}👧é";
        assert!(pieces(text, 1, 30).iter().all(|piece| piece.chars().count() <= 30), "{:?}", pieces(text, 1, 30));
        // Nor behind one that went through what ends with it.
        let text = "||```\n```aaa\n||word `x`````a\n\n||👩\u{200D}👧aaa word ";
        assert!(pieces(text, 1, 33).iter().all(|piece| piece.chars().count() <= 33), "{:?}", pieces(text, 1, 33));
        let full = format!("```\n{}", "word ".repeat(7).trim());
        assert_eq!(pieces(&full, 1, 39), ["```\nword word word word word word\n```", "```\n word\n```"]);
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
            text in "(word |[a-z]{1,9} |\n|````?[a-z]{0,4}\n|\\|\\||é|👩\u{200D}👧|`x`){0,60}",
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
            if !text.contains("```") && !text.contains("||") {
                prop_assert_eq!(words(&cut.concat()), words(&text));
            }
        }
    }
}
