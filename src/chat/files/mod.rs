//! Files that people send along with a message: looked at, never opened.
//!
//! A [`File`] can only be one whose name, declared type and content agree. The content is checked as far as its structure
//! goes ([`picture`], [`pdf`]); no picture is decoded, and of a PDF no more is unpacked than says what it does, one at a time
//! and within bounds. It is held in memory alone, takes its [`Share`] of a [`Room`], and is let go as soon as the model has
//! it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::history::Attachment;
use crate::config::chat::Attachments;

mod name;
mod pdf;
mod picture;
mod refused;
mod room;

pub use name::clean as clean_name;
pub use refused::{Reason, Refused, Unfit};
pub use room::{Room, Share};

/// How many files a message may bring.
pub const MOST: usize = 4;
/// How large one may be, in bytes.
pub const LARGEST: usize = 5 << 20;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Png,
    Jpeg,
    Gif,
    Pdf,
}

impl Kind {
    /// What the extension of a name promises.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Kind> {
        let (_, extension) = name.rsplit_once('.')?;
        Some(match extension.to_ascii_lowercase().as_str() {
            "png" => Kind::Png,
            "jpg" | "jpeg" => Kind::Jpeg,
            "gif" => Kind::Gif,
            "pdf" => Kind::Pdf,
            _ => return None,
        })
    }

    /// Its media type, as IANA has it.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Kind::Png => "image/png",
            Kind::Jpeg => "image/jpeg",
            Kind::Gif => "image/gif",
            Kind::Pdf => "application/pdf",
        }
    }

    /// Whether a file of this kind may be declared so: JPEG by the name of its files as well, as many programs do.
    fn is_called(self, declared: &str) -> bool {
        let known = [self.media_type(), "image/jpg"];
        let known = if self == Kind::Jpeg { &known[..] } else { &known[..1] };
        known.iter().any(|known| declared.eq_ignore_ascii_case(known))
    }

    #[must_use]
    pub fn is_image(self) -> bool {
        self != Kind::Pdf
    }

    fn word(self) -> &'static str {
        match self {
            Kind::Png => "PNG",
            Kind::Jpeg => "JPEG",
            Kind::Gif => "GIF",
            Kind::Pdf => "PDF",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.media_type())
    }
}

/// A file whose name and declared type agree, and whose content is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced {
    name: String,
    kind: Kind,
}

impl Announced {
    /// A file of this name, which is cleaned, that is declared to be of `media_type`.
    ///
    /// # Errors
    /// They do not agree, or it is nothing that perch takes.
    pub fn new(name: &str, media_type: Option<&str>) -> Result<Announced, Unfit> {
        let name = clean_name(name);
        let Some(kind) = Kind::by_name(&name) else {
            let what = format!("`{name}` is none of pdf, png, jpg, jpeg and gif by its name");
            return Err(Unfit::new(Reason::Name, what));
        };
        let declared = media_type.map(|media_type| media_type.split(';').next().unwrap_or_default().trim());
        match declared {
            Some(declared) if kind.is_called(declared) => Ok(Announced { name, kind }),
            Some(declared) => {
                let declared: String = declared.chars().filter(char::is_ascii_graphic).take(80).collect();
                let what = format!("`{name}` is {kind} by its name, and declared as `{declared}`");
                Err(Unfit::new(Reason::Type, what))
            }
            None => {
                let what = format!("`{name}` is {kind} by its name, and declared as nothing; send its Content-Type");
                Err(Unfit::new(Reason::Type, what))
            }
        }
    }

    /// Whether it is of a kind that is `readable` to whoever answers.
    ///
    /// # Errors
    /// It is not.
    pub fn readable(&self, readable: Attachments) -> Result<(), Unfit> {
        if readable.have(self.kind) {
            return Ok(());
        }
        let what = match (self.kind.is_image(), readable) {
            (_, Attachments { images: false, pdf: false }) => "this model reads no files, only text",
            (true, _) => "this model can't read images",
            (false, _) => "this model can't read PDFs",
        };
        Err(Unfit::new(Reason::Unreadable, what))
    }

    /// That it is larger than a file may be.
    #[must_use]
    pub fn too_large(&self) -> Unfit {
        Unfit::new(Reason::Size, format!("`{}` is larger than {} MiB", self.name, LARGEST >> 20))
    }

    /// The file, with `bytes` for its content, which keep their `share` of the room.
    ///
    /// # Errors
    /// The content is something else, or something that perch passes on to nobody.
    pub async fn with(self, bytes: Vec<u8>, share: Share) -> Result<File, Unfit> {
        let Announced { name, kind } = self;
        if bytes.len() > LARGEST {
            return Err(Announced { name, kind }.too_large());
        }
        let size = bytes.len();
        let (looked, mut bytes, mut share) = match kind {
            Kind::Png => (picture::png(&bytes), bytes, share),
            Kind::Jpeg => (picture::jpeg(&bytes), bytes, share),
            Kind::Gif => (picture::gif(&bytes), bytes, share),
            Kind::Pdf => {
                let turn = share.turn().await;
                // It may take some tenths of a second, and whoever waits may leave meanwhile.
                let looking = tokio::task::spawn_blocking(move || {
                    let looked = pdf::look(&bytes);
                    drop(turn);
                    (looked, bytes, share)
                });
                let gone = |_| Unfit::new(Reason::Broken, format!("`{name}` can't be looked at; try again in a while"));
                looking.await.map_err(gone)?
            }
        };
        let end = looked.map_err(|flaw| flaw.of(&name, kind))?;
        // Whatever hides behind a picture's end is no part of the picture.
        bytes.truncate(end);
        bytes.shrink_to_fit();
        share.keep(bytes.len());
        let content = Mutex::new(Some(Arc::new(Content { bytes, _share: share })));
        Ok(File { name, kind, size, content })
    }
}

