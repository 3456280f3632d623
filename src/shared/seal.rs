//! What rests in the shared tier, sealed: whoever owns the tier can neither read nor forge it, nor pass one key's value
//! off as another's. Pure but for the nonces.
//!
//! ```text
//! 1   version                              | the header, in the clear: scripts compare the times of two values
//! L   kind                                 |
//! 16  hex digits: ms since the epoch       | by kie.ai's clock
//! 12  nonce
//! ..  ciphertext (of a link or refusal: its end, 8 bytes, then its text)
//! 16  tag
//! ```

use std::fmt;

use jiff::Timestamp;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};

use crate::key::FleetSecret;

/// In front of what is authenticated besides the text: the format's own name, so that no other use of the key could
/// ever mean the same.
const FORMAT: &[u8] = b"kielink/1";

/// A later version's values have another.
const VERSION: u8 = b'1';

const HEX_DIGITS: usize = 16;
const HEADER: usize = 2 + HEX_DIGITS;

/// The end of a link or refusal, in front of its text.
const END: usize = 8;

/// A link takes at most 8 KiB, and nothing else that is sealed takes more. What is longer is somebody else's, and not
/// worth deciphering.
const MAX_BYTES: usize = 16 * 1024;

/// Seals and opens. One for each API key.
pub struct Seals {
    key: LessSafeKey,
    random: SystemRandom,
}

/// What is sealed. Times are by kie.ai's clock, to the millisecond, rounded down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Link(Kept),
    /// kie.ai refuses the file; the text says how, in words that the caller of `seal` understands.
    Refusal(Kept),
    /// A mint failed for another reason; told for a second to those who waited for it.
    Failure {
        at: Timestamp,
        text: String,
    },
    /// The greatest bound of kie.ai's clock that any replica has.
    Beacon {
        at: Timestamp,
    },
    /// What a replica says of itself.
    Member {
        at: Timestamp,
        text: String,
    },
    /// The credits left, as kie.ai said at that time.
    Credits {
        at: Timestamp,
        text: String,
    },
}

/// What is kept of one file.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// What kie.ai's clock showed with the answer.
    pub minted_at: Timestamp,
    /// When it ends by kie.ai's clock.
    pub ends_at: Timestamp,
    pub text: String,
}

/// Why a value is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    #[error("it is cut off, too long, or not in the form that kielink writes")]
    Malformed,
    #[error("another version of kielink wrote it")]
    Version,
    #[error("it is forged, damaged, or was written under another name")]
    Tag,
}

impl Rejection {
    pub const ALL: [Rejection; 3] = [Rejection::Malformed, Rejection::Version, Rejection::Tag];

    pub fn as_str(self) -> &'static str {
        match self {
            Rejection::Malformed => "malformed",
            Rejection::Version => "version",
            Rejection::Tag => "tag",
        }
    }
}

impl Content {
    fn kind(&self) -> u8 {
        match self {
            Content::Link(_) => b'L',
            Content::Refusal(_) => b'N',
            Content::Failure { .. } => b'E',
            Content::Beacon { .. } => b'B',
            Content::Member { .. } => b'M',
            Content::Credits { .. } => b'C',
        }
    }

    fn at(&self) -> Timestamp {
        match self {
            Content::Link(kept) | Content::Refusal(kept) => kept.minted_at,
            Content::Failure { at, .. }
            | Content::Beacon { at }
            | Content::Member { at, .. }
            | Content::Credits { at, .. } => *at,
        }
    }

    fn body(&self) -> Vec<u8> {
        match self {
            Content::Link(kept) | Content::Refusal(kept) => {
                let mut body = millis(kept.ends_at).to_be_bytes().to_vec();
                body.extend_from_slice(kept.text.as_bytes());
                body
            }
            Content::Failure { text, .. } | Content::Member { text, .. } | Content::Credits { text, .. } => {
                text.clone().into_bytes()
            }
            Content::Beacon { .. } => Vec::new(),
        }
    }

