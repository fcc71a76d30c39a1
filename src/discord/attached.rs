//! What people attach to their messages: fetched from where Discord keeps it, and looked at as any upload is.

use std::time::Duration;

use tokio::time::timeout;

use super::event::{Attached, Incoming};
use super::rest::{Rest, RestError};
use super::talk::Talk;
use crate::chat::files::{Announced, File, Kind, LARGEST, MOST, Reason, Unfit, clean_name};
use crate::config::chat::Attachments;

/// How long a message waits for room for its files.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// The files of `message`, which are of kinds that are `readable`.
///
/// # Errors
/// Why one of them is not taken, for its sender.
pub async fn fetch(message: &Incoming, readable: Attachments, rest: &Rest, talk: &Talk) -> Result<Vec<File>, Unfit> {
    let fetched = fetch_all(message, readable, rest, talk).await;
    fetched.inspect_err(|unfit| talk.refused.count(unfit.reason))
}

async fn fetch_all(message: &Incoming, readable: Attachments, rest: &Rest, talk: &Talk) -> Result<Vec<File>, Unfit> {
    let attached = &message.attachments;
    if attached.is_empty() {
        return Ok(Vec::new());
    }
    if attached.len() > MOST {
        return Err(Unfit::new(Reason::Count, format!("a message takes {MOST} files at most")));
    }
    // Before anything is fetched, all of them have to be what they should be as far as Discord says.
    let announced: Vec<Announced> = attached.iter().map(|file| announced(file, readable)).collect::<Result<_, _>>()?;
    let total = attached.iter().map(bytes).sum();
    let room = timeout(ROOM_TIMEOUT, talk.room.take(total)).await.ok().flatten();
    let mut room =
        room.ok_or_else(|| Unfit::new(Reason::Room, "too many files come at the moment; try again in a while"))?;
    let mut files = Vec::new();
    for (announced, attached) in announced.into_iter().zip(attached) {
        let content =
            rest.file(&attached.url, bytes(attached)).await.map_err(|error| lost(attached, message, &error))?;
        let share = room.part(bytes(attached)).filter(|_| content.len() <= bytes(attached));
        let share = share.ok_or_else(|| {
            let what = format!("`{}` is larger than Discord says", clean_name(&attached.filename));
            Unfit::new(Reason::Size, what)
        })?;
        files.push(announced.with(content, share).await?);
    }
    Ok(files)
}

/// How large Discord says a file is, which is no more than a file may be.
fn bytes(attached: &Attached) -> usize {
    usize::try_from(attached.size).unwrap_or(LARGEST).min(LARGEST)
}

fn announced(attached: &Attached, readable: Attachments) -> Result<Announced, Unfit> {
    // Where Discord knows no type, the name's is as good.
    let by_name = || Kind::by_name(&attached.filename).map(Kind::media_type);
    let announced = Announced::new(&attached.filename, attached.content_type.as_deref().or_else(by_name))?;
    announced.readable(readable)?;
    if attached.size > LARGEST as u64 {
        return Err(announced.too_large());
    }
    Ok(announced)
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
