//! What names say of the points of time below them.

use super::MAX_NAME_BYTES;

/// What a name says of the points of time below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sense {
    Expiry,
    /// From then on the link may be used: never an end (CloudFront's `DateGreaterThan`).
    Start,
    /// A word for any point of time, or no name: it says what the name above it says
    /// (`{"DateLessThan":{"aws:CurrentTime":…}}`).
    AsAbove,
    Other,
}

/// What a name says, by its last words: `expires`, `x-expires`, `tokenExp`, `expires_at`, `AWS:EpochTime`; not
/// `expand`, `next`, `expires_in_days`.
pub(super) fn sense(name: &str) -> Sense {
    if name.len() > MAX_NAME_BYTES {
        return Sense::Other;
    }
    match sense_of(&words(name)) {
        // A host that ignores case reads `eXpIrEs` as one word.
        Sense::Other => sense_of(&words(&name.to_ascii_lowercase())),
        sense => sense,
    }
}

fn sense_of(words: &[String]) -> Sense {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] => return Sense::AsAbove,
        // Too short to be a word of a longer name, `x-` aside.
        ["e" | "ex" | "se"] | ["x", .., "e" | "ex" | "se"] => return Sense::Expiry,
        // Tencent's: from and until.
        ["q", "sign" | "key", "time"] => return Sense::Expiry,
        _ => {}
    }
    // `date_less_than`, `dateLessThan`, `datelessthan`.
    let endings: Vec<String> =
        (1..=words.len().min(MOST_WORDS)).map(|count| words[words.len() - count..].concat()).collect();
    let ends_in = |is_meant: fn(&str) -> bool| endings.iter().any(|ending| is_meant(ending));
    if ends_in(is_expiry) {
        Sense::Expiry
    } else if ends_in(|ending| ["dategreaterthan", "dategreaterthanequals"].contains(&ending)) {
        Sense::Start
    } else if ends_in(|ending| ["time", "timestamp", "date", "seconds", "epoch", "value", "at"].contains(&ending)) {
        Sense::AsAbove
    } else {
        Sense::Other
    }
}

/// `not_on_or_after_time`
const MOST_WORDS: usize = 5;

fn is_expiry(ending: &str) -> bool {
    let whole =
        ["exp", "expdate", "exptime", "exptimestamp", "expts", "epochtime", "datelessthan", "datelessthanequals"];
    // Words that another may follow: `expires_at`, `deadlineTime`.
    let stems =
        ["expires", "expire", "expiry", "expiration", "until", "deadline", "validto", "notafter", "notonorafter"];
    let followers = ["at", "in", "on", "time", "date", "datetime", "timestamp", "ts", "epoch", "unix", "utc"];
    let stem = |stem: &str| ending.strip_prefix(stem);
    whole.contains(&ending)
        || stems.iter().filter_map(|it| stem(it)).any(|rest| rest.is_empty() || followers.contains(&rest))
        // `expired` by itself is a flag, not a name for a point of time.
        || stem("expired").is_some_and(|rest| followers.contains(&rest))
}

/// The words of a name, in lower case: `X-Foo-Expires`, `expires_at`, `expiresAt`, `AWS:EpochTime`.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut last = ' ';
    for c in name.chars() {
        if c.is_alphanumeric() {
            let begins = !last.is_alphanumeric() || (last.is_lowercase() && c.is_uppercase());
            if begins {
                words.push(String::new());
            }
            words.last_mut().expect("the first letter begins a word").push(c.to_ascii_lowercase());
        }
        last = c;
    }
    words
}
