//! Whether something is the picture it says it is, and of what size. The structure is walked through to the picture's end;
//! no pixel is made.

use super::{Flaw, Reason};

/// The most pixels of a picture's side, and of all of it. What models take is no larger, and a decoder that unpacks ten
/// times as much is somebody else's trouble as well.
///
/// Source: 8,000 pixels a side is the largest that Anthropic's API takes ("Vision"); OpenAI's scales to 2,048 ("Images and
/// vision").
const LONGEST_SIDE: u32 = 8_000;
const MOST_PIXELS: u32 = 40_000_000;

/// Where a picture ends in its bytes, or what is wrong with it.
type Looked = Result<usize, Flaw>;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Source: PNG Specification (Third Edition), sections 5.2, 5.3 and 11.2.
pub fn png(bytes: &[u8]) -> Looked {
    if !bytes.starts_with(PNG) {
        return Err(Flaw::content("it does not begin like one"));
    }
    let mut at = PNG.len();
    let mut has_pixels = false;
    loop {
        let first = at == PNG.len();
        let (Some(length), Some(kind)) = (be32(bytes, at), bytes.get(at + 4..at + 8)) else { return Err(cut_short()) };
        let data = at + 8;
        // The checksum behind it is not looked at: whoever decodes the picture does that.
        let end = (length as usize).checked_add(data + 4).filter(|end| *end <= bytes.len()).ok_or_else(cut_short)?;
        match kind {
            b"IHDR" if first && length == 13 => {
                size(be32(bytes, data).unwrap_or(0), be32(bytes, data + 4).unwrap_or(0))?;
                let depths: &[u8] = match bytes[data + 9] {
                    0 => &[1, 2, 4, 8, 16],
                    3 => &[1, 2, 4, 8],
                    2 | 4 | 6 => &[8, 16],
                    _ => &[],
                };
                let (depth, method, filter, interlace) =
                    (bytes[data + 8], bytes[data + 10], bytes[data + 11], bytes[data + 12]);
                if !depths.contains(&depth) || method != 0 || filter != 0 || interlace > 1 {
                    return Err(Flaw::content("its header has values that none has"));
                }
            }
            _ if first || kind == b"IHDR" => return Err(Flaw::content("its header is not where it belongs")),
            b"IEND" if length == 0 && has_pixels => return Ok(end),
            b"IEND" => return Err(Flaw::content("there is no picture in it")),
            kind if !kind.iter().all(u8::is_ascii_alphabetic) => {
                return Err(Flaw::content("there is something in it that belongs to none"));
            }
            kind => has_pixels |= kind == b"IDAT",
        }
        at = end;
    }
}

/// Source: ITU-T T.81, annex B.
pub fn jpeg(bytes: &[u8]) -> Looked {
    if !bytes.starts_with(b"\xff\xd8\xff") {
        return Err(Flaw::content("it does not begin like one"));
    }
    let mut at = 2;
    let (mut has_size, mut has_pixels) = (false, false);
    loop {
        if bytes.get(at) != Some(&0xff) {
            return Err(if at < bytes.len() {
                Flaw::content("its parts do not follow each other")
            } else {
                cut_short()
            });
        }
        // Any number of them may come before a marker.
        let fill = bytes[at..].iter().take_while(|byte| **byte == 0xff).count();
        at += fill;
        let marker = *bytes.get(at).ok_or_else(cut_short)?;
        at += 1;
        match marker {
            0xd9 if has_size && has_pixels => return Ok(at),
            0xd9 => return Err(Flaw::content("there is no picture in it")),
            0x01 | 0xd0..=0xd7 => continue,
            0x00 | 0xd8 => return Err(Flaw::content("its parts do not follow each other")),
            _ => {}
        }
        let length = be16(bytes, at).ok_or_else(cut_short)?;
        let end = at + usize::from(length);
        if length < 2 || end > bytes.len() {
            return Err(cut_short());
        }
        match marker {
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf => {
                let (Some(height), Some(width), 1..=4) =
                    (be16(bytes, at + 3), be16(bytes, at + 5), bytes.get(at + 7).copied().unwrap_or(0))
                else {
                    return Err(Flaw::content("its header has values that none has"));
                };
                size(width.into(), height.into())?;
                has_size = true;
            }
            0xda if !has_size => return Err(Flaw::content("its header is not where it belongs")),
            0xda => has_pixels = true,
            _ => {}
        }
        at = end;
        if marker == 0xda {
            // The pixels go on until a marker that is no restart; in them 0xff is followed by a zero.
            at = loop {
                let next = bytes[at..].iter().position(|byte| *byte == 0xff).ok_or_else(cut_short)? + at;
                match bytes.get(next + 1) {
                    None => return Err(cut_short()),
                    Some(0x00 | 0xd0..=0xd7) => at = next + 2,
                    Some(0xff) => at = next + 1,
                    Some(_) => break next,
                }
            };
        }
    }
}

