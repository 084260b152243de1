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
const SCHEMES: &[&str] = &["bearer", "basic", "token", "digest"];
/// A credential is longer than a word of prose, usually.
const LEAST_CREDENTIAL: usize = 8;

/// The text without passwords of URLs (`postgres://user:***@host/db`), credentials of headers (`Bearer ***`) and values
/// of names that promise a secret (`password=***`).
///
/// `cut`: the text goes on, so that a password may end outside of it.
pub(super) fn without_secrets(text: &str, cut: bool) -> String {
    let clean = without_url_passwords(text, cut);
    let clean = without_named_values(&clean);
    without_credentials(&clean)
}

/// End of the word that `text` begins with.
fn word_end(text: &str, more: &[char]) -> usize {
    text.find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"') || more.contains(&c)).unwrap_or(text.len())
}

fn without_credentials(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut before = "";
    for word in text.split_inclusive(' ') {
        let length = word_end(word, &[]);
        let is_scheme = |scheme: &&str| before.trim_start_matches(['\'', '"']).eq_ignore_ascii_case(scheme);
        if SCHEMES.iter().any(is_scheme) && length >= LEAST_CREDENTIAL {
            clean.push_str(MASK);
            clean.push_str(&word[length..]);
        } else {
            clean.push_str(word);
        }
        before = word.trim_end_matches(' ');
    }
    clean
}

/// `name=value` and `name: value`, quoted or not. The value of a header, which is not quoted, is the rest of its line.
fn without_named_values(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (head, tail) = rest.split_at(at);
        let is_header = tail.starts_with(':');
        let unquoted = head.trim_end_matches(['\'', '"']);
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let name = &unquoted[unquoted.trim_end_matches(in_name).len()..];
        let value = tail[1..].trim_start_matches([' ', '\'', '"']);
        clean.push_str(&rest[..rest.len() - value.len()]);
        rest = value;
        let is_quoted = unquoted.len() < head.len();
        let is_url = value.starts_with("//");
        if value.is_empty() || is_url || !is_secret(name) {
            continue;
        }
        let end = match (is_header, is_quoted) {
            (true, false) => value.find(['\n', '\r']).unwrap_or(value.len()),
            (true, true) => value.find(['\'', '"', '\n']).unwrap_or(value.len()),
            (false, _) => word_end(value, &['&', ';', ',', ')']),
        };
        clean.push_str(MASK);
        rest = &value[end..];
    }
    clean.push_str(rest);
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
            ("Bearer eyJhbGciOi.x.y", "Bearer ***"),
            ("'bearer eyJhbGciOi.x.y'", "'bearer ***'"),
            ("Authorization: Bearer eyJhbGciOi.x.y\r\nHost: a", "Authorization: ***\r\nHost: a"),
            ("host=db password=hunter2 user=me", "host=db password=*** user=me"),
            ("/login?user=me&access_token=abc&x=1", "/login?user=me&access_token=***&x=1"),
            (r#"{"api_key": "abc def", "n": 1}"#, r#"{"api_key": "***", "n": 1}"#),
            ("postgres://u:SECRET@h/db?password=x", "postgres://u:***@h/db?password=***"),
            ("author=me key: value a == b :", "author=me key: value a == b :"),
            ("Basic rules", "Basic rules"),
            ("no url: a:b@c", "no url: a:b@c"),
            ("http://localhost:8000", "http://localhost:8000"),
        ] {
            assert_eq!(without_secrets(text, false), clean);
        }
    }

    #[test]
    fn texts_without_secrets_stay_as_they_are() {
        for text in ["", "=", ":", "::", "a=b=c", "größe: 1 = ü", "http://[::1]:80/a:b", "'x'='y'", "日本=語:"] {
            assert_eq!(without_secrets(text, false), text);
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