/// A file that may be passed on.
#[derive(Debug)]
pub struct File {
    /// Fit to be shown: one line, no path, nothing that changes how it reads.
    pub name: String,
    pub kind: Kind,
    /// As it came, in bytes.
    pub size: usize,
    content: Mutex<Option<Arc<Content>>>,
}

/// What is in a file.
pub struct Content {
    bytes: Vec<u8>,
    _share: Share,
}

impl Content {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

impl File {
    /// What is in it, unless it was let go.
    #[must_use]
    pub fn content(&self) -> Option<Arc<Content>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets its content go: whoever should have it has it.
    pub fn release(&self) {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Attachment::from(self).fmt(f)
    }
}

/// A message and, each on a line of its own, what came with it: what stays known of the files when they are gone.
#[must_use]
pub fn with_names(message: &str, files: &[impl fmt::Display]) -> String {
    let mut text = message.to_owned();
    for file in files {
        text.push_str(if text.is_empty() { "[" } else { "\n[" });
        text.push_str(&file.to_string());
        text.push(']');
    }
    text
}

/// A size in bytes, for people.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0..1024 => write!(f, "{bytes} B"),
            bytes @ 1024..1_048_576 => write!(f, "{} KiB", bytes.div_ceil(1024)),
            bytes => write!(f, "{}.{} MiB", bytes >> 20, ((bytes % (1 << 20)) * 10) >> 20),
        }
    }
}

/// What is wrong with a file's content.
#[derive(Debug, PartialEq, Eq)]
struct Flaw {
    reason: Reason,
    what: String,
}

impl Flaw {
    /// It is not what it says it is.
    fn content(what: &str) -> Flaw {
        Flaw { reason: Reason::Content, what: what.to_owned() }
    }

    fn of(self, name: &str, kind: Kind) -> Unfit {
        let what = match self.reason {
            Reason::Content => format!("`{name}` is no {}: {}", kind.word(), self.what),
            _ => format!("`{name}` {}", self.what),
        };
        Unfit::new(self.reason, what)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub use picture::tests::a_png;

    #[test]
    fn name_and_declared_type_have_to_agree() {
        let told = |name: &str, media_type: Option<&str>| match Announced::new(name, media_type) {
            Ok(announced) => format!("{} {}", announced.name, announced.kind),
            Err(unfit) => format!("{}: {unfit}", unfit.reason),
        };
        let told = [
            told("a cat.PNG", Some("image/png")),
            told("C:\\pictures\\cat.jpeg", Some("Image/JPEG; charset=binary")),
            told("../../etc/cat.gif", Some("image/gif")),
            told("cat.exe", Some("image/png")),
            told("png", Some("image/png")),
            told("cat.png.", Some("image/png")),
            told("cat.png", Some("application/pdf")),
            told("cat.png", Some("text/html<script>\u{7}")),
            told("cat.pdf", None),
        ];
        insta::assert_snapshot!(told.join("\n"), @"
        a cat.PNG image/png
        cat.jpeg image/jpeg
        cat.gif image/gif
        name: `cat.exe` is none of pdf, png, jpg, jpeg and gif by its name
        name: `png` is none of pdf, png, jpg, jpeg and gif by its name
        name: `cat.png.` is none of pdf, png, jpg, jpeg and gif by its name
        type: `cat.png` is image/png by its name, and declared as `application/pdf`
        type: `cat.png` is image/png by its name, and declared as `text/html<script>`
        type: `cat.pdf` is application/pdf by its name, and declared as nothing; send its Content-Type
        ");
    }

    #[test]
    fn a_size_is_said_for_people() {
        let said: Vec<_> = [0, 1_023, 1_024, 1_025, 1 << 20, (5 << 20) - 1].map(|bytes| Size(bytes).to_string()).into();
        assert_eq!(said, ["0 B", "1023 B", "1 KiB", "2 KiB", "1.0 MiB", "4.9 MiB"]);
    }

    #[tokio::test]
    async fn what_hides_behind_a_pictures_end_is_cut_off_and_a_file_gives_its_room_back() {
        let room = Room::new(1 << 20);
        let mut bytes = a_png(2, 2);
        let end = bytes.len();
        bytes.extend_from_slice(b"PK\x03\x04 a whole archive");
        let share = room.take(64 << 10).await.unwrap();
        let file = Announced::new("cat.png", Some("image/png")).unwrap().with(bytes.clone(), share).await.unwrap();
        assert_eq!((file.size, file.content().unwrap().bytes()), (bytes.len(), &bytes[..end]));
        assert_eq!(room.taken(), 1 << 10);
        let held = file.content();
        file.release();
        assert!(file.content().is_none() && room.taken() > 0, "somebody still has it");
        drop(held);
        assert_eq!(room.taken(), 0);
    }
}