/// Source: GIF89a Specification, sections 17 to 27.
pub fn gif(bytes: &[u8]) -> Looked {
    if !bytes.starts_with(b"GIF87a") && !bytes.starts_with(b"GIF89a") {
        return Err(Flaw::content("it does not begin like one"));
    }
    let (Some(width), Some(height), Some(flags)) = (le16(bytes, 6), le16(bytes, 8), bytes.get(10)) else {
        return Err(cut_short());
    };
    size(width.into(), height.into())?;
    let mut at = 13 + colours(*flags);
    let mut has_pixels = false;
    loop {
        match bytes.get(at).ok_or_else(cut_short)? {
            0x3b if has_pixels => return Ok(at + 1),
            0x3b => return Err(Flaw::content("there is no picture in it")),
            0x21 => at = blocks(bytes, at + 2)?,
            0x2c => {
                let (Some(width), Some(height), Some(flags)) =
                    (le16(bytes, at + 5), le16(bytes, at + 7), bytes.get(at + 9))
                else {
                    return Err(cut_short());
                };
                size(width.into(), height.into())?;
                at = blocks(bytes, at + 10 + colours(*flags) + 1)?;
                has_pixels = true;
            }
            _ => return Err(Flaw::content("there is something in it that belongs to none")),
        }
    }
}

/// The end of the data blocks that begin at `at`: each has its length before it, and an empty one is the last.
fn blocks(bytes: &[u8], mut at: usize) -> Looked {
    loop {
        let length = usize::from(*bytes.get(at).ok_or_else(cut_short)?);
        at += 1 + length;
        if length == 0 {
            return Ok(at);
        }
    }
}

