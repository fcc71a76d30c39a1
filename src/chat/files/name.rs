//! The names of files, as they may be shown.

/// The longest name, in characters.
const LONGEST: usize = 100;
/// The longest extension that is worth keeping when a name is cut.
const LONGEST_EXTENSION: usize = 8;

/// A name without its path, without characters that can't be seen or change how others are read, and not too long. It is
/// text, and whoever shows it has to treat it as such.
#[must_use]
pub fn clean(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let visible: String = last.chars().filter(|c| !c.is_control() && !is_unseen(*c)).collect();
    let mut clean = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    if clean.chars().count() > LONGEST {
        let extension = clean.rsplit_once('.').map(|(_, extension)| format!("….{extension}"));
        let extension =
            extension.filter(|extension| extension.chars().count() <= LONGEST_EXTENSION).unwrap_or_default();
        clean = clean.chars().take(LONGEST - extension.chars().count()).collect::<String>() + &extension;
    }
    clean
}

/// Format characters of Unicode that are drawn as nothing, or turn the text around them. The joiners are none of them:
/// scripts and emoji need these.
///
/// Source: Unicode Technical Report 36, section 2.10; Unicode Standard Annex 9, table 1.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}'
        | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_line_and_reads_as_it_is_written() {
        for (name, expected) in [
            ("cat.png", "cat.png"),
            ("", ""),
            ("/etc/passwd", "passwd"),
            ("..\\..\\boot.ini", "boot.ini"),
            ("a/b\\c/", ""),
            ("cat\u{202E}gnp.exe", "catgnp.exe"),
            ("\u{2066}cat\u{2069}.png\0", "cat.png"),
            ("two\r\nSet-Cookie: lines.png", "twoSet-Cookie: lines.png"),
            ("  a   cat\t.png ", "a cat.png"),
            ("猫の写真.jpg", "猫の写真.jpg"),
            ("👩\u{200D}👧.gif", "👩\u{200D}👧.gif"),
            ("<img src=x onerror=alert(1)>.png", "<img src=x onerror=alert(1)>.png"),
        ] {
            assert_eq!(clean(name), expected, "{name:?}");
        }
        let long = clean(&format!("{}.png", "é".repeat(5_000)));
        assert_eq!((long.chars().count(), long.ends_with("é….png")), (LONGEST, true));
        assert_eq!(clean(&format!("a.{}", "b".repeat(5_000))).chars().count(), LONGEST);
    }
}
