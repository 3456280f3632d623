//! The API key: kept so that showing it takes effort.
//!
//! Knows how a key looks, how to find it in other people's text, and how one takes the place of another. Does not
//! know where they go (`upstream`).

pub mod file;
mod looks;
mod metrics;
pub(crate) mod misplaced;
mod rotation;
mod spelling;

use std::{fmt, path::PathBuf, slice};

use ring::{digest, hkdf, hmac};
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

/// What replicas that hold the same key, and nobody else, can derive from it: keys and names of the shared tier. The API
/// key cannot be found from it.
#[derive(Clone)]
pub struct FleetSecret(hkdf::Prk);

/// Why a text is no API key. Never says what the text was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("the API key is empty")]
    Empty,
    #[error("the API key is longer than {MAX_BYTES} bytes")]
    TooLong,
    #[error("the API key has a character that no HTTP header can carry (space, control or non-ASCII)")]
    Character,
    #[error("the API key has fewer than {LEAST_CHARS} letters and digits: is it the whole key?")]
    TooShort,
    /// What stands before the key, as people copy it along.
    #[error("the API key begins with {0}: leave that out, the key alone is wanted")]
    Decorated(&'static str),
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

/// Stands where a key was.
const SCRUBBED: &str = "[key]";

/// Changes with what replicas of two versions of kielink can no longer share.
const FLEET_SALT: &[u8] = b"kielink/shared/1";

/// Letters and digits of the shortest key: anything shorter stands in other texts by chance.
const LEAST_CHARS: usize = 8;

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
        if let Some(decoration) = decoration(text) {
            return Err(Invalid::Decorated(decoration));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Invalid::Character);
        }
        if text.bytes().filter(u8::is_ascii_alphanumeric).count() < LEAST_CHARS {
            return Err(Invalid::TooShort);
        }
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(b"kielink key fingerprint ");
        digest.update(text.as_bytes());
        let digest = digest.finish();
        Ok(ApiKey { secret: SecretString::from(text), fingerprint: hex(&digest.as_ref()[..6]) })
    }

    /// SECURITY: the only way to the key. Outside of this module it has one caller, which writes one header marked
    /// sensitive.
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

    pub fn fleet_secret(&self) -> FleetSecret {
        FleetSecret(hkdf::Salt::new(hkdf::HKDF_SHA256, FLEET_SALT).extract(self.expose().as_bytes()))
    }

    /// Whether `text` carries the key or a telling part of it, in whatever spelling a program may have given it.
    pub fn is_in(&self, text: &str) -> bool {
        any_is_in(slice::from_ref(self), text)
    }
}

/// Whether `text` carries any of several keys, which are looked for in one go.
pub fn any_is_in(keys: &[ApiKey], text: &str) -> bool {
    let keys: Vec<&str> = keys.iter().map(ApiKey::expose).collect();
    spelling::holds_any(text, &keys)
}

/// `text` without the keys. A key that stands there to the letter becomes `[key]`. A key in any other spelling cannot
/// be cut out: then the whole text becomes `[key]`.
pub fn scrub(keys: &[ApiKey], text: &str) -> String {
    let scrubbed = keys.iter().fold(text.to_owned(), |text, key| text.replace(key.expose(), SCRUBBED));
    if any_is_in(keys, &scrubbed) { SCRUBBED.to_owned() } else { scrubbed }
}

/// What people copy along with a key, in front of it.
fn decoration(text: &str) -> Option<&'static str> {
    let begins = |start: &str| text.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start));
    match text.as_bytes()[0] {
        b'"' | b'\'' | b'`' => Some("a quote"),
        _ if begins("KIE_API_KEY") && text["KIE_API_KEY".len()..].trim_start().starts_with(['=', ':']) => {
            Some("`KIE_API_KEY=`")
        }
        _ if begins("export ") => Some("`export KIE_API_KEY=`"),
        _ if begins("Authorization:") => Some("`Authorization: Bearer `"),
        _ if begins("Bearer ") || begins("Bearer\t") => Some("`Bearer `"),
        _ => None,
    }
}

impl LogHash {
    /// The first 12 hex digits of a keyed hash: tells two source URLs apart in logs, names neither.
    pub fn of(&self, text: &str) -> String {
        hex(&hmac::sign(&self.0, text.as_bytes()).as_ref()[..6])
    }
}

