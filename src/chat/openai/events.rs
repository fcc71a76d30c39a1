//! Server-sent events, as far as an answer needs them: the data of each event, in order.
//!
//! Source: HTML Standard, section 9.2, "Server-sent events". Names, ids and retry times of events are passed over. There
//! are crates for this; none of them bounds what an endless line takes.

use std::fmt;

/// The longest event, in bytes; a piece of an answer has a few hundred.
const LONGEST: usize = 256 << 10;

/// What came is no stream of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    TooLong,
    NotText,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::TooLong => write!(f, "an event of more than {} KiB", LONGEST >> 10),
            Broken::NotText => f.write_str("an event that is not UTF-8"),
        }
    }
}

/// A stream of events that is being read.
#[derive(Default)]
pub struct Events {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte was a carriage return: a line feed after it ends no other line.
    returned: bool,
    begun: bool,
}

impl Events {
    /// Reads on, and returns the data of every event that `bytes` complete.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Vec<String>, Broken> {
        let mut complete = Vec::new();
        for byte in bytes {
            let returned = std::mem::replace(&mut self.returned, *byte == b'\r');
            match byte {
                b'\n' if returned => {}
                b'\n' | b'\r' => complete.extend(self.end_line()?),
                _ if self.line.len() == LONGEST => return Err(Broken::TooLong),
                _ => self.line.push(*byte),
            }
        }
        Ok(complete)
    }

    /// The event that the stream's end left without its empty line. The standard drops it; servers that end so mean it.
    pub fn end(&mut self) -> Result<Option<String>, Broken> {
        self.end_line()?;
        Ok(self.data.take())
    }

    fn end_line(&mut self) -> Result<Option<String>, Broken> {
        let line = std::mem::take(&mut self.line);
        let mut line = std::str::from_utf8(&line).map_err(|_| Broken::NotText)?;
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            return Ok(self.data.take());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        if field == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                None => self.data = Some(value.to_owned()),
                Some(data) if data.len() + value.len() >= LONGEST => return Err(Broken::TooLong),
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &[u8]) -> Result<Vec<String>, Broken> {
        let mut events = Events::default();
        let mut data = events.read(text)?;
        data.extend(events.end()?);
        Ok(data)
    }

    #[test]
    fn it_reads_what_the_standard_shows() {
        let text = "\u{feff}: comment\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        assert_eq!(all(text.as_bytes()).unwrap(), ["first event", "second event", " third event"]);
        assert_eq!(all(b"data: YHOO\ndata: +2\ndata: 10\n\n").unwrap(), ["YHOO\n+2\n10"]);
        assert_eq!(all(b"data\n\ndata\ndata\n\nevent: x\ndata:").unwrap(), ["", "\n", ""]);
        assert_eq!(all(b"\n\n: only comments\n\nevent: nothing\n\n").unwrap(), [""; 0]);
    }

    #[test]
    fn it_does_not_matter_how_lines_end_or_where_the_network_cuts() {
        let text = "data: {\"a\":\r\ndata: \"ü\"}\r\n\r\ndata: b\rdata: c\r\r: ping\n\ndata: [DONE]\n\n".as_bytes();
        let expected = ["{\"a\":\n\"ü\"}", "b\nc", "[DONE]"];
        for size in 1..text.len() {
            let mut events = Events::default();
            let read: Vec<_> = text.chunks(size).flat_map(|part| events.read(part).unwrap()).collect();
            assert_eq!(read, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn the_last_event_counts_without_its_empty_line() {
        assert_eq!(all(b"data: a\n\ndata: [DONE]").unwrap(), ["a", "[DONE]"]);
    }

    #[test]
    fn what_never_ends_or_is_no_text_is_refused() {
        assert_eq!(all(&vec![b'x'; LONGEST + 1]), Err(Broken::TooLong));
        assert_eq!(all(&b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(LONGEST / 32 + 1)), Err(Broken::TooLong));
        assert_eq!(all(b"data: \xff\n\n"), Err(Broken::NotText));
    }
}
