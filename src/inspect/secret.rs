//! Which names promise a secret: their values are never read. And what in a text is one, whatever its name.

/// Printed in place of a secret.
pub(super) const MASK: &str = "***";

/// Parts of a name, lower case and without separators, behind which a secret is likely.
const PARTS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "authorization",
    "credential",
    "cookie",
    "sessionid",
    "bearer",
];

/// Names that are too short to look for inside others.
const WHOLE: &[&str] = &["pwd", "pw", "auth", "pin", "otp", "jwt", "dsn"];

/// The name looks like that of a secret: `password`, `API_KEY`, `db-passwd`, `accessToken`, `Set-Cookie`.
pub fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    if PARTS.iter().any(|part| plain.contains(part)) {
        return true;
    }
    name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| WHOLE.contains(&word.to_ascii_lowercase().as_str()))
}

/// Words before a credential in headers: `Bearer eyJ...`.
const SCHEMES: &[&str] = &["Bearer ", "Basic ", "Token ", "Digest "];
/// A credential is longer than a word of prose, usually.
const LEAST_CREDENTIAL: usize = 8;

/// The text without passwords of URLs (`postgres://user:***@host/db`) and credentials of headers (`Bearer ***`).
///
/// `cut`: the text goes on, so that a password may end outside of it.
pub(super) fn without_secrets(text: &str, cut: bool) -> String {
    let mut clean = without_url_passwords(text, cut);
    for scheme in SCHEMES {
        let Some(at) = clean.find(scheme).map(|at| at + scheme.len()) else { continue };
        let length =
            clean[at..].find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"')).unwrap_or(clean.len() - at);
        if length >= LEAST_CREDENTIAL {
            clean.replace_range(at..at + length, MASK);
        }
    }
    clean
}

fn without_url_passwords(text: &str, cut: bool) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end =
            after.find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '\'' | '"')).unwrap_or(after.len());
        let (authority, tail) = after.split_at(end);
        match authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
            Some((user, host)) => clean.push_str(&format!("{user}:{MASK}@{host}")),
            None => match authority.split_once(':').filter(|_| cut && tail.is_empty()) {
                Some((user, _)) => clean.push_str(&format!("{user}:{MASK}")),
                None => clean.push_str(authority),
            },
        }
        rest = tail;
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_inside_texts_are_masked() {
        for (text, clean) in [
            ("postgres://u:SECRET@h/db", "postgres://u:***@h/db"),
            ("a redis://:pw@h:6379/0 b https://x.org/p?q=1", "a redis://:***@h:6379/0 b https://x.org/p?q=1"),
            ("amqp://user:p@ss@host", "amqp://user:***@host"),
            ("https://user@host/", "https://user@host/"),
            ("Authorization: Bearer eyJhbGciOi.x.y", "Authorization: Bearer ***"),
            ("Basic rules", "Basic rules"),
            ("no url: a:b@c", "no url: a:b@c"),
            ("http://localhost:8000", "http://localhost:8000"),
        ] {
            assert_eq!(without_secrets(text, false), clean);
        }
    }

    #[test]
    fn a_password_that_is_cut_off_is_one() {
        assert_eq!(without_secrets("postgres://user:begin-of-a-long-pass", true), "postgres://user:***");
    }

    #[test]
    fn secrets_are_known_by_name() {
        for name in
            ["password", "db_passwd", "API_KEY", "apiKey", "Authorization", "Set-Cookie", "user_pwd", "accessToken"]
        {
            assert!(is_secret(name), "{name}");
        }
        for name in ["path", "author", "key", "pwned", "spin", "compass", "user", "x"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
