//! Whether something is a PDF, and one that does nothing of its own when it is opened.
//!
//! What stands in compressed streams can't be seen without unpacking them, which perch does not do. A script in there does
//! nothing to perch, which runs none; whoever opens the document elsewhere has to look after themselves.

use super::{Flaw, Reason};

/// How far from the end the marker of the end may stand, in bytes.
///
/// Source: Adobe's PDF Reference 1.7, implementation note 18.
const TAIL: usize = 1_024;

/// The longest name that is looked for, in bytes.
const LONGEST_NAME: usize = 16;
/// A document that was changed so often has as many of them. More are not looked at.
const OPEN_ACTIONS: usize = 16;
const STREAM: &[u8] = b"stream";

/// Source: ISO 32000-2, 7.5.2 (header), 7.5.5 (trailer), 12.6.4 (actions), 7.11.4 (embedded files), 13.7 (rich media).
pub fn look(bytes: &[u8]) -> Result<usize, Flaw> {
    // Readers let it stand further down; then a file can be something else as well.
    if !bytes.starts_with(b"%PDF-1.") && !bytes.starts_with(b"%PDF-2.") {
        return Err(Flaw::content("it does not begin like one"));
    }
    let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
    let Some(end) = rfind(tail, b"%%EOF") else { return Err(Flaw::content("it does not end like one")) };
    let table = rfind(&tail[..end], b"startxref").and_then(|at| number(tail, at + b"startxref".len()));
    if table.is_none_or(|(offset, _)| offset >= bytes.len()) {
        return Err(Flaw::content("it does not say where its contents are"));
    }
    let mut opened = 0;
    for (at, name) in names(bytes) {
        opened += usize::from(name == b"OpenAction");
        let what = match name.as_slice() {
            b"JavaScript" | b"JS" => "has a script in it",
            b"Launch" => "starts programs",
            b"EmbeddedFile" | b"EmbeddedFiles" => "has other files in it",
            b"RichMedia" => "has moving media in it",
            b"SubmitForm" | b"ImportData" => "sends or fetches data by itself",
            b"OpenAction" if opened > OPEN_ACTIONS || !shows_a_page(bytes, at) => {
                "does something by itself when it is opened"
            }
            _ => continue,
        };
        return Err(Flaw { reason: Reason::Active, what: format!("{what}; print it to a PDF anew to have it taken") });
    }
    Ok(bytes.len())
}

/// The names in a document, each with where it ends: short ones only, in one pass. What is written as `#4A` is read as what
/// it stands for.
struct Names<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the stream ends that was begun last.
    stream_end: usize,
}

fn names(bytes: &[u8]) -> Names<'_> {
    Names { bytes, at: 0, stream_end: 0 }
}

impl Names<'_> {
    /// Notes how far a stream goes that begins with the word at `at`.
    fn stream(&mut self, at: usize) {
        let data = at + STREAM.len();
        if at < self.stream_end || !matches!(self.bytes.get(data), Some(b'\r' | b'\n')) {
            return;
        }
        // Where none ends any more, no other has to be looked for.
        self.stream_end = find(&self.bytes[data..], b"endstream").map_or(usize::MAX, |length| data + length);
    }

    /// The short name behind the slash at `slash`, and where it ends.
    fn name(&self, slash: usize) -> (usize, Option<Vec<u8>>) {
        let mut name = Vec::new();
        let mut at = slash + 1;
        while let Some(byte) = self.bytes.get(at).copied().filter(|byte| is_regular(*byte)) {
            let escaped = (byte == b'#').then(|| hex(self.bytes.get(at + 1..at + 3)?)).flatten();
            name.push(escaped.unwrap_or(byte));
            at += if escaped.is_some() { 3 } else { 1 };
            if name.len() > LONGEST_NAME {
                return (at, None);
            }
        }
        (at, Some(name))
    }
}

impl Iterator for Names<'_> {
    type Item = (usize, Vec<u8>);

    fn next(&mut self) -> Option<(usize, Vec<u8>)> {
        loop {
            self.at += self.bytes.get(self.at..)?.iter().position(|byte| matches!(byte, b'/' | b's'))?;
            let found = self.at;
            self.at += 1;
            if self.bytes[found..].starts_with(STREAM) {
                self.stream(found);
            } else if self.bytes[found] == b'/' {
                let (end, name) = self.name(found);
                // Among compressed bytes two letters behind a slash are chance.
                let in_stream = found < self.stream_end && self.stream_end != usize::MAX;
                if let Some(name) = name.filter(|name| name.len() > 2 || !in_stream) {
                    return Some((end, name));
                }
            }
        }
    }
}

/// Whether what follows `/OpenAction` at `at` only says which page to show, and how.
fn shows_a_page(bytes: &[u8], at: usize) -> bool {
    let at = blank(bytes, at);
    if let Some((object, after)) = number(bytes, at) {
        let Some((generation, _)) = number(bytes, after) else { return false };
        let heading = format!("\n{object} {generation} obj");
        let Some(found) = find(bytes, heading.as_bytes()) else { return false };
        return is_a_view(bytes, blank(bytes, found + heading.len()));
    }
    is_a_view(bytes, at)
}

/// A destination, or the action of going to one.
fn is_a_view(bytes: &[u8], at: usize) -> bool {
    if bytes.get(at) == Some(&b'[') {
        return true;
    }
    let Some(end) = find(&bytes[at.min(bytes.len())..], b">>") else { return false };
    let mut kinds = names(&bytes[at..at + end]).skip_while(|(_, name)| name != b"S");
    bytes[at..].starts_with(b"<<") && kinds.nth(1).is_some_and(|(_, name)| name == b"GoTo")
}

