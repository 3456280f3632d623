//! Points of time as texts write them: numbers, ISO 8601, HTTP dates, cut to the second; and durations. Pure.

use std::{ops::Range, time::Duration};

use jiff::{Span, SpanRelativeTo, Timestamp, civil::DateTime, fmt::rfc2822, tz::TimeZone};

/// The seconds since 1970 that a bare number may mean: the years 2000 to 2099. What lies outside is a size, an id, a
/// duration, or `32503680000` for "never".
const NUMBERED: Range<u64> = 946_684_800..4_102_444_800;

/// The longest date of any form is shorter: a weekday and a month in full, an offset, a fraction to the nanosecond.
const MAX_DATE_BYTES: usize = 64;

/// `2 hours, 3 minutes, 4 seconds` is shorter.
const MAX_SPAN_BYTES: usize = 64;

/// `1764120000`, with or without a fraction; likewise milli-, micro- and nanoseconds. The ranges do not overlap.
pub(crate) fn decimal(text: &str) -> Option<Timestamp> {
    let number = seconds(text)?;
    [1, 1_000, 1_000_000, 1_000_000_000].iter().find_map(|unit| numbered(number / unit))
}

/// `6925b100` or `0x6925b100`, in seconds or milliseconds. Nothing else that is hexadecimal has that length and value,
/// but for one hash in a billion.
pub(super) fn hexadecimal(text: &str) -> Option<Timestamp> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(digits, 16).ok()?;
    [1, 1_000].iter().find_map(|unit| numbered(number / unit))
}

/// A number without sign or unit, its fraction cut off.
pub(super) fn seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    (is_digits(whole) && is_digits(fraction)).then(|| whole.parse().ok())?
}

/// A duration with its unit: `120s`, `2 minutes`, `PT2M`. A negative duration counts as zero.
pub(crate) fn span(text: &str) -> Option<Duration> {
    if text.len() > MAX_SPAN_BYTES {
        return None;
    }
    let span: Span = text.to_ascii_lowercase().parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    Some(Duration::try_from(duration).unwrap_or(Duration::ZERO))
}

/// Date and time of day; without a zone, in UTC. A date alone is no point of time: its day is longer than a link lives.
pub(crate) fn date(text: &str) -> Option<Timestamp> {
    if !text.is_ascii() || text.len() > MAX_DATE_BYTES {
        return None;
    }
    let at = iso_8601(text).or_else(|| http_date(text))?;
    // A date before 1970 means "never": year 1, year 0.
    Timestamp::from_second(at.as_second()).ok().filter(|at| *at >= Timestamp::UNIX_EPOCH)
}

fn numbered(seconds: u64) -> Option<Timestamp> {
    let is_point = NUMBERED.contains(&seconds);
    is_point.then(|| Timestamp::from_second(seconds.try_into().ok()?).ok())?
}

/// The three formats of RFC 9110 section 5.6.7; the format that all three come from (RFC 5322), whose zone may be a
/// number; and the format of cookies, which has hyphens (`26-Nov-2025`).
fn http_date(text: &str) -> Option<Timestamp> {
    match httpdate::parse_http_date(text) {
        Ok(at) => Timestamp::try_from(at).ok(),
        Err(_) => {
            let parsed = rfc2822::parse(text).or_else(|_| rfc2822::parse(&text.replacen('-', " ", 2)));
            parsed.ok().map(|at| at.timestamp())
        }
    }
}

