//! When a link ends by its own text. Pure.
//!
//! Only a few signers of links are known, and how they write the end; kie.ai may change its file host at any time. So
//! there are three rules, of which the last two are general:
//!
//! 1. *A signature with a date and a duration* (SigV4 and its kin: `X-Amz-Date` and `X-Amz-Expires`, any other maker's
//!    pair of that form) means what it says. Where only the date stands there, the documented 20 minutes count from it.
//! 2. *Under a name that says expiry* a point of time is the end, even if it has passed; a number below a day, with or
//!    without a unit, counts from `date`. Anything else under such a name cannot be read and bounds nothing, nor does a
//!    zero.
//! 3. *Under any other name* a point more than 60 s and at most 20 minutes after `date` is the end: nothing else in a
//!    link would lie just there. A nearer point tells when the link was signed, by a clock that may run ahead.
//!
//! Of several ends the earliest counts. Of several points in one value (`from;until`) the latest counts that the rule
//! takes. Where a value has names inside (`st=…~exp=…`, JSON), names that say expiry come before all others.
//!
//! The path is read like values without a name. The fragment is not read: it never reaches the host that would have
//! to refuse the link.

mod names;
mod scan;
mod signatures;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::{LIFE, point};
use scan::end_of;
use signatures::{Signatures, baidu};

/// Longer names say nothing that is known here.
const MAX_NAME_BYTES: usize = 128;

/// How much life the text of a link leaves it at `date`, or `None` where nothing in it bounds that.
pub(super) fn life_left(link: &str, date: Timestamp) -> Option<Duration> {
    let reached = link.split('#').next().unwrap_or_default();
    let (address, query) = reached.split_once('?').unwrap_or((reached, ""));
    let path = address.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let pairs: Vec<(Cow<'_, str>, Cow<'_, str>)> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or(("", pair)))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect();

    let signatures = Signatures::among(&pairs);
    let values = pairs.iter().filter(|(name, value)| !signatures.cover(name, value));
    let values = values.map(|(name, value)| baidu(value).or_else(|| end_of(date, |scan| scan.pair(name, value, 0, 0))));
    let segments: Vec<Cow<'_, str>> = path.split('/').map(decoded).collect();
    let before = [""].into_iter().chain(segments.iter().map(|segment| &**segment));
    let segments =
        before.zip(&segments).map(|(before, segment)| end_of(date, |scan| scan.follower(before, segment, 0, 0)));
    let end = values.chain(segments).chain([signatures.end(date)]).flatten().min()?;
    Some(Duration::try_from(end.duration_since(date)).unwrap_or(Duration::ZERO))
}

fn decoded(text: &str) -> Cow<'_, str> {
    // Forms write a space as `+`. Where a plus was meant, the readers of the value take a space for a plus.
    match text.contains('+') {
        true => Cow::Owned(percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()),
        false => percent_decode_str(text).decode_utf8_lossy(),
    }
}

fn later(at: Timestamp, seconds: u64) -> Timestamp {
    at.checked_add(Duration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// A doubled parameter: the smaller value is the safe one.
fn earliest<T: Ord>(seen: Option<T>, next: Option<T>) -> Option<T> {
    seen.into_iter().chain(next).min()
}

fn point_of(text: &str) -> Option<Timestamp> {
    // A zone may stand in brackets: `[UTC]`.
    point::decimal(bare(text)).or_else(|| point::date(bare(text))).or_else(|| point::date(text))
}

/// Seconds, unless they are so many that they are a point of time.
fn duration_of(text: &str) -> Option<u64> {
    let text = bare(text);
    point::seconds(text).filter(|_| point::decimal(text).is_none())
}

/// Without the blanks, quotes and brackets around it, and base64's padding.
fn bare(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"'`()[]{}<>=".contains(c))
}
