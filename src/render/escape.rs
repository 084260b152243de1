//! Makes characters visible that could drive a terminal or forge what is read.
//!
//! Function names, file names and values come from the target: any of them may hold an escape sequence, a line break or
//! a bidirectional override. Nothing of a report reaches a terminal without passing here.

use std::borrow::Cow;
use std::fmt::Write;

/// A character that a terminal obeys, hides or reorders: control characters (C0, DEL, C1), line and paragraph
/// separators, bidirectional controls, zero-width and tag characters (Unicode's Bidi_Control and the invisible ones of
/// Default_Ignorable_Code_Point).
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// The text with unsafe characters as `\n`, `\t`, `\r`, `\x1b` or `\u{202e}`; borrowed when there is none.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if is_unsafe(c) && (c as u32) < 0x100 => {
                let _ = write!(safe, "\\x{:02x}", c as u32);
            }
            c if is_unsafe(c) => {
                let _ = write!(safe, "\\u{{{:x}}}", c as u32);
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// JSON text with unsafe characters as `\u` escapes: the same value to a parser. Such characters stand only inside
/// strings, since the writer of the JSON sets no line breaks.
pub fn visible_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if !is_unsafe(c) {
            safe.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(safe, "\\u{unit:04x}");
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_becomes_visible() {
        for (raw, expected) in [
            ("\u{1b}[31mred\u{1b}[0m", "\\x1b[31mred\\x1b[0m"),
            ("\u{1b}]0;title\u{7}", "\\x1b]0;title\\x07"),
            ("\u{9b}2J", "\\x9b2J"),
            ("two\nlines\r\t", "two\\nlines\\r\\t"),
            ("del\u{7f}nul\0", "del\\x7fnul\\x00"),
            ("\u{202e}gpj.exe\u{2066}", "\\u{202e}gpj.exe\\u{2066}"),
            ("zero\u{200b}width\u{feff}", "zero\\u{200b}width\\u{feff}"),
            ("a\u{2028}b\u{e0041}", "a\\u{2028}b\\u{e0041}"),
        ] {
            assert_eq!(visible(raw), expected);
        }
    }

    #[test]
    fn ordinary_text_is_untouched() {
        for text in ["<module>", "größe", "日本語", "✓ … ⚠ →", "C:\\path\\n", "🐍"] {
            assert!(matches!(visible(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn json_keeps_its_value() {
        let value = "\u{7f}\u{9b}\u{202e}\u{e0041}\u{1b}";
        let json = serde_json::to_string(value).unwrap();
        let safe = visible_json(&json);
        assert_eq!(safe, "\"\\u007f\\u009b\\u202e\\udb40\\udc41\\u001b\"");
        assert_eq!(serde_json::from_str::<String>(&safe).unwrap(), value);
    }
}