    fn new(kind: u8, at: Timestamp, body: &[u8]) -> Option<Content> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let kept = || {
            let (end, rest) = body.split_first_chunk::<END>()?;
            Some(Kept { minted_at: at, ends_at: timestamp(u64::from_be_bytes(*end))?, text: text(rest)? })
        };
        match kind {
            b'L' => Some(Content::Link(kept()?)),
            b'N' => Some(Content::Refusal(kept()?)),
            b'E' => Some(Content::Failure { at, text: text(body)? }),
            b'B' if body.is_empty() => Some(Content::Beacon { at }),
            b'M' => Some(Content::Member { at, text: text(body)? }),
            b'C' => Some(Content::Credits { at, text: text(body)? }),
            _ => None,
        }
    }
}

impl Seals {
    pub fn new(secret: &FleetSecret) -> Seals {
        let key = UnboundKey::new(&AES_256_GCM, &secret.derive::<32>(b"seal")).expect("32 bytes are its length");
        Seals { key: LessSafeKey::new(key), random: SystemRandom::new() }
    }

    /// Seals what is to be kept under `name`, the whole name of a key of the tier.
    pub fn seal(&self, name: &str, content: &Content) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("a system that has started has random bytes");
        let mut sealed = Vec::from([VERSION, content.kind()]);
        sealed.extend_from_slice(time(content.at()).as_bytes());
        let aad = aad(name, &sealed);
        let mut body = content.body();
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut body)
            .expect("AES-GCM takes texts of gigabytes");
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what was found under `name`.
    ///
    /// # Errors
    /// Whatever this key has not sealed for this name is rejected, with the reason.
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Content, Rejection> {
        if sealed.len() > MAX_BYTES {
            return Err(Rejection::Malformed);
        }
        let (header, rest) = sealed.split_first_chunk::<HEADER>().ok_or(Rejection::Malformed)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Rejection::Malformed)?;
        let [version, kind, at @ ..] = header;
        if *version != VERSION {
            return Err(Rejection::Version);
        }
        let at = read_time(at).ok_or(Rejection::Malformed)?;
        let mut body = rest.to_vec();
        let aad = Aad::from(aad(name, header));
        let body =
            self.key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut body).map_err(|_| Rejection::Tag)?;
        Content::new(*kind, at, body).ok_or(Rejection::Malformed)
    }
}

/// SECURITY: what the tier could otherwise exchange: the key's name and the header, whose length is fixed, so that no
/// two pairs make the same bytes.
fn aad(name: &str, header: &[u8]) -> Vec<u8> {
    [FORMAT, name.as_bytes(), header].concat()
}

/// A time as scripts read it.
pub(super) fn time(at: Timestamp) -> String {
    format!("{:0HEX_DIGITS$x}", millis(at))
}

fn read_time(digits: &[u8]) -> Option<Timestamp> {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let text = std::str::from_utf8(digits).ok().filter(|_| digits.iter().all(is_digit))?;
    timestamp(u64::from_str_radix(text, 16).ok()?)
}

/// What was before 1970 by a wrong clock counts as 1970.
pub(super) fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or_default()
}

fn timestamp(millis: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(millis).ok()?).ok()
}

/// SECURITY: links appear in answers only.
impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { minted_at, ends_at, text: _ } = self;
        write!(f, "Kept({minted_at} to {ends_at})")
    }
}

