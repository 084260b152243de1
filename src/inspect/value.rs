//! Short, safe representations of objects, read from memory by [`Objects`].

use std::fmt::Write;

use super::object::{Int, Objects};
use super::reader::{Read, Reader, Stable};
use super::secret;
use crate::target::python::layout::Layout;
use crate::target::python::objects::{self, ObjectLayout};

/// Reads one value may cost.
const READS: usize = 200;
/// Units of a str or bytes shown, and of one inside another value.
const UNITS: u64 = 60;
const INNER_UNITS: u64 = 20;
/// Units read beyond those shown, to see where a secret ends.
const AHEAD: u64 = 256;
/// Units looked at of a str that may be the name of a secret.
const MAX_KEY: u64 = 200;
/// Elements and attributes shown.
const ELEMENTS: u64 = 3;
/// Digits of 30 bits up to which an int is shown.
const INT_DIGITS: u64 = 64;

/// Printed for what can't be read.
pub(super) const UNREADABLE: &str = "<unreadable>";
/// Printed for what changed whenever it was read.
pub(super) const MOVING: &str = "<moving>";

/// A value as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Name of its type; `?` when it can't be told.
    pub(super) type_name: String,
    /// Short representation, or [`UNREADABLE`], [`MOVING`].
    pub(super) value: String,
}

