//! How long kie.ai asks to be left alone: `Retry-After` in the nearest sensible reading. Pure.
//!
//! RFC 9110 section 10.2.3 has whole seconds or a date. Gateways also send fractions, units, dates of other forms,
//! points of time as numbers, and the header twice; a pause misread as none brings the requests that it should have
//! held back.

use std::time::Duration;

use jiff::Timestamp;

use crate::link::point;

/// A longer pause is taken for this: kie.ai never sent any, so none can be trusted to be sane.
pub(crate) const LONGEST: Duration = Duration::from_secs(120);

/// No pause is as long as a year. A number beyond that is a point of time if it lies near `Date`.
const YEAR: f64 = 365.0 * 24.0 * 60.0 * 60.0;

/// How far from `Date` a number may lie to be a point of time, in seconds either way.
const NEAR: i64 = 24 * 60 * 60;

/// The longest of the pauses that the header's values say, at most `LONGEST`; zero where they say a point that has
/// passed; `None` where they say nothing. `date` is the answer's own clock, without which no point of time means
/// anything.
pub(crate) fn read<'a>(values: impl Iterator<Item = &'a str>, date: Option<Timestamp>) -> Option<Duration> {
    values.filter_map(|value| longest(value, date)).max()
}

/// The longest pause in one value, which may be a list. A date may have a comma, too.
fn longest(value: &str, date: Option<Timestamp>) -> Option<Duration> {
    if let Some(pause) = pause(value, date) {
        return Some(pause);
    }
    let parts: Vec<&str> = value.split([',', ';']).collect();
    let dates = parts.windows(2).map(|pair| pause(&pair.join(","), date));
    parts.iter().map(|part| pause(part, date)).chain(dates).flatten().max()
}

fn pause(text: &str, date: Option<Timestamp>) -> Option<Duration> {
    let text = unquoted(text);
    if let Some(seconds) = number(text) {
        return Some(match date.filter(|_| seconds > YEAR).and_then(|date| until_number(text, date)) {
            Some(pause) => pause,
            None => Duration::from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64())),
        });
    }
    if let Some(point) = point::date(text) {
        return Some(until(point, date?));
    }
    Some(point::span(text)?.min(LONGEST))
}

/// Seconds, with or without a unit, as other headers write them, too.
pub(super) fn seconds(text: &str) -> Option<f64> {
    let text = unquoted(text);
    number(text).or_else(|| point::span(text).map(|span| span.as_secs_f64()))
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || "\"'".contains(c))
}

/// Digits with a sign, a fraction, an exponent; not what else Rust takes for a number: `inf`, `NaN`.
fn number(text: &str) -> Option<f64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    is_number.then(|| text.parse().ok())?
}

fn until_number(text: &str, date: Timestamp) -> Option<Duration> {
    let point = point::decimal(text)?;
    (point.as_second().abs_diff(date.as_second()) <= NEAR.unsigned_abs()).then(|| until(point, date))
}