impl fmt::Debug for Seals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seals")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::ApiKey;

    const NAME: &str = "{kl.0123456789abcdef}1l.k";

    fn seals(key: &str) -> Seals {
        Seals::new(&ApiKey::new(key).unwrap().fleet_secret())
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn kept(text: &str) -> Kept {
        Kept { minted_at: at(1_780_000_000_000), ends_at: at(1_780_001_200_000), text: text.to_owned() }
    }

    fn contents() -> impl Strategy<Value = Content> {
        let time = || (0i64..253_402_000_000_000).prop_map(at);
        let kept = (time(), time(), ".{0,300}");
        let kept = kept.prop_map(|(minted_at, ends_at, text)| Kept { minted_at, ends_at, text });
        prop_oneof![
            kept.clone().prop_map(Content::Link),
            kept.prop_map(Content::Refusal),
            (time(), ".{0,300}").prop_map(|(at, text)| Content::Failure { at, text }),
            time().prop_map(|at| Content::Beacon { at }),
            (time(), ".{0,300}").prop_map(|(at, text)| Content::Member { at, text }),
            (time(), ".{0,30}").prop_map(|(at, text)| Content::Credits { at, text }),
        ]
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_again(content in contents()) {
            let seals = seals("first-key");
            prop_assert_eq!(seals.open(NAME, &seals.seal(NAME, &content)), Ok(content));
        }

        #[test]
        fn no_bit_can_be_changed_and_no_byte_be_left_out(content in contents(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
            let seals = seals("first-key");
            let sealed = seals.seal(NAME, &content);
            let place = place.index(sealed.len());
            let mut flipped = sealed.clone();
            flipped[place] ^= 1 << bit;
            prop_assert!(seals.open(NAME, &flipped).is_err());
            prop_assert!(seals.open(NAME, &sealed[..place]).is_err());
        }

        #[test]
        fn hostile_bytes_are_rejected(bytes in prop::collection::vec(any::<u8>(), 0..200), header in prop::option::of("1[LNEBM][0-9a-f]{16}")) {
            let bytes = [header.unwrap_or_default().as_bytes(), &bytes].concat();
            prop_assert!(seals("first-key").open(NAME, &bytes).is_err());
        }

        #[test]
        fn a_time_has_48_bits(millis in 0i64..253_402_000_000_000) {
            let text = time(at(millis));
            prop_assert!(text.starts_with("0000"));
            prop_assert_eq!(read_time(text.as_bytes()), Some(at(millis)));
        }
    }

    #[test]
    fn each_rejection_has_its_reason() {
        let seals = seals("first-key");
        let sealed = seals.seal(NAME, &Content::Link(kept("https://h.example/a")));
        let with = |place: usize, byte: u8| {
            let mut sealed = sealed.clone();
            sealed[place] = byte;
            sealed
        };
        let long = [sealed.as_slice(), &[0; MAX_BYTES]].concat();
        for (name, bytes, why) in [
            (NAME, Vec::new(), Rejection::Malformed),
            (NAME, sealed[..HEADER + NONCE_LEN - 1].to_vec(), Rejection::Malformed),
            (NAME, sealed[..HEADER + NONCE_LEN + 3].to_vec(), Rejection::Tag),
            (NAME, long, Rejection::Malformed),
            (NAME, with(0, b'2'), Rejection::Version),
            (NAME, with(1, b'N'), Rejection::Tag),
            (NAME, with(1, b'?'), Rejection::Tag),
            (NAME, with(5, b'A'), Rejection::Malformed),
            (NAME, with(2, b'f'), Rejection::Malformed),
            (NAME, with(17, b'f'), Rejection::Tag),
            ("{kl.0123456789abcdef}1l.other", sealed.clone(), Rejection::Tag),
            ("{kl.0123456789abcdef}1w.k", sealed.clone(), Rejection::Tag),
        ] {
            assert_eq!(seals.open(name, &bytes), Err(why), "{name} {bytes:?}");
        }
        assert_eq!(self::seals("other-key").open(NAME, &sealed), Err(Rejection::Tag));
    }

    #[test]
    fn a_link_takes_54_bytes_more_and_shows_nothing_but_its_age() {
        let seals = seals("first-key");
        let text = "https://h.example/a?X-Amz-Signature=5";
        let content = Content::Link(kept(text));
        let sealed = seals.seal(NAME, &content);
        assert_eq!(sealed.len(), text.len() + 54);
        assert!(sealed.starts_with(b"1L0000019e70448800"), "{sealed:?}");
        assert_ne!(sealed, seals.seal(NAME, &content), "each has a nonce of its own");
        assert!(!format!("{content:?} {seals:?}").contains("h.example"));
    }

    #[test]
    fn a_link_of_the_greatest_length_can_be_kept() {
        let seals = seals("first-key");
        let content = Content::Link(kept(&"x".repeat(crate::link::MAX_BYTES)));
        assert_eq!(seals.open(NAME, &seals.seal(NAME, &content)), Ok(content));
    }

    #[test]
    fn times_that_no_clock_should_show_make_no_panic() {
        let seals = seals("first-key");
        for at in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
            let sealed = seals.seal(NAME, &Content::Beacon { at });
            let _ = seals.open(NAME, &sealed);
        }
    }
}
