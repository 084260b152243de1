//! How wide text is on a terminal, and how it is fitted.

/// Columns the text takes: 2 for wide East Asian characters and emoji, 0 for combining marks.
pub(super) fn columns(text: &str) -> usize {
    text.chars().map(char_columns).sum()
}

fn char_columns(c: char) -> usize {
    match c as u32 {
        0x300..=0x36f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text` with blanks up to `width` columns.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

/// `text` in at most `width` columns, with `…` where its middle was taken out: the start of a name and the end of a
/// path say most.
pub(super) fn cut(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(1);
    let head: String = take_columns(text.chars(), room.div_ceil(2));
    let tail: String = take_columns(text.chars().rev(), room / 2);
    format!("{head}…{}", tail.chars().rev().collect::<String>())
}

fn take_columns(chars: impl Iterator<Item = char>, width: usize) -> String {
    let mut used = 0;
    chars
        .take_while(|&c| {
            used += char_columns(c);
            used <= width
        })
        .collect()
}

/// Lines of at most `width` columns, broken at blanks; a longer word keeps a line of its own, whole.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_leaves_both_ends() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("gateway/orchestrator.py", 11), "gatew…or.py");
        assert_eq!(cut("日本語日本語", 7), "日…語");
        assert_eq!(columns(&cut("日本語日本語", 7)), 5);
        assert_eq!(cut("abc", 1), "…");
    }

    #[test]
    fn wrapping_breaks_at_blanks_only() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("a/very/long/path.py:12 x", 8), ["a/very/long/path.py:12", "x"]);
        assert_eq!(wrap("", 8), Vec::<String>::new());
    }
}