/// Shows what `find` finds: the address of an object, or nothing for a variable that is not set. Reads again until two
/// readings agree.
pub(super) fn show(
    reader: &mut Reader,
    layout: &Layout,
    objects: &'static ObjectLayout,
    masked: bool,
    mut find: impl FnMut(&mut Objects<'_>) -> Read<Option<u64>>,
) -> Option<Shown> {
    let shown = reader.stable(READS, |reader| {
        let mut objects = Objects::new(layout, objects, reader);
        let Some(address) = find(&mut objects)? else { return Ok(None) };
        let type_name = objects.type_of(address)?.name;
        let value = if masked { secret::MASK.to_owned() } else { whole(&mut objects, address) };
        Ok(Some(Shown { type_name, value }))
    });
    let failed = |why: &str| Some(Shown { type_name: "?".to_owned(), value: why.to_owned() });
    match shown {
        Stable::Value(shown) => shown,
        Stable::Unreadable => failed(UNREADABLE),
        Stable::Moving => failed(MOVING),
    }
}

/// How much room a value has.
#[derive(Clone, Copy)]
struct Room {
    units: u64,
    /// Elements are shown.
    inside: bool,
}

fn whole(objects: &mut Objects<'_>, address: u64) -> String {
    represent(objects, address, Room { units: UNITS, inside: true })
}

fn inner(objects: &mut Objects<'_>, address: u64) -> String {
    represent(objects, address, Room { units: INNER_UNITS, inside: false })
}

fn represent(objects: &mut Objects<'_>, address: u64, room: Room) -> String {
    try_represent(objects, address, room).unwrap_or_else(|_| UNREADABLE.to_owned())
}

fn try_represent(objects: &mut Objects<'_>, address: u64, room: Room) -> Read<String> {
    let class = objects.type_of(address)?;
    let name = class.name.as_str();
    // An instance of a subclass says so.
    let named = |plain: &str, text: String| if name == plain { text } else { format!("{name}({text})") };
    if class.is(objects::FLAG_INT) {
        let int = objects.int(address, INT_DIGITS)?;
        return Ok(match name {
            "bool" => if int.bits == 0 { "False" } else { "True" }.to_owned(),
            _ => named("int", int_text(&int)),
        });
    }
    if class.is(objects::FLAG_STR) {
        let text = objects.text(address, room.units + AHEAD)?;
        let more = text.length > room.units + AHEAD;
        let clean = secret::without_secrets(&text.text, more);
        let shown: String = clean.chars().take(room.units as usize).collect();
        return Ok(named("str", cut(str_literal(&shown), text.length, more || shown.len() < clean.len())));
    }
    if class.is(objects::FLAG_BYTES) {
        let length = objects.size(address)?;
        let bytes = objects.byte_string(address, room.units + AHEAD)?;
        // Each byte as the character of this number, to look for secrets among them.
        let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
        let more = length > room.units + AHEAD;
        let clean = secret::without_secrets(&text, more);
        let shown: Vec<u8> = clean.chars().take(room.units as usize).map(|c| c as u8).collect();
        return Ok(named("bytes", cut(bytes_literal(&shown), length, more || shown.len() < clean.chars().count())));
    }
    if class.is(objects::FLAG_LIST) || class.is(objects::FLAG_TUPLE) {
        let length = objects.size(address)?;
        let read = if class.is(objects::FLAG_LIST) { Objects::list } else { Objects::tuple };
        let items = if room.inside { read(objects, address, ELEMENTS)? } else { Vec::new() };
        return Ok(container(name, length, ['(', ')'], sequence(objects, &items)));
    }
    if class.is(objects::FLAG_DICT) {
        let length = objects.size(address)?;
        let items = if room.inside { objects.dict(address, ELEMENTS)? } else { Vec::new() };
        let shown = items.into_iter().map(|(key, value)| item(objects, key, value)).collect();
        return Ok(container(name, length, ['{', '}'], shown));
    }
    if class.is(objects::FLAG_TYPE) {
        return Ok(format!("<class {}>", objects.type_at(address)?.name));
    }
    Ok(match name {
        "NoneType" => "None".to_owned(),
        "float" => float_text(objects.float(address)?),
        "set" | "frozenset" => {
            let length = objects.reader().u64(address + objects::SET_USED)?;
            let items = if room.inside { objects.set(address, ELEMENTS as usize)? } else { Vec::new() };
            let shown = items.into_iter().map(|item| inner(objects, item)).collect();
            container(name, length, ['{', '}'], shown)
        }
        "function" => format!("<function {}>", objects.function_name(address)?),
        "builtin_function_or_method" => format!("<built-in {}>", objects.builtin_name(address)?),
        "method" => {
            let function = objects.reader().pointer(address + objects::METHOD_FUNCTION)?;
            format!("<method {}>", objects.function_name(function)?)
        }
        "module" => format!("<module {}>", objects.module_name(address)?),
        _ => instance(objects, address, name, room),
    })
}

/// `<Point x=1 y=2>`
fn instance(objects: &mut Objects<'_>, address: u64, name: &str, room: Room) -> String {
    let mut text = format!("<{name}");
    if room.inside {
        // One more than is shown, to know that there is more. A type whose attributes can't be read is still named.
        let attributes = objects.attributes(address, ELEMENTS + 1).unwrap_or_default();
        for (attribute, value) in attributes.iter().take(ELEMENTS as usize) {
            let shown = if secret::is_secret(attribute) { secret::MASK.to_owned() } else { inner(objects, *value) };
            text.extend([" ", &escape(attribute), "=", &shown]);
        }
        if attributes.len() as u64 > ELEMENTS {
            text.push_str(" ..");
        }
    }
    text.push('>');
    text
}

/// Elements of a list or tuple: what follows the name of a secret is one (`('Authorization', '***')`,
/// `['--password', '***']`).
fn sequence(objects: &mut Objects<'_>, items: &[u64]) -> Vec<String> {
    let mut secret = false;
    let mut shown = Vec::with_capacity(items.len());
    for &item in items {
        shown.push(if secret { secret::MASK.to_owned() } else { inner(objects, item) });
        secret = !secret && names_secret(objects, item);
    }
    shown
}

/// The object is a str or bytes that looks like the name of a secret.
fn names_secret(objects: &mut Objects<'_>, address: u64) -> bool {
    let is_bytes = objects.type_of(address).is_ok_and(|class| class.is(objects::FLAG_BYTES));
    let name = if is_bytes {
        objects.byte_string(address, MAX_KEY).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    } else {
        objects.name(address, MAX_KEY)
    };
    name.is_ok_and(|name| secret::is_secret(&name))
}

/// `'key': value`
fn item(objects: &mut Objects<'_>, key: u64, value: u64) -> String {
    let secret = names_secret(objects, key);
    let key = inner(objects, key);
    if secret { format!("{key}: {}", secret::MASK) } else { format!("{key}: {}", inner(objects, value)) }
}

/// `list[5](1, 2, 3, ..)`; only `list[5]` when the elements are not shown.
fn container(name: &str, length: u64, [open, close]: [char; 2], shown: Vec<String>) -> String {
    if shown.is_empty() {
        return format!("{name}[{length}]");
    }
    let more = if length > shown.len() as u64 { ", .." } else { "" };
    format!("{name}[{length}]{open}{}{more}{close}", shown.join(", "))
}

fn cut(literal: String, length: u64, is_cut: bool) -> String {
    if is_cut { format!("{literal}...{length}") } else { literal }
}

/// Decimal; only its size when it has more digits than were read.
fn int_text(int: &Int) -> String {
    if int.bits > INT_DIGITS * 30 {
        return format!("<{} bits>", int.bits);
    }
    // Nine decimal digits at a time.
    let mut rest = int.digits.clone();
    let mut groups: Vec<u32> = Vec::new();
    while let Some(top) = rest.iter().rposition(|&digit| digit != 0) {
        rest.truncate(top + 1);
        let mut remainder = 0u64;
        for digit in rest.iter_mut().rev() {
            let value = remainder << 30 | u64::from(*digit);
            *digit = (value / 1_000_000_000) as u32;
            remainder = value % 1_000_000_000;
        }
        groups.push(remainder as u32);
    }
    let mut text = String::from(if int.negative { "-" } else { "" });
    let mut groups = groups.iter().rev();
    let _ = write!(text, "{}", groups.next().unwrap_or(&0));
    for group in groups {
        let _ = write!(text, "{group:09}");
    }
    text
}

/// As Python writes a float: the shortest digits that give it back, an exponent below 1e-4 and from 1e16 on.
fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let exponent: i32 = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let mantissa = scientific.split('e').next().unwrap_or_default();
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{value:?}")
}

