//! The API key: kept so that showing it takes effort.
//!
//! Knows how a key looks, how to blot it out of other people's text, and how one takes the place of another. Does not
//! know where they go (`upstream`).

pub mod file;
mod metrics;
mod rotation;

use std::{fmt, path::PathBuf};

use ring::{digest, hmac};
use secrecy::{ExposeSecret, SecretString};

pub use self::rotation::{Description, Keys, Reload};

/// kie.ai's API key. No `Debug`, `Display` or `Serialize` shows it; its own memory is zeroed on drop.
#[derive(Clone)]
pub struct ApiKey {
    secret: SecretString,
    fingerprint: String,
}

/// Makes the hash by which logs name a source URL. Derived from the key, so that replicas agree and
/// nobody without the key can test a guess.
#[derive(Clone)]
pub struct LogHash(hmac::Key);

/// Why a text is no API key. Never says what the text was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the API key is empty")]
    Empty,
    #[error("the API key is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the API key has a character that no HTTP header can carry (space, control or non-ASCII)")]
    Character,
}

/// Where the key came from; its label in logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    Environment,
    File(PathBuf),
    Sandbox,
}

impl KeySource {
    /// Its label in metrics, which names no path.
    fn kind(&self) -> &'static str {
        match self {
            KeySource::Environment => "environment",
            KeySource::File(_) => "file",
            KeySource::Sandbox => "sandbox",
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Environment => f.write_str("KIE_API_KEY"),
            KeySource::File(path) => write!(f, "{}", path.display()),
            KeySource::Sandbox => f.write_str("sandbox"),
        }
    }
}

/// kie.ai's keys have 32 characters; this leaves room for any bearer token in use.
const MAX_BYTES: usize = 4096;

impl ApiKey {
    /// Takes a key as read; one trailing newline is trimmed, since files and secrets tend to end in one.
    pub fn new(text: &str) -> Result<ApiKey, Invalid> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(Invalid::Empty);
        }
        if text.len() > MAX_BYTES {
            return Err(Invalid::TooLong);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Invalid::Character);
        }
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(b"kielink key fingerprint ");
        digest.update(text.as_bytes());
        let digest = digest.finish();
        Ok(ApiKey { secret: SecretString::from(text), fingerprint: hex(&digest.as_ref()[..6]) })
    }

    /// SECURITY: the only way to the key. Outside of this module it has one caller, which writes one header marked sensitive.
    pub(crate) fn expose(&self) -> &str {
        self.secret.expose_secret()
    }

    /// Whether both are the same key. By fingerprint: it is no secret that needs constant time.
    pub fn is(&self, other: &ApiKey) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// Twelve hex digits that tell two keys apart and nothing else.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub fn log_hash(&self) -> LogHash {
        let root = hmac::Key::new(hmac::HMAC_SHA256, self.expose().as_bytes());
        let derived = hmac::sign(&root, b"kielink source hash");
        LogHash(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// Replaces the key wherever it stands in `text`, as kie.ai may echo it.
    pub fn scrub(&self, text: &str) -> String {
        let scrubbed = text.replace(self.expose(), "[key]");
        // SECURITY: percent-encoding has many spellings; a message that has the key in one of them says nothing else.
        if self.is_in(&scrubbed) {
            return "[key]".to_owned();
        }
        scrubbed
    }

    /// Whether `text` carries the key, plainly or percent-encoded, also several times over.
    pub fn is_in(&self, text: &str) -> bool {
        let mut text = std::borrow::Cow::Borrowed(text);
        for _ in 0..4 {
            if text.contains(self.expose()) {
                return true;
            }
            let decoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
            if decoded == text {
                break;
            }
            text = decoded.into();
        }
        false
    }
}

impl LogHash {
    /// The first 12 hex digits of a keyed hash: tells two source URLs apart in logs, names neither.
    pub fn of(&self, text: &str) -> String {
        hex(&hmac::sign(&self.0, text.as_bytes()).as_ref()[..6])
    }
}

impl fmt::Debug for LogHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogHash")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKey({})", self.fingerprint)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_newline_is_trimmed_and_no_more() {
        assert_eq!(ApiKey::new("abc\n").unwrap().expose(), "abc");
        assert_eq!(ApiKey::new("abc\r\n").unwrap().expose(), "abc");
        assert_eq!(ApiKey::new("abc\n\n").unwrap_err(), Invalid::Character);
    }

    #[test]
    fn what_no_header_can_carry_is_refused() {
        for (text, why) in [
            ("", Invalid::Empty),
            ("\n", Invalid::Empty),
            ("a b", Invalid::Character),
            ("a\u{0}b", Invalid::Character),
            ("schlüssel", Invalid::Character),
        ] {
            assert_eq!(ApiKey::new(text).unwrap_err(), why, "{text:?}");
        }
        assert_eq!(ApiKey::new(&"k".repeat(MAX_BYTES + 1)).unwrap_err(), Invalid::TooLong);
        assert!(ApiKey::new(&"k".repeat(MAX_BYTES)).is_ok());
    }

    #[test]
    fn debug_shows_the_fingerprint_and_not_the_key() {
        let key = ApiKey::new("very-secret-key").unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(key.fingerprint()) && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn an_echoed_key_is_blotted_out() {
        let key = ApiKey::new("very-secret-key").unwrap();
        assert_eq!(key.scrub("Bearer very-secret-key is wrong"), "Bearer [key] is wrong");
        assert_eq!(key.scrub("k=very%2Dsecret%2dkey is wrong"), "[key]");
        assert!(key.is_in("https://h/?k=very-secret-key"));
        assert!(key.is_in("https://h/?k=very%2Dsecret%2dkey"));
        assert!(key.is_in("https://h/?k=very%252Dsecret-key"));
        assert!(!key.is_in("https://h/?k=other"));
    }

    #[test]
    fn hashes_agree_for_one_key_and_differ_between_keys() {
        let hash = |key: &str| ApiKey::new(key).unwrap().log_hash().of("https://h/a");
        assert_eq!(hash("k1"), hash("k1"));
        assert_ne!(hash("k1"), hash("k2"));
        assert_eq!(hash("k1").len(), 12);
    }
}
