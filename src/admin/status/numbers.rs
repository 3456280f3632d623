//! Numbers as people read them: few digits, a unit, and a dash where nothing was measured. Pure.

use std::time::Duration;

use bytesize::ByteSize;

/// Where nothing was measured.
pub(super) const NOTHING: &str = "–";

/// Keeps a number and its unit on one line.
const SPACE: char = '\u{a0}';

pub(super) fn or_nothing<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| NOTHING.to_owned(), show)
}

/// `1,234,567`
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3 links`, `1 link`
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{}{SPACE}{}", count(number), if number == 1 { one } else { many })
}

/// `49.8`, for what happens in a second: three digits. What happens at all is shown as more than `0`.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        none if none <= 0.0 => "0".to_owned(),
        few if few < 0.005 => "<\u{a0}0.01".to_owned(),
        few if few < 9.995 => format!("{few:.2}"),
        some if some < 99.95 => format!("{some:.1}"),
        many => count(many.round() as u64),
    }
}

/// `98.3 %`. Only all is `100 %`, and only none is `0 %`: what lies between is cut, not rounded.
pub(super) fn percent(ratio: f64) -> String {
    let hundredths = (ratio * 10_000.0 + 1e-6).floor() / 100.0;
    match ratio {
        none if none <= 0.0 => format!("0{SPACE}%"),
        all if all >= 1.0 => format!("100{SPACE}%"),
        few if few < 0.0001 => format!("<{SPACE}0.01{SPACE}%"),
        edge if !(0.01..0.99).contains(&edge) => format!("{hundredths:.2}{SPACE}%"),
        _ => format!("{:.1}{SPACE}%", (ratio * 1_000.0 + 1e-6).floor() / 10.0),
    }
}

/// `45 %`, for a sentence.
pub(super) fn percent_roughly(ratio: f64) -> String {
    match ratio {
        few if few > 0.0 && few < 0.01 => format!("<{SPACE}1{SPACE}%"),
        most if most > 0.99 && most < 1.0 => format!("99{SPACE}%"),
        some => format!("{:.0}{SPACE}%", some * 100.0),
    }
}

/// `5,916.25`: an amount, with hundredths at most; from 10^13 on `1.000e13`.
pub(super) fn amount(number: f64) -> String {
    // So large a float has no hundredths, and a larger one does not fit into the integer below.
    if number.abs() >= 1e13 {
        return format!("{number:.3e}");
    }
    let hundredths = (number.abs() * 100.0).round() as u64;
    let sign = if number < 0.0 && hundredths > 0 { "-" } else { "" };
    match hundredths % 100 {
        0 => format!("{sign}{}", count(hundredths / 100)),
        rest => format!("{sign}{}.{rest:02}", count(hundredths / 100)),
    }
}

/// `0.48 ms`, `1.6 s`: two digits or three.
pub(super) fn latency(milliseconds: f64) -> String {
    let with = |number: String, unit: &str| format!("{number}{SPACE}{unit}");
    match milliseconds {
        tiny if tiny < 0.0995 => with(format!("{tiny:.3}"), "ms"),
        short if short < 0.995 => with(format!("{short:.2}"), "ms"),
        short if short < 9.95 => with(format!("{short:.1}"), "ms"),
        some if some < 999.5 => with(format!("{some:.0}"), "ms"),
        long if long < 9_950.0 => with(format!("{:.1}", long / 1_000.0), "s"),
        long if long < 59_500.0 => with(format!("{:.0}", long / 1_000.0), "s"),
        endless => span((endless / 1_000.0).round() as u64),
    }
}

/// `12 min 3 s`: the two largest units.
pub(super) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let [large, small] = match () {
        () if days > 0 => [(days, "d"), (hours % 24, "h")],
        () if hours > 0 => [(hours, "h"), (minutes % 60, "min")],
        () if minutes > 0 => [(minutes, "min"), (seconds % 60, "s")],
        () => [(seconds, "s"), (0, "")],
    };
    let part = |(number, unit): (u64, &str)| format!("{number}{SPACE}{unit}");
    if small.0 == 0 { part(large) } else { format!("{}{SPACE}{}", part(large), part(small)) }
}

/// `3.0 KiB`, in the units of the settings.
pub(super) fn bytes(number: u64) -> String {
    let shown = ByteSize::b(number).display().iec().to_string();
    shown.replace(' ', &SPACE.to_string())
}

/// `9.7`, but `10` and not `10.0`.
pub(super) fn tenths(number: f64) -> String {
    let rounded = (number * 10.0).round() / 10.0;
    rounded.to_string()
}

/// `14:32:10` of `at`, with its date where that is not the date of `now`. Both are RFC 3339, in UTC.
pub(super) fn time_of_day(at: &str, now: &str) -> String {
    let (date, time) = at.split_once('T').unwrap_or(("", at));
    let time = time.trim_end_matches('Z');
    if now.starts_with(date) { time.to_owned() } else { format!("{date}{SPACE}{time}") }
}

/// From one moment to another, both in RFC 3339; `None` where that is no time at all.
pub(super) fn between(first: &str, last: &str) -> Option<Duration> {
    let moment = |text: &str| text.parse::<jiff::Timestamp>().ok();
    let elapsed = moment(last)?.duration_since(moment(first)?);
    Duration::try_from(elapsed).ok().filter(|elapsed| !elapsed.is_zero())
}

/// For the middle of a sentence.
pub(super) fn uncapitalised(text: &str) -> String {
    first(text, |letter| letter.to_lowercase().to_string())
}

/// For the beginning of a sentence; names that are written small stay as they are.
pub(super) fn capitalised(text: &str) -> String {
    if ["kie.ai", "kielink"].iter().any(|name| text.starts_with(name)) {
        return text.to_owned();
    }
    first(text, |letter| letter.to_uppercase().to_string())
}

fn first(text: &str, change: impl FnOnce(char) -> String) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(change).unwrap_or_default();
    first + letters.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a common space, for a table that can be read.
    fn plain(text: String) -> String {
        text.replace(SPACE, " ")
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        assert_eq!(plain(counted(1, "link", "links")), "1 link");
        assert_eq!(plain(counted(0, "link", "links")), "0 links");
    }

    #[test]
    fn rates_have_three_digits() {
        for (number, text) in [
            (0.0, "0"),
            (0.001, "< 0.01"),
            (0.005, "0.01"),
            (0.2, "0.20"),
            (9.99, "9.99"),
            (9.996, "10.0"),
            (49.84, "49.8"),
            (99.96, "100"),
            (12_345.6, "12,346"),
        ] {
            assert_eq!(plain(rate(number)), text, "{number}");
        }
    }

    #[test]
    fn only_all_is_a_hundred_percent_and_only_none_is_zero() {
        for (ratio, text) in [
            (0.0, "0 %"),
            (0.00001, "< 0.01 %"),
            (0.0001, "0.01 %"),
            (0.0099, "0.99 %"),
            (0.01, "1.0 %"),
            (0.5, "50.0 %"),
            (0.983, "98.3 %"),
            (0.9899, "98.9 %"),
            (0.99, "99.00 %"),
            (0.999_999, "99.99 %"),
            (1.0, "100 %"),
        ] {
            assert_eq!(plain(percent(ratio)), text, "{ratio}");
        }
    }

    #[test]
    fn in_a_sentence_a_percentage_is_whole_and_some_is_neither_none_nor_all() {
        for (ratio, text) in [(0.0, "0 %"), (0.001, "< 1 %"), (0.451, "45 %"), (0.999, "99 %"), (1.0, "100 %")] {
            assert_eq!(plain(percent_roughly(ratio)), text, "{ratio}");
        }
        for (number, text) in [
            (5916.25, "5,916.25"),
            (100.0, "100"),
            (0.0, "0"),
            (-3.5, "-3.50"),
            (-0.001, "0"),
            (-1e300, "-1.000e300"),
            (9_999_999_999_999.0, "9,999,999,999,999"),
            (1e13, "1.000e13"),
        ] {
            assert_eq!(amount(number), text, "{number}");
        }
    }

    #[test]
    fn latencies_have_a_unit_that_fits() {
        for (milliseconds, text) in [
            (0.0, "0.000 ms"),
            (0.048, "0.048 ms"),
            (0.0996, "0.10 ms"),
            (0.48, "0.48 ms"),
            (0.996, "1.0 ms"),
            (4.84, "4.8 ms"),
            (9.96, "10 ms"),
            (330.4, "330 ms"),
            (999.6, "1.0 s"),
            (1_600.0, "1.6 s"),
            (20_100.0, "20 s"),
            (59_600.0, "1 min"),
        ] {
            assert_eq!(plain(latency(milliseconds)), text, "{milliseconds}");
        }
    }

    #[test]
    fn spans_have_the_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (723, "12 min 3 s"),
            (3_599, "59 min 59 s"),
            (3_600, "1 h"),
            (11_520, "3 h 12 min"),
            (86_399, "23 h 59 min"),
            (86_400, "1 d"),
            (97_200, "1 d 3 h"),
        ] {
            assert_eq!(plain(span(seconds)), text, "{seconds}");
        }
    }

    #[test]
    fn sizes_have_the_settings_units() {
        for (number, text) in [(0, "0 B"), (1_023, "1023 B"), (3_072, "3.0 KiB"), (64 << 20, "64.0 MiB")] {
            assert_eq!(plain(bytes(number)), text);
        }
        assert_eq!((tenths(19.0), tenths(9.7087)), ("19".to_owned(), "9.7".to_owned()));
    }

    #[test]
    fn a_time_of_another_day_has_its_date() {
        let now = "2026-11-23T00:00:10Z";
        assert_eq!(time_of_day("2026-11-23T00:00:03Z", now), "00:00:03");
        assert_eq!(plain(time_of_day("2026-11-22T23:59:59Z", now)), "2026-11-22 23:59:59");
        assert_eq!(between("2026-11-22T23:59:59Z", now), Some(Duration::from_secs(11)));
        assert_eq!(between(now, now), None);
        assert_eq!(between(now, "2026-11-22T23:59:59Z"), None, "a clock that was set back");
        assert_eq!(between("nonsense", now), None);
    }

    #[test]
    fn nothing_is_a_dash() {
        assert_eq!(or_nothing(None, rate), NOTHING);
        assert_eq!(or_nothing(Some(1.0), rate), "1.00");
    }

    #[test]
    fn a_sentence_begins_with_a_capital() {
        assert_eq!(uncapitalised("Links are flowing"), "links are flowing");
        assert_eq!(capitalised("mint failed"), "Mint failed");
        assert_eq!(capitalised("kie.ai is unwell"), "kie.ai is unwell");
        assert_eq!((uncapitalised(""), capitalised("")), (String::new(), String::new()));
    }
}