impl FleetSecret {
    /// Key material of `N` bytes, at most 8,160, for what `label` names; two labels' are independent of each other.
    pub(crate) fn derive<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        struct Length(usize);
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut derived = [0; N];
        let filled = self.0.expand(&[label], Length(N)).and_then(|expanded| expanded.fill(&mut derived));
        filled.expect("N bytes were asked for, and HKDF gives up to 8,160");
        derived
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret")
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
        assert_eq!(ApiKey::new("abcdefgh\n").unwrap().expose(), "abcdefgh");
        assert_eq!(ApiKey::new("abcdefgh\r\n").unwrap().expose(), "abcdefgh");
        assert_eq!(ApiKey::new("abcdefgh\n\n").unwrap_err(), Invalid::Character);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        for (text, why) in [
            ("", Invalid::Empty),
            ("\n", Invalid::Empty),
            ("abcd efgh", Invalid::Character),
            (" abcdefgh", Invalid::Character),
            ("abcd\u{0}efgh", Invalid::Character),
            ("schlüssel", Invalid::Character),
            ("\u{feff}abcdefgh", Invalid::Character),
            ("e", Invalid::TooShort),
            ("host", Invalid::TooShort),
            ("abcdefg", Invalid::TooShort),
            ("----abcdefg-----", Invalid::TooShort),
            ("$KIE_KEY", Invalid::TooShort),
            ("KIE_API_KEY=abcdefgh", Invalid::Decorated("`KIE_API_KEY=`")),
            ("kie_api_key = abcdefgh", Invalid::Decorated("`KIE_API_KEY=`")),
            ("KIE_API_KEY: abcdefgh", Invalid::Decorated("`KIE_API_KEY=`")),
            ("export KIE_API_KEY=abcdefgh", Invalid::Decorated("`export KIE_API_KEY=`")),
            ("\"abcdefgh\"", Invalid::Decorated("a quote")),
            ("'abcdefgh'", Invalid::Decorated("a quote")),
            ("`abcdefgh`", Invalid::Decorated("a quote")),
            ("Bearer abcdefgh", Invalid::Decorated("`Bearer `")),
            ("bEARER abcdefgh", Invalid::Decorated("`Bearer `")),
            ("Authorization: Bearer abcdefgh", Invalid::Decorated("`Authorization: Bearer `")),
        ] {
            assert_eq!(ApiKey::new(text).unwrap_err(), why, "{text:?}");
        }
        assert_eq!(ApiKey::new(&"k".repeat(MAX_BYTES + 1)).unwrap_err(), Invalid::TooLong);
        for text in ["abcdefgh", "--abcd--efgh--", "KIE_API_KEY_abc", "bearer-token-1", &"k".repeat(MAX_BYTES)] {
            assert!(ApiKey::new(text).is_ok(), "{text:?}");
        }
    }

    #[test]
    fn why_a_text_is_no_key_does_not_say_what_it_was() {
        for text in
            ["KIE_API_KEY=s3cret-s3cret", "\"s3cret-s3cret\"", "Bearer s3cret-s3cret", "s3cret", "s3cret s3cret"]
        {
            let why = ApiKey::new(text).unwrap_err().to_string();
            assert!(!why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn debug_shows_the_fingerprint_and_not_the_key() {
        let key = ApiKey::new("very-secret-key").unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(key.fingerprint()) && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_key_is_cut_out_to_the_letter_and_blots_out_all_in_another_spelling() {
        let keys = ["very-secret-key", "other-secret-key-of-digits-0123"].map(|key| ApiKey::new(key).unwrap());
        for (text, shown) in [
            ("Bearer very-secret-key is wrong", "Bearer [key] is wrong"),
            ("very-secret-key, other-secret-key-of-digits-0123", "[key], [key]"),
            ("very%2Dsecret-key is wrong", "[key]"),
            ("very-secret-key is VERY-SECRET-KEY", "[key]"),
            ("other-secret-key-of is no key", "[key]"),
            ("very-secret is no key", "very-secret is no key"),
        ] {
            assert_eq!(scrub(&keys, text), shown);
        }
    }

    #[test]
    fn hashes_agree_for_one_key_and_differ_between_keys() {
        let hash = |key: &str| ApiKey::new(key).unwrap().log_hash().of("https://h/a");
        assert_eq!(hash("first-key"), hash("first-key"));
        assert_ne!(hash("first-key"), hash("other-key"));
        assert_eq!(hash("first-key").len(), 12);
    }

    #[test]
    fn what_a_fleet_shares_is_one_for_each_key_and_label_and_shows_nothing() {
        let derive = |key: &str, label: &[u8]| ApiKey::new(key).unwrap().fleet_secret().derive::<32>(label);
        // Another implementation's HKDF: replicas of all versions must agree. (Python's `hmac`, RFC 5869.)
        assert_eq!(hex(&derive("first-key", b"fleet")), FIRST_KEY_S_FLEET);
        assert_ne!(derive("first-key", b"fleet"), derive("first-key", b"seal"));
        assert_ne!(derive("first-key", b"fleet"), derive("other-key", b"fleet"));
        assert_eq!(format!("{:?}", ApiKey::new("first-key").unwrap().fleet_secret()), "FleetSecret");
    }

    const FIRST_KEY_S_FLEET: &str = "6e881d70c9fc57873dd54cc3fda18234249e0bc54e58ed15babe1af01ba588ca";
}