fn until(point: Timestamp, date: Timestamp) -> Duration {
    Duration::try_from(point.duration_since(date)).unwrap_or(Duration::ZERO).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds, by an answer of 2025-11-26T01:20:00Z.
    fn seconds(values: &[&str]) -> Option<f64> {
        let date = Timestamp::from_second(1_764_120_000).unwrap();
        read(values.iter().copied(), Some(date)).map(|pause| pause.as_secs_f64())
    }

    #[test]
    fn a_pause_is_read_in_its_nearest_sensible_reading() {
        for (value, expected) in [
            ("0", 0.0),
            ("1", 1.0),
            ("7", 7.0),
            ("007", 7.0),
            ("+7", 7.0),
            (" 7 ", 7.0),
            ("\"7\"", 7.0),
            ("'7'", 7.0),
            ("119", 119.0),
            ("120", 120.0),
            ("121", 120.0),
            ("86400", 120.0),
            ("120000", 120.0),
            ("1.5", 1.5),
            ("0.25", 0.25),
            (".5", 0.5),
            ("2.", 2.0),
            ("1e1", 10.0),
            ("-1", 0.0),
            ("-0", 0.0),
            ("-1.5", 0.0),
            ("99999999999999999999999999", 120.0),
            ("1e400", 120.0),
            ("18446744073709551616", 120.0),
            // With a unit
            ("5s", 5.0),
            ("5 s", 5.0),
            ("5 seconds", 5.0),
            ("5 Seconds", 5.0),
            ("5 sec", 5.0),
            ("1 second", 1.0),
            ("1.5s", 1.5),
            ("500ms", 0.5),
            ("1m", 60.0),
            ("1 minute", 60.0),
            ("1m 30s", 90.0),
            ("2h", 120.0),
            ("1 day", 120.0),
            ("5 secs", 5.0),
            ("5.5 seconds", 5.5),
            ("P1D", 120.0),
            ("PT5S", 5.0),
            ("PT1M30S", 90.0),
            ("-5s", 0.0),
            ("00:01:30", 90.0),
            // Dates
            ("Wed, 26 Nov 2025 01:20:05 GMT", 5.0),
            ("Wednesday, 26-Nov-25 01:20:05 GMT", 5.0),
            ("Wed Nov 26 01:20:05 2025", 5.0),
            ("Wed, 26 Nov 2025 01:20:05 +0000", 5.0),
            ("\"Wed, 26 Nov 2025 01:20:05 GMT\"", 5.0),
            ("Wed, 26 Nov 2025 01:20:00 GMT", 0.0),
            ("Wed, 26 Nov 2025 00:20:00 GMT", 0.0),
            ("Wed, 26 Nov 2025 03:20:00 GMT", 120.0),
            ("2025-11-26T01:20:05Z", 5.0),
            ("2025-11-26T01:20:05.900Z", 5.0),
            ("2025-11-26T02:20:05+01:00", 5.0),
            ("2025-11-26 01:20:05", 5.0),
            ("20251126T012005Z", 5.0),
            ("2025-11-26T00:00:00Z", 0.0),
            // A point of time as a number, near `Date` only
            ("1764120005", 5.0),
            ("1764120005.5", 5.0),
            ("1764120005000", 5.0),
            ("1764119000", 0.0),
            ("1764206400", 120.0),
            ("1700000000", 120.0),
            ("1764306401", 120.0),
            ("31536000", 120.0),
            // Lists: the longest
            ("5, 5", 5.0),
            ("5,10", 10.0),
            ("10, 5", 10.0),
            ("5, soon", 5.0),
            ("5;10", 10.0),
            ("-1, 5", 5.0),
            (",5,", 5.0),
            ("5, Wed, 26 Nov 2025 01:20:10 GMT", 10.0),
            ("Wednesday, 26-Nov-25 01:20:10 GMT, 5", 10.0),
            ("1,5", 5.0),
        ] {
            assert_eq!(seconds(&[value]), Some(expected), "{value}");
        }
    }

    #[test]
    fn nonsense_is_no_pause() {
        for value in [
            "",
            " ",
            ",",
            "soon",
            "never",
            "inf",
            "NaN",
            "-inf",
            "infinity",
            "1.2.3",
            "--1",
            "1-2",
            "e",
            "+",
            ".",
            "5 apples",
            "s",
            "0x10",
            "true",
            "٥",
            "2025-11-26",
            "Wed, 26 Nov",
            "5/10",
            "5\u{0}",
            "é",
        ] {
            assert_eq!(seconds(&[value]), None, "{value:?}");
        }
        assert_eq!(seconds(&[]), None);
    }

    #[test]
    fn of_several_headers_the_longest_counts() {
        assert_eq!(seconds(&["5", "10"]), Some(10.0));
        assert_eq!(seconds(&["10", "5"]), Some(10.0));
        assert_eq!(seconds(&["soon", "5"]), Some(5.0));
        assert_eq!(seconds(&["5", "Wed, 26 Nov 2025 01:20:10 GMT"]), Some(10.0));
    }

    #[test]
    fn without_a_clock_no_point_of_time_means_anything() {
        let read = |value: &str| read([value].into_iter(), None).map(|pause| pause.as_secs());
        assert_eq!(read("Wed, 26 Nov 2025 01:20:05 GMT"), None);
        assert_eq!(read("2025-11-26T01:20:05Z"), None);
        assert_eq!(read("1764120005"), Some(120));
        assert_eq!(read("5"), Some(5));
    }
}