/// A whole number at `at`, behind white space, and where it ends.
fn number(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let at = blank(bytes, at);
    let digits = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let text = std::str::from_utf8(&bytes[at..at + digits]).ok()?;
    Some((text.parse().ok()?, at + digits))
}

fn blank(bytes: &[u8], at: usize) -> usize {
    at + bytes.iter().skip(at).take_while(|byte| matches!(byte, b'\0' | b'\t' | b'\n' | 0x0c | b'\r' | b' ')).count()
}

/// Source: ISO 32000-2, 7.2.3, "Character set".
fn is_regular(byte: u8) -> bool {
    !matches!(
        byte,
        b'\0'
            | b'\t'
            | b'\n'
            | 0x0c
            | b'\r'
            | b' '
            | b'('
            | b')'
            | b'<'
            | b'>'
            | b'['
            | b']'
            | b'{'
            | b'}'
            | b'/'
            | b'%'
    )
}

fn hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    let first = wanted[0];
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
}

fn rfind(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).rposition(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_pdf(body: &str) -> Vec<u8> {
        format!("%PDF-1.7\n1 0 obj\n<< /Type /Catalog {body} >>\nendobj\nstartxref\n9\n%%EOF\n").into_bytes()
    }

    fn told(bytes: &[u8]) -> String {
        match look(bytes) {
            Ok(end) => format!("all {end} bytes"),
            Err(flaw) => format!("{}: {}", flaw.reason, flaw.what),
        }
    }

    #[test]
    fn a_pdf_is_known_by_its_two_ends() {
        assert_eq!(told(&a_pdf("")), "all 64 bytes");
        let late = [b"GIF89a".to_vec(), a_pdf("")].concat();
        let unended = a_pdf("").replacen("%%EOF", "");
        for (bytes, expected) in [
            (b"".to_vec(), "content: it does not begin like one"),
            (b"%PDF-9.9 startxref 0 %%EOF".to_vec(), "content: it does not begin like one"),
            (late, "content: it does not begin like one"),
            (unended, "content: it does not end like one"),
            ([a_pdf(""), vec![b'x'; TAIL]].concat(), "content: it does not end like one"),
            (b"%PDF-1.7 %%EOF".to_vec(), "content: it does not say where its contents are"),
            (b"%PDF-1.7 startxref 99999 %%EOF".to_vec(), "content: it does not say where its contents are"),
            (
                b"%PDF-1.7 startxref 99999999999999999999999 %%EOF".to_vec(),
                "content: it does not say where its contents are",
            ),
        ] {
            assert_eq!(told(&bytes), expected);
        }
    }

    trait Replace {
        fn replacen(self, from: &str, to: &str) -> Vec<u8>;
    }

    impl Replace for Vec<u8> {
        fn replacen(self, from: &str, to: &str) -> Vec<u8> {
            String::from_utf8(self).unwrap().replace(from, to).into_bytes()
        }
    }

    #[test]
    fn a_pdf_that_does_something_of_its_own_is_refused() {
        let told = [
            "/AA << /O << /S /JavaScript /JS (app.alert(1)) >> >>",
            "/J#61vaScript (x)",
            "/#4a#53(x)",
            "/A << /S /Launch /F (calc.exe) >>",
            "/Names << /EmbeddedFiles 7 0 R >>",
            "/OpenAction << /S /URI /URI (http://example.com) >>",
            "/OpenAction 4 0 R",
            "/OpenAction 5 0 R >> endobj\n5 0 obj\n<< /S /URI >>",
            "/OpenAction 5 0 R >> endobj\n5 0 obj\n<< /S /Named /N /GoTo >>",
            "/OpenAction",
        ]
        .map(|body| told(&a_pdf(body)).replace("; print it to a PDF anew to have it taken", ""));
        insta::assert_snapshot!(told.join("\n"), @"
        active: has a script in it
        active: has a script in it
        active: has a script in it
        active: starts programs
        active: has other files in it
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        ");
    }

    #[test]
    fn a_pdf_that_says_which_page_to_show_is_taken() {
        for body in [
            "/OpenAction [3 0 R /Fit]",
            "/OpenAction << /S /GoTo /D [3 0 R /FitH null] >>",
            "/OpenAction 5 0 R >> endobj\n5 0 obj\n<< /Type /Action /S /GoTo /D [3 0 R /Fit] >>",
            "/OpenAction 5 0 R >> endobj\n5 0 obj [3 0 R /Fit]",
            "/Title (a /book about JavaScript)",
            "/JSON true /LaunchPad 1 /AAA",
            ">> stream\n two letters /JS by chance \nendstream <<",
        ] {
            assert!(look(&a_pdf(body)).is_ok(), "{body}");
        }
        assert!(look(&a_pdf(">> stream\n\nendstream /JS ( x )")).is_err());
        assert!(look(&a_pdf("/Comment (stream) /JS ( x )")).is_err());
    }

    #[test]
    fn no_bytes_make_it_slow() {
        for unit in ["/", "stream\n", "/#", "/OpenAction 1 0 R ", "endstream", "<<"] {
            let bytes = a_pdf(&unit.repeat((1 << 20) / unit.len()));
            let begun = std::time::Instant::now();
            drop(look(&bytes));
            assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{unit:?} took {:?}", begun.elapsed());
        }
    }
}
