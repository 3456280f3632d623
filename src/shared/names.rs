//! The names of what rests in the shared tier. They tell neither the API key nor the file. Pure.
//!
//! All names of a fleet share one hash tag, and so one slot of a cluster: a script may use any of them at once, and one
//! node is all that a replica needs. Names of links carry the version of their format, so that another version does not
//! find them. Quota and members carry none: replicas of two versions keep one quota.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};

use crate::key::FleetSecret;

/// Enough of a hash that two files never share a name.
const FILE_BYTES: usize = 16;

/// The slots of a cluster (its specification, "Key distribution model").
const SLOTS: u16 = 16_384;

/// Names keys. One for each API key: another key's names are others.
#[derive(Clone)]
pub struct Names {
    /// The hash tag, without its braces.
    tag: String,
    name_key: hmac::Key,
    fleet: FleetNames,
}

/// The keys that concern the fleet as a whole.
#[derive(Debug, Clone)]
pub struct FleetNames {
    /// Q: the token bucket.
    pub bucket: String,
    /// P: there while kie.ai wants to be left alone.
    pub pause: String,
    /// B: the greatest bound of kie.ai's clock.
    pub beacon: String,
    /// N: beats so far.
    pub beats: String,
    /// M: who has beaten, and at which beat.
    pub members: String,
    /// H: what each replica says of itself.
    pub records: String,
    /// I: files forgotten of late.
    pub deletions: String,
    /// S: files forgotten so far.
    pub sequence: String,
    /// T: written at the begin of each connection, to see that the tier takes what scripts do.
    pub trial: String,
}

/// The keys that concern one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNames {
    /// 22 characters that stand for the file.
    pub id: String,
    /// L: its link, or kie.ai's refusal.
    pub link: String,
    /// W: who mints it.
    pub lease: String,
    /// D: it was forgotten a moment ago.
    pub tombstone: String,
}

/// A replica's name for its life, drawn at its start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replica(String);

/// Who has the lease of a file: one flight of one replica, so that a mint which was forgotten is not taken for the next
/// mint of the same file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Holder(String);

impl Replica {
    pub fn random() -> Replica {
        let mut bytes = [0; 8];
        SystemRandom::new().fill(&mut bytes).expect("a system that has started has random bytes");
        Replica(hex(&bytes))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its flight of this number.
    pub fn holder(&self, flight: u64) -> Holder {
        Holder(format!("{}.{flight}", self.0))
    }
}

impl Holder {
    /// As a lease in the tier names it.
    pub(super) fn heard(text: String) -> Holder {
        Holder(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Names {
    pub fn new(secret: &FleetSecret) -> Names {
        let tag = format!("kl.{}", hex(&secret.derive::<8>(b"fleet")));
        let name = |suffix: &str| format!("{{{tag}}}{suffix}");
        let fleet = FleetNames {
            bucket: name("q"),
            pause: name("p"),
            beacon: name("b"),
            beats: name("n"),
            members: name("m"),
            records: name("h"),
            deletions: name("i"),
            sequence: name("s"),
            trial: name("t"),
        };
        let name_key = hmac::Key::new(hmac::HMAC_SHA256, &secret.derive::<32>(b"name"));
        Names { tag, name_key, fleet }
    }

    pub fn fleet(&self) -> &FleetNames {
        &self.fleet
    }

    /// The names of one file, of which `entry` is what tells it apart: its normalised source URL, and whatever else is
    /// part of its key in memory.
    pub fn file(&self, entry: &str) -> FileNames {
        let hash = hmac::sign(&self.name_key, entry.as_bytes());
        let id = URL_SAFE_NO_PAD.encode(&hash.as_ref()[..FILE_BYTES]);
        let name = |kind: char| format!("{{{}}}1{kind}.{id}", self.tag);
        FileNames { link: name('l'), lease: name('w'), tombstone: name('d'), id }
    }

    /// The one slot of a cluster in which all of them lie.
    pub fn slot(&self) -> u16 {
        slot(self.tag.as_bytes())
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Names({})", self.tag)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// CRC-16 of the hash tag (the variant called XMODEM), by the cluster's specification.
fn slot(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0u16, |crc, byte| {
        let crc = crc ^ u16::from(*byte) << 8;
        (0..8).fold(crc, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ApiKey;

    fn names(key: &str) -> Names {
        Names::new(&ApiKey::new(key).unwrap().fleet_secret())
    }

    #[test]
    fn slots_are_those_of_redis() {
        // From `CLUSTER KEYSLOT`, and the check value of the specification (0x31C3).
        for (tag, number) in [("123456789", 12739), ("foo", 12182), ("", 0), ("kl.0123456789abcdef", KEYSLOT)] {
            assert_eq!(slot(tag.as_bytes()), number, "{tag}");
        }
    }

    const KEYSLOT: u16 = 15_747;

    #[test]
    fn replicas_agree_on_names_and_other_keys_have_others() {
        let (one, other) = (names("first-key"), names("other-key"));
        let file = "https://h.example/secret-name.png";
        assert_eq!(one.file(file), names("first-key").file(file));
        assert_ne!(one.file(file), one.file("https://h.example/b"));
        assert_ne!(one.file(file).id, other.file(file).id);
        assert_ne!(one.fleet().bucket, other.fleet().bucket);
    }

    #[test]
    fn names_are_short_have_one_tag_and_tell_nothing() {
        let names = names("first-key");
        let FileNames { id, link, lease, tombstone } = names.file("https://h.example/secret-name.png");
        assert_eq!((id.len(), link.len()), (22, 46));
        let fleet = names.fleet();
        for name in [&link, &lease, &tombstone, &fleet.bucket, &fleet.trial, &fleet.sequence] {
            assert!(name.starts_with(&format!("{{{}}}", names.tag)), "{name}");
            assert!(!name.contains("secret") && !name.contains("first"), "{name}");
        }
    }
}