/// `2026-11-26T10:00:00Z`, `20261126T100000Z`, `20261126100000`, a fraction, an offset, a space for `T` or before the
/// offset (which may stand for the offset's `+`, if a form was decoded).
fn iso_8601(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let date = if bytes.get(4) == Some(&b'-') { "YYYY-MM-DD".len() } else { "YYYYMMDD".len() };
    if !bytes.iter().take(4).all(u8::is_ascii_digit) {
        return None;
    }
    let (date, time) = text.split_at_checked(date)?;
    let time = time.strip_prefix(['T', 't', ' ', '+', '_']).or_else(|| (time.len() == 6).then_some(time))?;
    let named_utc = ["UTC", "GMT"].iter().find_map(|zone| time.strip_suffix(zone));
    let time = match named_utc {
        // Go writes `10:00:00 +0000 UTC`.
        Some(time) => match time.trim_end() {
            time if time.contains('+') => time.to_owned(),
            time => format!("{time}Z"),
        },
        None => time.to_owned(),
    };
    let time = time.replace(" +", "+").replace(" -", "-").replace(" Z", "Z").replace(' ', "+");
    // Hours and minutes at least: an hour alone may be what is left of a date that was cut at its colons.
    let clock: Vec<u8> = time.bytes().filter(|byte| *byte != b':').take(4).collect();
    if clock.len() < 4 || !clock.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let text = format!("{date}T{time}");
    text.parse().ok().or_else(|| TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        let expected = Some(Duration::from_secs(300));
        for text in ["300s", "5m", "5 min", "5 Minutes", "4m 60s", "PT5M", "pt300s", "300000ms"] {
            assert_eq!(span(text), expected, "{text}");
        }
        assert_eq!(span("-5m"), Some(Duration::ZERO));
        let long = format!("300{}s", " ".repeat(MAX_SPAN_BYTES));
        for text in ["", "300", "s", "5x", "P", "P1Y", "never", "2025-11-26", &long] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn a_point_of_time_is_read_in_every_form() {
        let expected: Timestamp = "2025-11-26T01:20:00Z".parse().unwrap();
        for text in [
            "1764120000",
            "1764120000.9",
            "1764120000.",
            "1764120000999",
            "1764120000999.5",
            "1764120000999999",
            "1764120000999999999",
        ] {
            assert_eq!(decimal(text), Some(expected), "{text}");
        }
        for text in ["692655c0", "692655C0", "0x692655c0", "00692655c0", "19abdbef600", "0X19ABDBEF9E7"] {
            assert_eq!(hexadecimal(text), Some(expected), "{text}");
        }
        for text in [
            "2025-11-26T01:20:00Z",
            "2025-11-26t01:20:00z",
            "2025-11-26T01:20:00.999Z",
            "2025-11-26T01:20:00,5Z",
            "2025-11-26T01:20:00.123456789Z",
            "2025-11-26T01:20Z",
            "2025-11-26T01:20:00",
            "2025-11-26T02:20:00+01:00",
            "2025-11-26T02:20:00+0100",
            "2025-11-26T02:20:00+01",
            "2025-11-26T02:20:00 01:00",
            "2025-11-25T17:20:00-08:00",
            "2025-11-26 01:20:00Z",
            "2025-11-26+01:20:00Z",
            "2025-11-26 01:20:00 UTC",
            "2025-11-26 01:20:00 +0000 UTC",
            "2025-11-26 02:20:00 +01:00",
            "20251126T012000Z",
            "20251126t012000z",
            "20251126T0120Z",
            "20251126T012000.999Z",
            "20251126T022000+0100",
            "20251126T012000",
            "20251126012000",
            "Wed, 26 Nov 2025 01:20:00 GMT",
            "Wednesday, 26-Nov-25 01:20:00 GMT",
            "Wed Nov 26 01:20:00 2025",
            "Wed, 26 Nov 2025 02:20:00 +0100",
            "26 Nov 2025 01:20:00 GMT",
            "Wed, 26-Nov-2025 01:20:00 GMT",
            "2025-11-26T01:20:00Z[UTC]",
        ] {
            assert_eq!(date(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_point_of_time_is_not_read() {
        for text in [
            "",
            ".",
            "0",
            "86400",
            "20251126",
            "946684799",
            "4102444800",
            "9999999999",
            "32503680000",
            "18446744073709551616",
            "99999999999999999999999999",
            "-1764120000",
            "+1764120000",
            "1764120000s",
            "1.764e9",
            "1764120000.x",
            "١٧٦٤١٢٠٠٠٠",
        ] {
            assert_eq!(decimal(text), None, "{text}");
        }
        for text in [
            "",
            "0x",
            "ff8800",
            "ff8800ff",
            "1764120000",
            "20251126",
            "692655c",
            "692655c00",
            "692655cg",
            "d41d8cd98f00b204e9800998ecf8427e",
        ] {
            assert_eq!(hexadecimal(text), None, "{text}");
        }
        for text in [
            "",
            "never",
            "2025",
            "2025-11-26",
            "20251126",
            "2025-11-26T",
            "2025-11-26T01",
            "2025-11-26T01Z",
            "2025-11-26T01:2",
            "2025-11-26Z",
            "2025-13-26T01:20:00Z",
            "2025-11-26T25:20:00Z",
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2025-11-26T01:20:00Zzz",
            "01:20:00",
            "Wed, 26 Nov 2025",
            "Foo, 26 Bar 2025 01:20:00 GMT",
            "１７６４-11-26T01:20:00Z",
        ] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
