//! Rules 2 and 3: points of time in one value, and in what stands within it.

use std::{borrow::Cow, time::Duration};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use jiff::Timestamp;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::{
    LIFE, bare, earliest, later,
    names::{Sense, sense},
    point, point_of,
};

/// A point no further ahead than this tells when the link was signed.
const SIGNING: Duration = Duration::from_secs(60);

/// Below this, a number is a duration.
const DAY: u64 = 24 * 60 * 60;

/// Names in values in names, base64 in JSON in base64: CloudFront's policies need eight.
const MAX_DEPTH: u32 = 16;

/// What stands between the parts of a value, the loosest first. A part is split at the first of these that it has.
const SEPARATORS: [&[char]; 7] =
    [&['&', '?', '#'], &[';', '~', '|', '!', '*'], &[','], &['/', '@', '$'], &[' '], &[':', '.'], &['-', '_']];

/// A text with one of these may have several names.
const LISTS: [char; 9] = ['&', '?', '#', ';', '~', '|', '!', '*', ','];

/// Not quite base64: signers leave out the padding, or write it in an alphabet of their own.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The points of time in one value.
pub(super) struct Scan {
    date: Timestamp,
    /// Set below a name that says expiry: the latest point so far, and apart from it the latest hexadecimal point,
    /// which may be a piece of a hash.
    below_expiry: Option<Latest>,
    /// The earliest end under names that say expiry.
    end: Option<Timestamp>,
    /// The latest point under other names that rule 3 takes.
    other: Option<Timestamp>,
}

#[derive(Default)]
struct Latest {
    point: Option<Timestamp>,
    hexadecimal: Option<Timestamp>,
}

/// The end that one value of a link says.
pub(super) fn end_of(date: Timestamp, read: impl FnOnce(&mut Scan)) -> Option<Timestamp> {
    let mut scan = Scan { date, below_expiry: None, end: None, other: None };
    read(&mut scan);
    scan.end.or(scan.other)
}

impl Scan {
    /// Reads what stands before and after a `=`. `name` has none of the separators before `level`; it may also be the
    /// front of a value (`exp:1764120000 sig=ab`).
    pub(super) fn pair(&mut self, name: &str, text: &str, level: usize, depth: u32) {
        self.text(name, level, depth + 1);
        self.member(name, text, depth);
    }

    /// A name and the whole of its value.
    fn member(&mut self, name: &str, text: &str, depth: u32) {
        let sense = sense(name);
        let plain = bare(text);
        // `00:05:00` may be a time of day.
        let has_unit = !plain.contains(':');
        let with_unit = || point::span(plain).map(|span| span.as_secs()).filter(|seconds| has_unit && *seconds > 0);
        let seconds = point::seconds(plain).or_else(with_unit).filter(|seconds| *seconds < DAY);
        self.below(sense, |scan| match seconds {
            // "No expiry" at many hosts.
            Some(_) if is_zero(plain) => {}
            Some(seconds) if sense == Sense::Expiry => scan.point(later(scan.date, seconds)),
            Some(_) => {}
            None => scan.text(text, 0, depth + 1),
        });
    }

    /// Reads a part, and the part before it, which may be its name (`/expire/1764120000/`). No durations are read here:
    /// in a folder `exp`, a folder `1` may be one of many.
    pub(super) fn follower(&mut self, before: &str, text: &str, level: usize, depth: u32) {
        let is_name = before.len() > 2 && sense(before) == Sense::Expiry;
        self.below(if is_name { Sense::Expiry } else { Sense::AsAbove }, |scan| scan.text(text, level, depth));
    }

    /// Reads what stands below a name of this sense.
    fn below(&mut self, sense: Sense, read: impl FnOnce(&mut Scan)) {
        match sense {
            Sense::Start => {}
            Sense::AsAbove => read(self),
            Sense::Expiry if self.below_expiry.is_some() => read(self),
            Sense::Expiry => {
                self.below_expiry = Some(Latest::default());
                read(self);
                let found = self.below_expiry.take().unwrap_or_default();
                self.end = earliest(self.end, found.point.or(found.hexadecimal));
            }
            Sense::Other => {
                let above = self.below_expiry.take();
                read(self);
                self.below_expiry = above;
            }
        }
    }

