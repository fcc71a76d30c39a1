//! Whether something is a PDF, and one that does nothing of its own, neither when it is opened nor when something in it is
//! clicked on: links to the web and to its own pages are all that it may have.
//!
//! A reader finds an object by its number, wherever the cross-reference table says that it is. So everything in the file
//! that could be one is looked at ([`Piece`]), be it in a string, in a picture or in another object, and all that goes by
//! the same number. What is packed is unpacked, within bounds ([`packed`]). What can't be looked at is not taken.
//!
//! Sources: ISO 32000-1, 7.3.10 (indirect objects), 7.5 (file structure), 7.6 (encryption), 7.11 (file specifications), 12.6
//! (actions), 12.7.8 (XFA forms), 13 (multimedia); ISO 32000-2, 13.7 (rich media). What documents do with these, and what
//! readers make of it: Müller et al., "Portable Document Flaws 101" (2020), and "Processing Dangerous Paths" (NDSS 2021).

use super::{Flaw, Reason};
use lexis::{Lexis, Value, is_white};

mod lexis;
mod packed;

/// How far from the end the marker of the end may stand, in bytes.
///
/// Source: Adobe's PDF Reference 1.7, implementation note 18.
const TAIL: usize = 1_024;
/// A document that was changed so often has as many of them. More are not looked at.
const OPEN_ACTIONS: usize = 16;
/// How many digits a number in an object's heading has at most, and how much white space stands around it.
const LONGEST: usize = 20;

/// Nobody can look at it before it is opened.
#[derive(Debug)]
struct Hidden;

impl From<Hidden> for Flaw {
    fn from(_: Hidden) -> Flaw {
        active("keeps things where nobody can look at them")
    }
}

fn active(what: &str) -> Flaw {
    Flaw { reason: Reason::Active, what: format!("{what}; print it to a PDF anew to have it taken") }
}

fn opens() -> Flaw {
    active("does something by itself when it is opened")
}

/// Where it ends, if it is a PDF that may be passed on. It takes no more memory than the largest of what is packed in it, and
/// no more time than goes with its size.
pub fn look(bytes: &[u8]) -> Result<usize, Flaw> {
    // Readers let it stand further down; then a file can be something else as well.
    if !bytes.starts_with(b"%PDF-1.") && !bytes.starts_with(b"%PDF-2.") {
        return Err(Flaw::content("it does not begin like one"));
    }
    let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
    let Some(end) = rfind(tail, b"%%EOF") else { return Err(Flaw::content("it does not end like one")) };
    let table = rfind(&tail[..end], b"startxref").map(|at| Lexis::new(tail).integer(at + b"startxref".len()));
    let table = table.and_then(|offset| offset.ok().flatten());
    if table.is_none_or(|(offset, _)| offset >= bytes.len() as u64) {
        return Err(Flaw::content("it does not say where its contents are"));
    }
    let mut found = Found::default();
    let looked = pieces(bytes, |piece| found.look(piece));
    // What is unpacked and was not unlocked before is nothing.
    if found.locked && found.packed {
        return Err(active("is locked, so that nobody can look at it"));
    }
    looked?;
    only_views(bytes, &found.opened)?;
    Ok(bytes.len())
}

/// That all objects with these numbers only say what to show. Where there are several, a reader takes the last, or
/// whichever it finds.
fn only_views(bytes: &[u8], numbers: &[u64]) -> Result<(), Flaw> {
    if numbers.is_empty() {
        return Ok(());
    }
    let mut known = vec![false; numbers.len()];
    pieces(bytes, |piece| {
        piece.each(|lexis, own, at| {
            for (number, known) in numbers.iter().zip(&mut known) {
                if own != Some(*number) {
                    continue;
                }
                *known = true;
                if !is_view(lexis, at)? {
                    return Err(opens());
                }
            }
            Ok(())
        })
    })?;
    if known.contains(&false) { Err(opens()) } else { Ok(()) }
}

/// Whether what stands at `at` only says which page to show, and how: a destination, or the action of going to one with no
/// other behind it (ISO 32000-1, 12.3.2 and 12.6.4.2).
fn is_view(lexis: &Lexis<'_>, at: usize) -> Result<bool, Hidden> {
    match lexis.value(at)? {
        Value::Array(_) => Ok(true),
        Value::Dictionary(at) => {
            let mut goes = false;
            for (name, end) in lexis.names(at, lexis.end(at)?) {
                match name.as_bytes() {
                    b"Next" => return Ok(false),
                    b"S" => match lexis.value(end)? {
                        Value::Name(at) if lexis.name(at).0.as_bytes() == b"GoTo" => goes = true,
                        _ => return Ok(false),
                    },
                    _ => {}
                }
            }
            Ok(goes)
        }
        Value::Other(at) => Ok(lexis.bytes[at..].starts_with(b"null")),
        _ => Ok(false),
    }
}

