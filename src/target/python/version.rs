//! Which CPython: a version number read from the process itself.

use std::fmt;

use super::offsets;
use crate::error::Error;

/// `PY_VERSION_HEX`, taken apart (Include/patchlevel.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// 3; 2 only to say that it is not supported.
    pub(super) major: u16,
    /// 11 of 3.11.2
    pub(super) minor: u16,
    /// 2 of 3.11.2; None when only the minor version is known.
    pub(super) micro: Option<u8>,
    /// Release level: 0xa alpha, 0xb beta, 0xc candidate, 0xf final.
    level: u8,
    serial: u8,
}

impl Version {
    /// From `Py_Version` or the word behind the cookie; None for what is no version of Python 3.
    pub(super) fn from_hex(hex: u64) -> Option<Self> {
        let [major, minor, micro, release] = u32::try_from(hex).ok()?.to_be_bytes();
        let (level, serial) = (release >> 4, release & 15);
        if major != 3 || !(0xa..=0xf).contains(&level) {
            return None;
        }
        Some(Self { major: major.into(), minor: minor.into(), micro: Some(micro), level, serial })
    }

    /// From the start of a version string: `3.9.2+`, `3.12.0rc1`, `3.8.18 (default, ...`.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let (major, rest) = number(text)?;
        let (minor, rest) = number(rest.strip_prefix('.')?)?;
        let (micro, rest) = number(rest.strip_prefix('.')?)?;
        let level = [("rc", 0xc), ("a", 0xa), ("b", 0xb)];
        let (level, rest) =
            level.iter().find_map(|(name, level)| Some((*level, rest.strip_prefix(name)?))).unwrap_or((0xf, rest));
        let (serial, rest) = if level == 0xf { (0, rest) } else { number(rest)? };
        let ends = rest.is_empty() || rest.starts_with([' ', '+', '\0']);
        let found = Self {
            major,
            minor,
            micro: Some(u8::try_from(micro).ok()?),
            level,
            serial: u8::try_from(serial).ok().filter(|serial| *serial < 16)?,
        };
        ((2..=3).contains(&major) && minor < 256 && ends).then_some(found)
    }

    /// From a file name: `libpython3.8.so.1.0`, `python3.11`, `libpython3.6m.so`. The patch level stays unknown.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let (_, rest) = name.split_once("python")?;
        let (major, rest) = number(rest).filter(|(major, _)| (2..=3).contains(major))?;
        let (minor, _) = number(rest.strip_prefix('.')?)?;
        Some(Self { major, minor, micro: None, level: 0, serial: 0 })
    }

    /// `PY_VERSION_HEX`; the low 16 bits are 0 when only the minor version is known.
    pub(super) fn hex(self) -> u32 {
        let release = self.level << 4 | self.serial;
        u32::from_be_bytes([self.major as u8, self.minor as u8, self.micro.unwrap_or(0), release])
    }

    /// The error for a version that is not in the table.
    pub(super) fn unsupported(self) -> Error {
        let error = Error::unsupported(format!("CPython {self} is not supported"))
            .because(format!("pylow reads CPython {}", offsets::SUPPORTED));
        let is_newer = self.major == 3 && self.minor >= 6;
        error.hint(if is_newer { "a newer pylow may know this version" } else { "run the service on a newer Python" })
    }
}

fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(micro) = self.micro {
            write!(f, ".{micro}")?;
        }
        match self.level {
            0xa => write!(f, "a{}", self.serial),
            0xb => write!(f, "b{}", self.serial),
            0xc => write!(f, "rc{}", self.serial),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_and_text_agree() {
        for (hex, text) in
            [(0x030b02f0, "3.11.2"), (0x030c00c1, "3.12.0rc1"), (0x030f00a7, "3.15.0a7"), (0x030912f0, "3.9.18")]
        {
            let version = Version::from_hex(hex).unwrap();
            assert_eq!(version.to_string(), text);
            assert_eq!(Version::from_text(text), Some(version));
            assert_eq!(u64::from(version.hex()), hex);
        }
    }

    #[test]
    fn strings_that_are_versions_and_others() {
        assert_eq!(Version::from_text("3.9.2+").unwrap().to_string(), "3.9.2");
        assert_eq!(Version::from_text("3.8.18 (default, May  9 2026)").unwrap().to_string(), "3.8.18");
        assert_eq!(Version::from_text("2.7.18 (default").unwrap().to_string(), "2.7.18");
        for text in ["4.0.1", "3.9", "3.9.x", "3.9.2-foo", "3.9.300", "", "%.80s (%.80s) %.80s", "3.1.4.1"] {
            assert_eq!(Version::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn file_names() {
        for (name, text) in [("libpython3.6m.so.1.0", "3.6"), ("python3.11", "3.11"), ("libpython3.8.so.1.0", "3.8")] {
            assert_eq!(Version::from_file_name(name).unwrap().to_string(), text);
        }
        assert_eq!(Version::from_file_name("uwsgi"), None);
        assert_eq!(Version::from_file_name("libpython3.so"), None);
    }

    #[test]
    fn not_a_version() {
        for hex in [0, 0x020712f0, 0x030b0200, u64::MAX, 0x1_030b_02f0] {
            assert_eq!(Version::from_hex(hex), None);
        }
    }
}
