//! Which names promise a secret: their values are never read.

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

#[cfg(test)]
mod tests {
    use super::*;

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
