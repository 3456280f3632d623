//! An answer as a line of text, for `/sandbox`: `402`, `http-503; retry-after: 120`, `link; age: 900`.
//!
//! The first part says what to answer, the other parts say how. For an answer without words of its own there are
//! `header:` and `body:`.

use std::time::Duration;

use super::answer::Answer;

/// The longest answer that can be asked for, so that a mistyped number does not fill the memory.
const LONGEST_BODY: usize = 64 << 20;

pub(super) const KNOWN: &str = "link, like:TEMPLATE, is:LINK, a code of kie.ai's such as 402, 402-as-500, http-STATUS, \
    html-STATUS, spring-404, 1010, empty, body:TEXT, redirect:URL, echo-key, big:BYTES, bomb, headers, drip, endless, \
    hang, reset, close; and, after a semicolon each, status:N, header:NAME=VALUE, without:NAME, retry-after:TEXT, gzip, \
    after:2s, left:30s, date:-60, clock:+60, age:900, no-expiry, again, then-close, cut-off";

/// Why a text is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{part}` is no answer: there is {KNOWN}")]
pub struct Unknown {
    part: String,
}

impl std::str::FromStr for Answer {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Answer, Unknown> {
        let unknown = |part: &str| Unknown { part: part.to_owned() };
        if text.chars().any(char::is_control) {
            return Err(unknown(text));
        }
        // Templates and links may hold semicolons themselves, and nothing follows them.
        for (name, make) in [("like", Answer::link_like as fn(&str) -> Answer), ("is", |link| Answer::link_is(link))] {
            if let Some(rest) = value(text, name) {
                return Ok(make(rest));
            }
        }
        let mut parts = text.split(';').map(str::trim);
        let first = parts.next().unwrap_or_default();
        let answer = what(first).ok_or_else(|| unknown(first))?;
        parts.try_fold(answer, |answer, part| how(answer, part).ok_or_else(|| unknown(part)))
    }
}

fn what(word: &str) -> Option<Answer> {
    let status = |text: &str| text.parse().ok().filter(|status| (200..600).contains(status));
    Some(match word {
        "link" => Answer::link(),
        "402-as-500" => Answer::credits_insufficient(),
        "spring-404" => Answer::spring_404(),
        "1010" => Answer::banned(),
        "empty" => Answer::empty(),
        "echo-key" => Answer::echo_key(422),
        "bomb" => Answer::gzip_bomb(),
        "headers" => Answer::thousands_of_headers(),
        "drip" => Answer::drip(),
        "endless" => Answer::endless(),
        "hang" => Answer::hang(),
        "reset" => Answer::reset(),
        "close" => Answer::close(),
        _ => {
            if let Some(text) = value(word, "body") {
                Answer::body(text)
            } else if let Some(url) = value(word, "redirect") {
                Answer::redirect(url)
            } else if let Some(bytes) = value(word, "big") {
                Answer::big(bytes.parse().ok().filter(|bytes| *bytes <= LONGEST_BODY)?)
            } else if let Some(text) = word.strip_prefix("http-") {
                Answer::bare(status(text)?)
            } else if let Some(text) = word.strip_prefix("html-") {
                Answer::html(status(text)?)
            } else {
                Answer::code(word.parse().ok().filter(|code| (100..1000).contains(code))?)
            }
        }
    })
}

fn how(answer: Answer, word: &str) -> Option<Answer> {
    Some(match word {
        "gzip" => answer.gzip(),
        "no-expiry" => answer.without_expiry(),
        "again" => answer.again(),
        "then-close" => answer.then_close_silently(),
        "cut-off" => answer.cut_off(),
        _ => {
            let (name, text) = word.split_once(':')?;
            let text = text.trim();
            let duration = || humantime::parse_duration(text).ok();
            match name {
                "status" => answer.http_status(text.parse().ok().filter(|status| (200..600).contains(status))?),
                "header" => {
                    let (name, value) = text.split_once('=')?;
                    answer.with_header(name, value)
                }
                "without" => answer.without_header(text),
                "retry-after" => answer.with_header("Retry-After", text),
                "after" => answer.after(duration()?),
                "left" => answer.life_left(duration()?),
                "date" => answer.date_off(seconds(text)?),
                "clock" => answer.clock_off(seconds(text)?),
                "age" => answer.kept_for(Duration::from_secs(seconds(text)?.try_into().ok()?)),
                _ => return None,
            }
        }
    })
}

/// Whole seconds with a sign or without, at most some years of them: a clock that is off further helps nobody.
pub(super) fn seconds(text: &str) -> Option<i64> {
    text.trim_end_matches('s').parse().ok().filter(|seconds: &i64| seconds.abs() <= 1_000_000_000)
}

/// What stands behind `NAME:`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    Some(text.strip_prefix(name)?.strip_prefix(':')?.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_and_how() {
        let secs = Duration::from_secs;
        let table = [
            ("link", Answer::link()),
            ("402", Answer::code(402)),
            ("401", Answer::unauthorized()),
            ("402-as-500", Answer::credits_insufficient()),
            ("http-403", Answer::bare(403)),
            ("html-502; without:date", Answer::html(502).without_header("date")),
            ("http-503; retry-after: 120", Answer::bare(503).with_header("Retry-After", "120")),
            (
                "429;retry-after:Wed, 21 Oct 2015 07:28:00 GMT;retry-after:2",
                Answer::too_frequent()
                    .with_header("Retry-After", "Wed, 21 Oct 2015 07:28:00 GMT")
                    .with_header("Retry-After", "2"),
            ),
            ("link; date:+30; age:900s", Answer::link().date_off(30).kept_for(secs(900))),
            ("link;left:30s;again;clock:-7", Answer::link().life_left(secs(30)).again().clock_off(-7)),
            ("link; no-expiry; gzip; cut-off", Answer::link().without_expiry().gzip().cut_off()),
            ("like:{file}?e={end};{now}", Answer::link_like("{file}?e={end};{now}")),
            ("is:https://x.example/a;b", Answer::link_is("https://x.example/a;b")),
            ("body:{}", Answer::body("{}")),
            ("big:100000", Answer::big(100_000)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_answer_is_named() {
        for (text, part) in [
            ("", ""),
            ("lnk", "lnk"),
            ("http-99", "http-99"),
            ("http-600", "http-600"),
            ("42", "42"),
            ("big:999999999", "big:999999999"),
            ("link;", ""),
            ("link;age:-1", "age:-1"),
            ("link;date:soon", "date:soon"),
            ("link;left:1x;gzip", "left:1x"),
            ("500;header:none", "header:none"),
            ("500;header:a=b\r\nc: d", "500;header:a=b\r\nc: d"),
        ] {
            assert_eq!(text.parse::<Answer>(), Err(Unknown { part: part.to_owned() }), "{text}");
        }
    }
}