/// What was found so far.
#[derive(Default)]
struct Found {
    /// The numbers of the objects that say what is done when it is opened.
    opened: Vec<u64>,
    locked: bool,
    packed: bool,
}

impl Found {
    fn look(&mut self, piece: &Piece<'_>) -> Result<(), Flaw> {
        let Piece { lexis, from, to, kind } = piece;
        for (name, end) in lexis.names(*from, *to) {
            let does = match name.as_bytes() {
                b"S" | b"Subtype" | b"Type" | b"FS" => match lexis.value(end)? {
                    Value::Name(at) => of_kind(lexis.name(at).0.as_bytes()),
                    _ => None,
                },
                b"OpenAction" => {
                    match lexis.value(end)? {
                        Value::Reference(number) if self.opened.len() < OPEN_ACTIONS => self.opened.push(number),
                        _ if is_view(lexis, end)? => {}
                        _ => return Err(opens()),
                    }
                    None
                }
                b"Encrypt" => {
                    self.locked |= matches!(lexis.value(end)?, Value::Dictionary(_) | Value::Reference(_));
                    None
                }
                b"F" if matches!(kind, Kind::Object { stream: Some(_), .. }) => {
                    (lexis.value(end)? == Value::Text).then_some("takes its content from elsewhere")
                }
                key => match under(key) {
                    None => None,
                    Some(does) => match lexis.value(end)? {
                        Value::Dictionary(_) | Value::Reference(_) | Value::Text => Some(does),
                        // Elsewhere it is a place in the document that somebody gave this name.
                        Value::Array(_) if key == b"XFA" => Some(does),
                        _ => None,
                    },
                },
            };
            if let Some(does) = does {
                return Err(active(does));
            }
        }
        if let Kind::Object { stream: Some(_), .. } = kind {
            self.packed |= packed::has_objects(lexis, *from, *to)?;
        }
        // A kind may stand apart, as an object of its own.
        piece.each(|lexis, _, at| match lexis.value(at)? {
            Value::Name(at) => of_kind(lexis.name(at).0.as_bytes()).map_or(Ok(()), |does| Err(active(does))),
            _ => Ok(()),
        })
    }
}

/// What something of this kind does.
fn of_kind(kind: &[u8]) -> Option<&'static str> {
    Some(match kind {
        b"JavaScript" => "has a script in it",
        b"Launch" => "starts programs",
        b"GoToR" | b"GoToE" => "opens other files",
        b"SubmitForm" | b"ImportData" | b"URL" => "sends or fetches data by itself",
        b"EmbeddedFile" => "has other files in it",
        b"Rendition" | b"Movie" | b"Sound" | b"3D" | b"GoTo3DView" | b"RichMedia" | b"RichMediaExecute" => {
            "has moving media in it"
        }
        _ => return None,
    })
}

/// What stands under this key does.
fn under(key: &[u8]) -> Option<&'static str> {
    Some(match key {
        b"JS" | b"JavaScript" | b"OnInstantiate" => "has a script in it",
        b"AA" => "does something by itself when it is read",
        b"XFA" => "is a form with a program of its own",
        b"EF" | b"EmbeddedFiles" => "has other files in it",
        b"RichMediaContent" => "has moving media in it",
        _ => return None,
    })
}

/// What may be an object, or have objects in it.
struct Piece<'a> {
    lexis: &'a Lexis<'a>,
    from: usize,
    to: usize,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// One object, or the document's trailer, which has no number.
    Object { number: Option<u64>, stream: Option<usize> },
    /// What was in a stream of objects, the first of which is there.
    Unpacked { first: usize },
}

impl Piece<'_> {
    /// Calls `look` with the number and the place of each object.
    fn each(&self, mut look: impl FnMut(&Lexis<'_>, Option<u64>, usize) -> Result<(), Flaw>) -> Result<(), Flaw> {
        let first = match self.kind {
            Kind::Object { number, .. } => return look(self.lexis, number, self.from),
            Kind::Unpacked { first } => first,
        };
        // Pairs of a number and a place, and then the objects.
        let mut at = 0;
        while let Some((number, end)) = self.lexis.integer(at)? {
            let Some((place, end)) = self.lexis.integer(end)? else { break };
            let place = usize::try_from(place).ok().and_then(|place| place.checked_add(first)).ok_or(Hidden)?;
            look(self.lexis, Some(number), place.min(self.to))?;
            at = end;
        }
        Ok(())
    }
}

