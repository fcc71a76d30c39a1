//! What people attach to their messages: fetched from where Discord keeps it, and looked at as any upload is.

use std::time::Duration;

use tokio::time::timeout;

use super::event::{Attached, Incoming};
use super::rest::{Rest, RestError};
use super::talk::Talk;
use crate::chat::files::{Announced, File, Kind, LARGEST, MOST, Reason, Share, Unfit, clean_name};
use crate::config::chat::Attachments;

/// How long a message waits for room for its files.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest text that came as a file and is read as the message that it was, in bytes.
const LONGEST_PASTE: usize = 64 << 10;

/// What came with a message.
#[derive(Default)]
pub struct Brought {
    pub files: Vec<File>,
    /// What its sender wrote, where that was too long for a message.
    pub pasted: String,
    /// Why the rest is not taken, for its sender.
    pub unfit: Vec<Unfit>,
}

/// What one file is fetched as.
enum Wanted {
    Paste,
    File(Announced),
}

/// How long a text the message brings along may be, in bytes; 0 where it brings none.
pub fn pasted(message: &Incoming) -> usize {
    message.attachments.iter().find(|file| is_paste(file)).map_or(0, |file| bytes(file).min(LONGEST_PASTE))
}

/// Discord's client makes such a file of a message that is longer than it may be.
fn is_paste(attached: &Attached) -> bool {
    let declared = attached.content_type.as_deref().unwrap_or("").split(';').next().unwrap_or("");
    attached.filename == "message.txt" && declared.trim().eq_ignore_ascii_case("text/plain")
}

/// What came with `message`, as far as it is `readable`: what is not keeps nobody from answering the rest.
pub async fn fetch(message: &Incoming, readable: Attachments, rest: &Rest, talk: &Talk) -> Brought {
    let mut brought = Brought::default();
    // Before anything is fetched, it has to be what it should be as far as Discord says.
    let mut wanted = Vec::new();
    for attached in &message.attachments {
        match announced(attached, readable) {
            Ok(_) if wanted.len() == MOST => {
                brought.unfit.push(left_out(attached));
            }
            Ok(announced) => wanted.push((attached, announced)),
            Err(unfit) => brought.unfit.push(unfit),
        }
    }
    if !wanted.is_empty() {
        let total = wanted.iter().map(|(attached, _)| bytes(attached)).sum();
        if let Some(mut room) = timeout(ROOM_TIMEOUT, talk.room.take(total)).await.ok().flatten() {
            for (attached, wanted) in wanted {
                if let Err(unfit) = brought.take(attached, wanted, message, &mut room, rest).await {
                    brought.unfit.push(unfit);
                }
            }
        } else {
            let what = "too many files come at the moment; try again in a while";
            brought.unfit.push(Unfit::new(Reason::Room, what));
        }
    }
    for unfit in &brought.unfit {
        talk.refused.count(unfit.reason);
    }
    brought
}

impl Brought {
    async fn take(
        &mut self,
        attached: &Attached,
        wanted: Wanted,
        message: &Incoming,
        room: &mut Share,
        rest: &Rest,
    ) -> Result<(), Unfit> {
        let name = clean_name(&attached.filename);
        let content =
            rest.file(&attached.url, bytes(attached)).await.map_err(|error| lost(attached, message, &error))?;
        let share = room.part(bytes(attached)).filter(|_| content.len() <= bytes(attached));
        let share = share.ok_or_else(|| Unfit::new(Reason::Size, format!("`{name}` is larger than Discord says")))?;
        match wanted {
            Wanted::File(announced) => self.files.push(announced.with(content, share).await?),
            Wanted::Paste => {
                let text = String::from_utf8(content).ok().filter(|text| !text.contains('\0'));
                let text = text.ok_or_else(|| Unfit::new(Reason::Content, format!("`{name}` is no text in UTF-8")))?;
                self.pasted = text;
            }
        }
        Ok(())
    }
}

/// How large Discord says a file is, which is no more than a file may be.
fn bytes(attached: &Attached) -> usize {
    usize::try_from(attached.size).unwrap_or(LARGEST).min(LARGEST)
}

fn left_out(attached: &Attached) -> Unfit {
    let name = clean_name(&attached.filename);
    Unfit::new(Reason::Count, format!("`{name}` is left out: a message takes {MOST} files at most"))
}

fn announced(attached: &Attached, readable: Attachments) -> Result<Wanted, Unfit> {
    if is_paste(attached) {
        if attached.size > LONGEST_PASTE as u64 {
            let what = format!("`{}` is larger than {} KiB", attached.filename, LONGEST_PASTE >> 10);
            return Err(Unfit::new(Reason::Size, what));
        }
        return Ok(Wanted::Paste);
    }
    // Where Discord knows no type, the name's is as good.
    let by_name = || Kind::by_name(&attached.filename).map(Kind::media_type);
    let announced = Announced::new(&attached.filename, attached.content_type.as_deref().or_else(by_name))?;
    announced.readable(readable).map_err(|unfit| {
        // Of several it has to be known which.
        Unfit::new(unfit.reason, format!("`{}`: {unfit}", clean_name(&attached.filename)))
    })?;
    if attached.size > LARGEST as u64 {
        return Err(announced.too_large());
    }
    Ok(Wanted::File(announced))
}

fn lost(attached: &Attached, message: &Incoming, error: &RestError) -> Unfit {
    let (name, message_id) = (clean_name(&attached.filename), message.id.get());
    tracing::warn!(
        service = super::NAME,
        channel_id = message.channel_id.get(),
        message_id,
        "a file of message {message_id} can't be fetched: {error}"
    );
    Unfit::new(Reason::Broken, format!("`{name}` can't be fetched from Discord at the moment; try again in a while"))
}
