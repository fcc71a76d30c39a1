//! Bytes as people read and compare them.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Two digits for each of the `bytes`, in lower case. It is quick: whoever has a cookie is known by a hash that is written so
/// with every request.
#[must_use]
pub fn of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_are_two_digits_each() {
        assert_eq!(super::of(&[0x00, 0x0f, 0xa5, 0xff]), "000fa5ff");
        assert_eq!(super::of(&[]), "");
    }
}