/// Shows `look` everything that a reader may take for an object. What can't be unpacked is told at the end.
fn pieces(bytes: &[u8], mut look: impl FnMut(&Piece<'_>) -> Result<(), Flaw>) -> Result<(), Flaw> {
    let document = Lexis::new(bytes);
    let mut room = packed::Room::of(bytes.len());
    let mut sealed = Ok(());
    for heading in headings(bytes) {
        let (from, stream, to) = match document.value(heading.end)? {
            Value::Dictionary(from) => {
                if heading.is_odd {
                    return Err(Hidden.into());
                }
                let to = document.end(from)?;
                (from, packed::stream(&document, to)?, to)
            }
            Value::Array(from) | Value::Name(from) => (from, None, document.end(from)?),
            _ => continue,
        };
        let kind = Kind::Object { number: heading.number, stream };
        look(&Piece { lexis: &document, from, to, kind })?;
        let Some(stream) = stream else { continue };
        if !packed::has_objects(&document, from, to)? {
            continue;
        }
        match packed::unpack(&document, (from, to), stream, &mut room) {
            Ok((content, first)) => {
                let lexis = Lexis::new(&content);
                look(&Piece { lexis: &lexis, from: 0, to: content.len(), kind: Kind::Unpacked { first } })?;
            }
            Err(flaw) => sealed = sealed.and(Err(flaw)),
        }
    }
    sealed
}

/// What stands before an object, or the trailer.
struct Heading {
    number: Option<u64>,
    end: usize,
    /// It is an object's, and its number can't be read.
    is_odd: bool,
}

fn headings(bytes: &[u8]) -> impl Iterator<Item = Heading> + '_ {
    let words = (1..bytes.len()).filter_map(|at| match bytes[at] {
        b'o' if bytes[at..].starts_with(b"obj") => Some((at, at + b"obj".len())),
        b't' if bytes[at..].starts_with(b"trailer") => Some((at, at + b"trailer".len())),
        _ => None,
    });
    let alone = words.filter(|(at, _)| is_white(bytes[at - 1]) || bytes[at - 1].is_ascii_digit());
    alone.map(|(at, end)| {
        let is_object = bytes[at] == b'o';
        let number = is_object.then(|| number_before(&bytes[..at])).flatten();
        Heading { number, end, is_odd: is_object && number.is_none() }
    })
}

