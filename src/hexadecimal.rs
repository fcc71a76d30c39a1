//! Bytes as people read and compare them.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two digits for each of the `bytes`, in lower case.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.extend(digits(*byte).map(char::from));
    }
    text
}

/// The same, written to where there is room for it: whoever has a cookie is known by a hash that is written so with every
/// request.
pub fn write<'a>(bytes: &[u8], room: &'a mut [u8]) -> &'a str {
    let (pairs, _) = room.as_chunks_mut();
    for (byte, pair) in bytes.iter().zip(pairs) {
        *pair = digits(*byte);
    }
    str::from_utf8(&room[..2 * bytes.len()]).expect("digits are ASCII")
}

fn digits(byte: u8) -> [u8; 2] {
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_two_digits_each() {
        assert_eq!(super::of(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
        assert_eq!(super::of(&[]), "");
        assert_eq!(super::write(&[0x00, 0x0f, 0xa5, 0xff], &mut [0; 9]), "000fa5ff");
    }
}