    fn point(&mut self, at: Timestamp) {
        match &mut self.below_expiry {
            Some(latest) => latest.point = latest.point.max(Some(at)),
            None => {
                let ahead = Duration::try_from(at.duration_since(self.date)).unwrap_or(Duration::ZERO);
                if ahead > SIGNING && ahead <= LIFE {
                    self.other = self.other.max(Some(at));
                }
            }
        }
    }

    fn hexadecimal(&mut self, at: Timestamp) {
        match &mut self.below_expiry {
            Some(latest) => latest.hexadecimal = latest.hexadecimal.max(Some(at)),
            None => self.point(at),
        }
    }

    /// A value or a part of one, which has none of the separators before `level`.
    fn text(&mut self, text: &str, level: usize, depth: u32) {
        let text = text.trim();
        if text.is_empty() || depth > MAX_DEPTH {
            return;
        }
        if let Some(at) = point_of(text) {
            self.point(at);
        } else if let Some(at) = point::hexadecimal(bare(text)) {
            self.hexadecimal(at);
        } else if let Some(value) = json(text) {
            self.json("", &value, depth + 1);
        } else if let Cow::Owned(again) = percent_decode_str(text).decode_utf8_lossy() {
            // A value within a value: an encoded link, or what was encoded twice.
            self.text(&again, 0, depth + 1);
        } else {
            self.parts(text, level, depth);
        }
    }

    fn parts(&mut self, text: &str, level: usize, depth: u32) {
        if let Some((name, value)) = pair(text) {
            return self.pair(name, value, level, depth);
        }
        for (level, separators) in SEPARATORS.iter().enumerate().skip(level) {
            if !text.contains(*separators) {
                continue;
            }
            // What follows a minus at the front is a negative number, or the tail of a word.
            let text = match text.strip_prefix('-') {
                Some(text) if separators.contains(&'-') => text.split_once(*separators).map_or("", |(_, rest)| rest),
                _ => text,
            };
            let mut before = "";
            for part in text.split(*separators) {
                self.follower(before, part, level + 1, depth);
                before = part;
            }
            return;
        }
    }

    fn json(&mut self, name: &str, value: &Value, depth: u32) {
        if depth > MAX_DEPTH {
            return;
        }
        let read = |scan: &mut Scan| match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => scan.member(name, &number.to_string(), depth),
            Value::String(text) => scan.member(name, text, depth),
            Value::Array(items) => items.iter().for_each(|item| scan.json("", item, depth + 1)),
            Value::Object(members) => members.iter().for_each(|(name, value)| scan.json(name, value, depth + 1)),
        };
        self.below(sense(name), read);
    }
}

/// `0`, `0.0`
fn is_zero(text: &str) -> bool {
    text.bytes().all(|byte| b"0.".contains(&byte))
}

/// `name=value`, or `name:value` where the name says expiry, since a colon may stand for much else. A list of pairs is
/// no pair, nor is a text that ends in padding.
fn pair(text: &str) -> Option<(&str, &str)> {
    let is_list = text.contains(LISTS);
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:$[]\"' ".contains(&byte));
    match text.split_once('=').filter(|(_, value)| !bare(value).is_empty()) {
        Some((name, value)) => {
            (is_name(name) && !(is_list && value.trim_end_matches('=').contains('='))).then_some((name, value))
        }
        None if is_list => None,
        None => text.split_once(':').filter(|(name, _)| name.len() > 2 && sense(name) == Sense::Expiry),
    }
}

/// JSON's objects and arrays, as they are or in base64 of any alphabet (RFC 4648 sections 4 and 5; CloudFront's).
fn json(text: &str) -> Option<Value> {
    if text.starts_with(['{', '[']) {
        return serde_json::from_str(text).ok();
    }
    // In base64, `{` begins with `e` and `[` with `W`.
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_=~ ".contains(&byte);
    if !text.starts_with(['e', 'W']) || !text.bytes().all(is_base64) {
        return None;
    }
    let read = |underscore: u8| {
        let standard = text.bytes().map(|byte| match byte {
            b'-' | b' ' => b'+',
            b'_' => underscore,
            b'~' => b'/',
            byte => byte,
        });
        let standard: Vec<u8> = standard.collect();
        let padding = standard.iter().rev().take_while(|byte| **byte == b'=').count();
        let json = BASE64.decode(&standard[..standard.len() - padding]).ok()?;
        serde_json::from_slice(&json).ok().filter(|value: &Value| value.is_object() || value.is_array())
    };
    read(b'/').or_else(|| text.contains('_').then(|| read(b'='))?)
}