/// The number of the object whose heading ends here, before its last word: a number, a generation, and white space.
fn number_before(bytes: &[u8]) -> Option<u64> {
    let back =
        |to: usize, is: fn(u8) -> bool| to - bytes[..to].iter().rev().take(LONGEST).take_while(|b| is(**b)).count();
    let digit = |byte: u8| byte.is_ascii_digit();
    let generation_end = back(bytes.len(), is_white);
    let generation = back(generation_end, digit);
    let number_end = back(generation, is_white);
    let number = back(number_end, digit);
    if generation == generation_end || number_end == generation {
        return None;
    }
    std::str::from_utf8(&bytes[number..number_end]).ok()?.parse().ok()
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
        active: does something by itself when it is read
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
            "/OpenAction null",
            "/Title (a /book about JavaScript)",
            "/JSON true /LaunchPad 1 /AAA",
            "/Dests << /JavaScript [3 0 R /XYZ 0 0 0] /AA [3 0 R /Fit] >> /RoleMap << /Sound /Figure >>",
            ">> stream\n two letters /JS ( by chance \nendstream <<",
        ] {
            assert_eq!(told(&a_pdf(body)), format!("all {} bytes", a_pdf(body).len()), "{body}");
        }
    }

    /// A stream of objects with these numbers, packed as programs do it.
    fn packed(objects: &[(u32, &str)], dictionary: &str) -> Vec<u8> {
        let (mut places, mut content) = (String::new(), String::new());
        for (number, object) in objects {
            places += &format!("{number} {} ", content.len());
            content += &format!("{object} ");
        }
        let first = places.len();
        let mut data = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut data, (places + &content).as_bytes()).unwrap();
        let dictionary = dictionary.replace("FIRST", &format!("/First {first}"));
        let head = format!("7 0 obj\n<< {dictionary} >>\nstream\n");
        [head.as_bytes(), &data.finish().unwrap(), b"\nendstream\nendobj\n"].concat()
    }

    /// How programs write one.
    const USUAL: &str = "/Type /ObjStm /N 2 FIRST /Filter /FlateDecode /Length 9";

    /// A document with this in its middle.
    fn around(middle: &[u8]) -> Vec<u8> {
        [b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", middle, b"startxref\n9\n%%EOF\n"].concat()
    }

    fn told_shortly(bytes: &[u8]) -> String {
        told(bytes).replace("; print it to a PDF anew to have it taken", "")
    }

    #[test]
    fn what_a_pdf_would_do_is_seen_wherever_it_hides() {
        let told = [
            // An additional action that opens a site when a page is seen (ISO 32000-1, 12.6.3).
            "/AA << /O << /S /URI /URI (http://example.com) >> >>",
            "/#41A 4 0 R",
            "/AcroForm << /XFA 4 0 R >>",
            "/AcroForm << /X#46#41 [(template) 4 0 R] >>",
            "/FS << /Type /Filespec /F (a.exe) /EF << /F 4 0 R >> >>",
            "/A << /S /GoToR /F (\\\\\\\\example.com\\\\a) /D [0 /Fit] >>",
            "/A << /S /GoToE /D [0 /Fit] >>",
            "/A << /S /Rendition /OP 0 >>",
            "/A << /S %/GoTo\n /Launch /Win << /F (calc.exe) >> >>",
            "/A << /S 4 0 R >> endobj\n4 0 obj /JavaScript",
            "/OpenAction << /S /GoTo /D [3 0 R /Fit] /Next << /S /URI /URI (http://example.com) >> >>",
            "/OpenAction 5 0 R >> endobj\n5 0 obj [3 0 R /Fit] endobj\n5 0 obj << /S /URI /URI (a) >>",
            "/OpenAction 5 0 R >> endobj\n5 0 obj << /S /URI /URI (a) >> endobj 5 0 obj [3 0 R /Fit]",
            "/OpenAction 5 0 R >> endobj\n5 0 obj << /S /GoTo /D [3 0 R /Fit] /Next 6 0 R >>",
            "/OpenAction 5 0 R >> endobj\n5 %\n0 obj << /S /URI /URI (a) >> endobj 5 0 obj [3 0 R /Fit]",
            "/OpenAction 5 0 R >> stream\n picture 5 0 obj << /S /URI >> \nendstream endobj 5 0 obj [3 0 R /Fit]",
            ">> stream\n picture 5 0 obj << /AA << /O 6 0 R >> >> \nendstream endobj <<",
            "/Title (stream\n) /AA << /O 6 0 R >>",
            "/Title (0 obj << >> stream\n) /AA << /O 6 0 R >>",
            "/Title (4 0 obj << /AA << /O 6 0 R >> >>)",
            "/Title (\\) /AA << /O 6 0 R >>",
            "/Length 3 /F (http://example.com) >> stream\n\nendstream <<",
            "/Length 3 /F << /FS /URL /F (http://example.com) >> >> stream\n\nendstream <<",
            "/Subtype /3D /3DD 4 0 R >> endobj\n4 0 obj << /OnInstantiate 5 0 R >>",
        ]
        .map(|body| told_shortly(&a_pdf(body)));
        insta::assert_snapshot!(told.join("\n"), @"
        active: does something by itself when it is read
        active: does something by itself when it is read
        active: is a form with a program of its own
        active: is a form with a program of its own
        active: has other files in it
        active: opens other files
        active: opens other files
        active: has moving media in it
        active: starts programs
        active: has a script in it
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: keeps things where nobody can look at them
        active: does something by itself when it is opened
        active: does something by itself when it is read
        active: does something by itself when it is read
        active: does something by itself when it is read
        active: does something by itself when it is read
        active: does something by itself when it is read
        active: takes its content from elsewhere
        active: sends or fetches data by itself
        active: has moving media in it
        ");
        let script = "<< /S /JavaScript /JS (app.alert(1)) >>";
        let trailer = around(format!("trailer << /Root << /OpenAction {script} >> >>\n").as_bytes());
        assert_eq!(told_shortly(&trailer), "active: does something by itself when it is opened");
    }

    #[test]
    fn what_is_packed_is_unpacked_to_be_looked_at() {
        let told = |objects: &[(u32, &str)], dictionary: &str| told_shortly(&around(&packed(objects, dictionary)));
        let script = &[(4, "<< /Type /Page >>"), (5, "<< /S /JavaScript /JS (x) >>")][..];
        let told = [
            told(&[(4, "<< /Type /Page >>"), (5, "[4 0 R /Fit]")], USUAL),
            told(script, USUAL),
            // Not every reader asks for the type.
            told(script, "/N 2 FIRST /Filter [/Fl] /DecodeParms [null]"),
            told(&[(4, "<< /S 5 0 R >>"), (5, "/JavaScript")], USUAL),
            told(&[(4, "<< /A (a string with << /AA 7 0 R >>) >>")], USUAL),
            told(&[(4, "<< /OpenAction 5 0 R >>"), (5, "<< /S /GoTo /D [4 0 R /Fit] >>")], USUAL),
            told(&[(4, "<< /OpenAction 5 0 R >>"), (5, "<< /S /URI /URI (a) >>")], USUAL),
            told(&[(4, "<< /OpenAction 5 0 R >>"), (5, "[4 0 R /Fit]"), (5, "<< /S /URI >>")], USUAL),
            told(&[], "/Type /ObjStm /N 2 FIRST"),
            told(&[], "/Type /ObjStm /N 2 FIRST /Filter /LZWDecode"),
            told(&[], "/Type /ObjStm /N 2 FIRST /Filter [/FlateDecode /FlateDecode]"),
            told(&[], "/Type /ObjStm /N 2 FIRST /Filter /FlateDecode /Filter /FlateDecode"),
            told(&[], "/Type /ObjStm /N 2 FIRST /Filter 9 0 R"),
            told(&[], "/Type /ObjStm /N 2 FIRST /F /ASCIIHexDecode"),
            told(&[], "/Type /ObjStm /N 2 /First 9 0 R /Filter /FlateDecode"),
            told(&[], "/Type /ObjStm /N 2 FIRST /Filter /FlateDecode /DecodeParms << /Predictor 12 >>"),
        ];
        insta::assert_snapshot!(told.join("\n"), @"
        all 212 bytes
        active: has a script in it
        active: has a script in it
        active: has a script in it
        active: does something by itself when it is read
        all 236 bytes
        active: does something by itself when it is opened
        active: does something by itself when it is opened
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        active: keeps things where nobody can look at them
        ");
        let locked = [&packed(&[(4, "null")], USUAL)[..], b"trailer << /Encrypt 9 0 R >>\n"].concat();
        assert_eq!(told_shortly(&around(&locked)), "active: is locked, so that nobody can look at it");
        let torn = &packed(&[(4, "null")], USUAL);
        let torn = [&torn[..torn.len() - 30], b"\nendstream endobj\n"].concat();
        assert_eq!(told_shortly(&around(&torn)), "content: what is packed in it can't be unpacked");
    }

    #[test]
    fn a_pdf_that_unpacks_to_a_flood_is_refused_soon() {
        let tight = "active: is packed so tightly that nobody can look at it";
        let flood = " ".repeat(9 << 20);
        assert_eq!(told_shortly(&around(&packed(&[(4, &flood)], USUAL))), tight);
        let many = packed(&[(4, &" ".repeat(1 << 19))], USUAL).repeat(40);
        assert_eq!(told_shortly(&around(&many)), tight);
    }

    #[test]
    fn no_bytes_make_it_slow() {
        let units = [
            "/",
            "stream\n",
            "/#",
            "/OpenAction 1 0 R ",
            "endstream",
            "<<",
            "1 0 obj<<",
            "1 0 obj[",
            "1 0 obj(",
            "/S %",
            "/S     ",
            "0obj/",
            "(",
            "<",
            "1 0 obj<</N 1/First 1>>stream\n",
            "1 0 obj<<>>%",
            "1 1 ",
            "trailer<<",
        ];
        for unit in units {
            let bytes = a_pdf(&unit.repeat((1 << 20) / unit.len()));
            let begun = std::time::Instant::now();
            drop(look(&bytes));
            assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{unit:?} took {:?}", begun.elapsed());
            let unit = packed(&[(4, &unit.repeat((1 << 20) / unit.len()))], USUAL);
            drop(look(&around(&unit)));
            assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{unit:?} took {:?}", begun.elapsed());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_stumble(
            at in 0..400_usize,
            put in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let mut bytes = around(&packed(&[(4, "<< /OpenAction 5 0 R >>"), (5, "[4 0 R /Fit]")], USUAL));
            let at = at.min(bytes.len());
            let end = (at + put.len()).min(bytes.len());
            bytes.splice(at..end, put);
            if let Ok(end) = look(&bytes) {
                proptest::prop_assert_eq!(end, bytes.len());
            }
        }
    }
}