/// A str in quotes as Python writes it.
fn str_literal(text: &str) -> String {
    quoted(text, escape(text))
}

fn bytes_literal(bytes: &[u8]) -> String {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let escaped = bytes.iter().fold(String::new(), |mut out, &byte| {
        match byte {
            0x80.. => {
                let _ = write!(out, "\\x{byte:02x}");
            }
            _ => out.push_str(&escape(char::from(byte).encode_utf8(&mut [0; 4]))),
        }
        out
    });
    format!("b{}", quoted(&text, escaped))
}

fn quoted(text: &str, escaped: String) -> String {
    match (text.contains('\''), text.contains('"')) {
        (true, false) => format!("\"{escaped}\""),
        _ => format!("'{}'", escaped.replace('\'', "\\'")),
    }
}

/// Escapes what would not show, or would show something else: control characters, and characters that turn the direction
/// of writing or have no width. A terminal never sees an escape sequence of the target.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let code = u32::from(c);
        let _ = match c {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            _ if !is_hidden(c) => write!(out, "{c}"),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            // As the renderer writes it.
            _ => write!(out, "\\u{{{code:x}}}"),
        };
    }
    out
}

/// Control (Cc), format (Cf), separators other than the blank, private use.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(u32::from(c), 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f
            | 0x2028..=0x202e | 0x2060..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb
            | 0xe0000..=0xe0fff | 0xf0000..=0x10ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5e-3, "-0.0025"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_text(value), text);
        }
        assert_eq!(float_text(f64::NAN), "nan");
    }

    #[test]
    fn ints_of_any_size_are_decimal() {
        let int = |negative, digits: &[u32]| int_text(&Int { negative, digits: digits.to_vec(), bits: 1 });
        assert_eq!(int(false, &[]), "0");
        assert_eq!(int(true, &[1]), "-1");
        assert_eq!(int(false, &[0, 1]), "1073741824");
        assert_eq!(int(false, &[0, 0, 1 << 4]), "18446744073709551616");
        assert_eq!(int(false, &[1_000_000_000]), "1000000000");
        assert_eq!(int_text(&Int { negative: false, digits: vec![1; 64], bits: 3000 }), "<3000 bits>");
    }

    #[test]
    fn literals_are_quoted_and_escaped() {
        assert_eq!(str_literal("it's"), r#""it's""#);
        assert_eq!(str_literal(r#"it's "so""#), r#"'it\'s "so"'"#);
        assert_eq!(str_literal("a\x1b[31m\n\u{202e}é"), r"'a\x1b[31m\n\u{202e}é'");
        assert_eq!(bytes_literal(b"a\xff'\0"), r#"b"a\xff'\x00""#);
    }

    #[test]
    fn containers_say_how_much_is_left_out() {
        let shown = || vec!["1".to_owned(), "2".to_owned()];
        assert_eq!(container("list", 2, ['(', ')'], shown()), "list[2](1, 2)");
        assert_eq!(container("list", 5, ['(', ')'], shown()), "list[5](1, 2, ..)");
        assert_eq!(container("dict", 5, ['{', '}'], vec![]), "dict[5]");
    }
}