/// How many bytes a table of colours takes that these flags tell of.
fn colours(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn size(width: u32, height: u32) -> Result<(), Flaw> {
    if width == 0 || height == 0 {
        return Err(Flaw::content("it has no size"));
    }
    if width > LONGEST_SIDE || height > LONGEST_SIDE || width * height > MOST_PIXELS {
        let what = format!(
            "has {width} × {height} pixels; {LONGEST_SIDE} a side and {} million in all are the most",
            MOST_PIXELS / 1_000_000
        );
        return Err(Flaw { reason: Reason::Dimensions, what });
    }
    Ok(())
}

fn cut_short() -> Flaw {
    Flaw::content("it ends in the middle")
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
        let length = u32::try_from(data.len()).unwrap().to_be_bytes();
        [&length, &kind[..], data, &[0; 4]].concat()
    }

    /// A picture as far as anybody looks who does not decode it.
    #[must_use]
    pub fn a_png(width: u32, height: u32) -> Vec<u8> {
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        [PNG, &chunk(*b"IHDR", &header), &chunk(*b"IDAT", b"pixels"), &chunk(*b"IEND", b"")].concat()
    }

    fn a_jpeg(width: u16, height: u16) -> Vec<u8> {
        let mut bytes = b"\xff\xd8\xff\xe0\x00\x04JF\xff\xc2\x00\x0b\x08".to_vec();
        bytes.extend(height.to_be_bytes());
        bytes.extend(width.to_be_bytes());
        bytes.extend(b"\x01\x01\x11\x00\xff\xff\xda\x00\x02pix\xff\x00els\xff\xd0more\xff\xda\x00\x02x\xff\xd9");
        bytes
    }

    fn a_gif(width: u16, height: u16) -> Vec<u8> {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend(width.to_le_bytes());
        bytes.extend(height.to_le_bytes());
        bytes.extend(b"\x80\0\0rgbRGB\x21\xfe\x04note\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02ab\0\x3b");
        bytes
    }

    /// Something that has to be said of a file.
    type Look = fn(&[u8]) -> Looked;

    fn all() -> [(Look, Vec<u8>); 3] {
        [(png, a_png(2, 2)), (jpeg, a_jpeg(2, 2)), (gif, a_gif(2, 2))]
    }

    #[test]
    fn a_picture_is_known_by_its_structure_and_ends_where_it_ends() {
        for (look, bytes) in all() {
            let behind = [&bytes[..], b"PK\x03\x04 <script>alert(1)</script>"].concat();
            assert_eq!(look(&bytes), Ok(bytes.len()));
            assert_eq!(look(&behind), Ok(bytes.len()));
            for end in 0..bytes.len() {
                assert!(look(&bytes[..end]).is_err(), "cut to {end}");
            }
        }
    }

    #[test]
    fn nothing_else_is_a_picture() {
        let what = |looked: Looked| looked.unwrap_err().what;
        for (look, _) in all() {
            let others: [&[u8]; 4] = [b"", b"<html><body>", b"MZ\x90\0", b"%PDF-1.7"];
            for other in others {
                assert_eq!(what(look(other)), "it does not begin like one");
            }
        }
        assert_eq!(
            what(gif(b"GIF89a=1;alert(document.cookie)//")),
            "has 12605 × 24891 pixels; 8000 a side and 40 million in all are the most"
        );
        assert_eq!(
            what(gif(b"GIF89a\x01\0\x01\0\0\0\0<script>alert(1)</script>")),
            "there is something in it that belongs to none"
        );
        assert_eq!(what(gif(b"GIF89a\x01\0\x01\0\0\0\0\x3b")), "there is no picture in it");
        assert_eq!(what(png(&[PNG, &chunk(*b"IDAT", b"x")].concat())), "its header is not where it belongs");
        let mut odd = a_png(2, 2);
        odd[24] = 7;
        assert_eq!(what(png(&odd)), "its header has values that none has");
        assert_eq!(what(jpeg(b"\xff\xd8\xff\xd9")), "there is no picture in it");
        assert_eq!(what(jpeg(b"\xff\xd8\xff\xda\0\x02x\xff\xd9")), "its header is not where it belongs");
        assert_eq!(what(jpeg(b"\xff\xd8\xff\xe0\0\x02<script>")), "its parts do not follow each other");
    }

    #[test]
    fn a_bomb_is_known_by_its_header() {
        let told = |looked: Looked| looked.map_err(|flaw| (flaw.reason, flaw.what));
        let too_many = |width, height| {
            let what = format!("has {width} × {height} pixels; 8000 a side and 40 million in all are the most");
            Err((Reason::Dimensions, what))
        };
        assert_eq!(told(png(&a_png(50_000, 50_000))), too_many(50_000, 50_000));
        assert_eq!(told(png(&a_png(u32::MAX, 1))), too_many(u32::MAX, 1));
        assert_eq!(told(png(&a_png(8_000, 5_001))), too_many(8_000, 5_001));
        assert_eq!(told(jpeg(&a_jpeg(65_535, 65_535))), too_many(65_535, 65_535));
        assert_eq!(told(gif(&a_gif(8_001, 1))), too_many(8_001, 1));
        assert!(png(&a_png(8_000, 5_000)).is_ok() && jpeg(&a_jpeg(8_000, 5_000)).is_ok());
        assert_eq!(told(png(&a_png(0, 5))), Err((Reason::Content, "it has no size".to_owned())));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_stumble(kind in 0..3_usize, at in 0..80_usize, put in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (look, mut bytes) = all()[kind].clone();
            let at = at.min(bytes.len());
            let end = (at + put.len()).min(bytes.len());
            bytes.splice(at..end, put);
            if let Ok(end) = look(&bytes) {
                prop_assert!(end <= bytes.len());
            }
        }
    }
}
