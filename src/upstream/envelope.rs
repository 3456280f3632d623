//! kie.ai's answers, read. Pure.
//!
//! kie.ai mostly says HTTP 200 and puts the real code into the body; gateways in front of it say HTTP 5xx with
//! HTML. Content-Type is sometimes missing, so the body alone decides.

use std::time::Duration;

use serde_json::{Number, Value};

use super::error::{Answer, BadAnswer, Error};

/// Some writers of UTF-8 put it in front (RFC 8259 section 8.1 lets readers pass over it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// An answer: its HTTP status, the pause that its headers ask for, its body.
pub(crate) struct Raw<'a> {
    pub(crate) http_status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: &'a [u8],
}

/// The text that stands where the link should, or why there is none. `present` makes messages fit to be shown.
pub(crate) fn read(raw: &Raw<'_>, present: impl Fn(&str) -> String) -> Result<String, Error> {
    let link = |data| match data {
        Value::String(link) => Some(link),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    };
    data(raw, present, link, BadAnswer::NoLink)
}

/// The number that stands where the credits left should, or why there is none: with decimals or without, and some
/// writers of JSON put numbers into quotes.
pub(super) fn number(raw: &Raw<'_>, present: impl Fn(&str) -> String) -> Result<Number, Error> {
    let number = |data| match data {
        Value::Number(number) => Some(number),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    data(raw, present, number, BadAnswer::NoNumber)
}

/// What a good answer carries, where that is what is wanted (`otherwise`), or why it is none. A message is made fit to be shown
/// only where it may be: that takes 30 texts, and most answers are good.
fn data<T>(
    raw: &Raw<'_>,
    present: impl Fn(&str) -> String,
    wanted: impl FnOnce(Value) -> Option<T>,
    otherwise: BadAnswer,
) -> Result<T, Error> {
    let mut parsed = parse(raw.body);
    let (code, message) = match &mut parsed {
        Ok(envelope) => (envelope.code, envelope.message.take()),
        Err(_) => (None, None),
    };
    let answer = || Answer { http_status: raw.http_status, code, message: message.as_deref().map(&present) };
    let success = (200..300).contains(&raw.http_status);

    // A redirect is refused before its body is believed: no key and no trust goes elsewhere.
    if (300..400).contains(&raw.http_status) {
        return Err(Error::Unusable { reason: BadAnswer::Redirect, answer: answer() });
    }
    match parsed {
        Ok(Envelope { code: Some(200), data, .. }) if success => {
            wanted(data).ok_or_else(|| Error::Unusable { reason: otherwise, answer: answer() })
        }
        Ok(Envelope { code: Some(code), .. }) if code != 200 => Err(refusal(code, answer(), raw.retry_after)),
        // No envelope, or one that says 200 under an HTTP error: the HTTP status speaks. Its 404 and 422 are not
        // about the file (an unknown path is a wrong base_url), so they are no reason to remember a refusal.
        Ok(_) | Err(_) if !success => Err(match raw.http_status {
            404 | 422 => Error::Unusable { reason: BadAnswer::OtherShape, answer: answer() },
            status => refusal(i64::from(status), answer(), raw.retry_after),
        }),
        Ok(_) => Err(Error::Unusable { reason: BadAnswer::OtherShape, answer: answer() }),
        Err(reason) => Err(Error::Unusable { reason, answer: answer() }),
    }
}

/// What a code other than 200 means (kie.ai's documentation; 433 is its sub-key limit).
fn refusal(code: i64, answer: Answer, retry_after: Option<Duration>) -> Error {
    // One recording shows "Credits insufficient" under code 500. A code that says more is believed before the message
    // is, whose words may be the name of a caller's file.
    let says_little = !matches!(code, 501 | 505) && (answer.code.is_none() || (500..600).contains(&code));
    let out_of_credits = says_little
        && answer.message.as_deref().is_some_and(|message| {
            // Words in an address do not count: the address may be a caller's.
            let words = message.split(' ').filter(|word| !word.contains('/'));
            let message = words.collect::<Vec<_>>().join(" ").to_ascii_lowercase();
            message.contains("credit") && (message.contains("insufficient") || message.contains("not enough"))
        });
    match code {
        401 | 403 => Error::KeyRefused(answer),
        _ if matches!(answer.http_status, 401 | 403) => Error::KeyRefused(answer),
        402 => Error::CreditsExhausted(answer),
        429 | 433 => Error::RateLimited { answer, retry_after },
        _ if out_of_credits => Error::CreditsExhausted(answer),
        404 => Error::SourceNotFound(answer),
        422 => Error::SourceRefused(answer),
        455 => Error::Maintenance { answer, retry_after },
        _ if answer.http_status == 429 => Error::RateLimited { answer, retry_after },
        // "This will not be done" does not pass, whatever its headers say.
        501 | 505 => Error::Failed(answer),
        _ => match retry_after.filter(|_| code >= 500 || answer.http_status >= 500) {
            Some(retry_after) => Error::Unavailable { answer, retry_after },
            None => Error::Failed(answer),
        },
    }
}

struct Envelope {
    code: Option<i64>,
    message: Option<String>,
    data: Value,
}

fn parse(body: &[u8]) -> Result<Envelope, BadAnswer> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(BadAnswer::Empty);
    }
    let value: Value = serde_json::from_slice(body).map_err(|_| BadAnswer::NotJson)?;
    let Value::Object(mut object) = value else {
        return Err(BadAnswer::OtherShape);
    };
    let code = object.get("code").and_then(|code| match code {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    // Some writers of JSON make `200.0` of 200. A number that is no code of kie.ai's may be anything, even a key made
    // of digits.
    let code = code.filter(|code| code.fract() == 0.0 && code.abs() < 10_000.0).map(|code| code as i64);
    let message = object.get("msg").and_then(Value::as_str).map(str::to_owned);
    Ok(Envelope { code, message, data: object.remove("data").unwrap_or(Value::Null) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::{source::Source, upstream::message};

    fn answer(http_status: u16, body: &str) -> Result<String, Error> {
        answer_after(None, http_status, body)
    }

    fn answer_after(retry_after: Option<u64>, http_status: u16, body: &str) -> Result<String, Error> {
        let retry_after = retry_after.map(Duration::from_secs);
        let raw = Raw { http_status, retry_after, body: body.as_bytes() };
        read(&raw, |text| text.replace("KEY", "[key]"))
    }

    /// The error's name, for tables.
    fn kind(result: Result<String, Error>) -> String {
        match result {
            Ok(link) => link,
            Err(Error::Unusable { reason, .. }) => format!("{reason:?}"),
            Err(error) => format!("{error:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn every_known_answer_is_read_for_what_it_means() {
        let link = r#"{"code":200,"msg":"success","data":"https://h/l"}"#;
        let spring = r#"{"timestamp":1,"status":404,"error":"Not Found","message":"m","path":"/x"}"#;
        let unauthorized = r#"{"code":401,"msg":"Unauthorized – Authentication failed."}"#;
        let credits = r#"{"code":500,"msg":"Credits insufficient, please top up","data":null}"#;
        for (status, body, expected) in [
            (200, link, "https://h/l"),
            (201, link, "https://h/l"),
            (200, r#"{"code":"200","data":"https://h/l"}"#, "https://h/l"),
            (200, r#"{"code":200.0,"data":"https://h/l"}"#, "https://h/l"),
            (200, r#"{"code":2e2,"data":"https://h/l"}"#, "https://h/l"),
            (200, r#"{"code":" 200.0 ","data":"https://h/l"}"#, "https://h/l"),
            (200, r#"{"code":422.0,"data":null}"#, "SourceRefused"),
            (200, r#"{"code":200.5,"data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":"200.5","data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":"0xc8","data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":"inf","data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":"NaN","data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":10000,"data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":1e300,"data":"https://h/l"}"#, "OtherShape"),
            (200, "\u{feff}{\"code\":200,\"data\":\"https://h/l\"}", "https://h/l"),
            (200, "\u{feff} {\"code\":422}", "SourceRefused"),
            (200, "\u{feff}", "Empty"),
            (200, " \u{feff}{\"code\":200,\"data\":\"https://h/l\"}", "NotJson"),
            (500, link, "Failed"),
            (302, link, "Redirect"),
            (200, r#"{"code":200,"msg":"success","data":null}"#, "NoLink"),
            (200, r#"{"code":200,"msg":"success"}"#, "NoLink"),
            (200, r#"{"code":200,"data":{"url":"https://h/l"}}"#, "NoLink"),
            (200, r#"{"code":200,"data":7}"#, "NoLink"),
            (200, r#"{"code":422,"msg":"url is wrong","data":null}"#, "SourceRefused"),
            (200, r#"{"code":404,"msg":"no","data":null}"#, "SourceNotFound"),
            (404, r#"{"code":404,"msg":"no","data":null}"#, "SourceNotFound"),
            (404, spring, "OtherShape"),
            (404, "<html>", "OtherShape"),
            (422, "", "OtherShape"),
            (200, unauthorized, "KeyRefused"),
            (401, unauthorized, "KeyRefused"),
            (401, "", "KeyRefused"),
            (403, "error code: 1010", "KeyRefused"),
            (403, r#"{"code":500,"msg":"x"}"#, "KeyRefused"),
            (200, r#"{"code":402,"msg":"x"}"#, "CreditsExhausted"),
            (200, credits, "CreditsExhausted"),
            (200, r#"{"code":500,"msg":"no file https://h/insufficient-credit.png"}"#, "Failed"),
            (200, r#"{"code":599,"msg":"not enough credits"}"#, "CreditsExhausted"),
            (500, r#"{"msg":"not enough credits"}"#, "CreditsExhausted"),
            (400, r#"{"msg":"not enough credits"}"#, "CreditsExhausted"),
            (500, r#"{"code":200,"msg":"not enough credits"}"#, "CreditsExhausted"),
            // Words count where the code says nothing of its own.
            (200, r#"{"code":422,"msg":"The file credits-insufficient-1.png is not one of ours"}"#, "SourceRefused"),
            (200, r#"{"code":404,"msg":"no file credits-insufficient-1.png"}"#, "SourceNotFound"),
            (500, r#"{"code":422,"msg":"no file credits-insufficient-1.png"}"#, "SourceRefused"),
            (200, r#"{"code":455,"msg":"no file credits-insufficient-1.png"}"#, "Maintenance"),
            (200, r#"{"code":451,"msg":"no file credits-insufficient-1.png"}"#, "Failed"),
            (200, r#"{"code":501,"msg":"no file credits-insufficient-1.png"}"#, "Failed"),
            (200, r#"{"code":505,"msg":"no file credits-insufficient-1.png"}"#, "Failed"),
            (200, r#"{"code":499,"msg":"not enough credits"}"#, "Failed"),
            (200, r#"{"code":600,"msg":"not enough credits"}"#, "Failed"),
            (501, r#"{"msg":"not enough credits"}"#, "Failed"),
            (200, r#"{"code":429,"msg":"x","data":null}"#, "RateLimited"),
            (429, "slow down", "RateLimited"),
            (200, r#"{"code":433,"msg":"x"}"#, "RateLimited"),
            (200, r#"{"code":455,"msg":"x"}"#, "Maintenance"),
            (200, r#"{"code":500,"msg":"x"}"#, "Failed"),
            (200, r#"{"code":505,"msg":"x"}"#, "Failed"),
            (200, r#"{"code":0,"msg":"x","data":"https://h/l"}"#, "Failed"),
            (502, "<html>Bad Gateway</html>", "Failed"),
            (200, "<html>", "NotJson"),
            (200, "", "Empty"),
            (200, " \r\n", "Empty"),
            (200, "[1]", "OtherShape"),
            (200, "\"https://h/l\"", "OtherShape"),
            (200, "{}", "OtherShape"),
            (200, r#"{"code":null,"data":"https://h/l"}"#, "OtherShape"),
            (200, r#"{"code":200,"data":"https://h/l""#, "NotJson"),
        ] {
            assert_eq!(kind(answer(status, body)), expected, "{status} {body}");
        }
    }

    #[test]
    fn credits_are_a_number_and_nothing_else_is() {
        for (body, expected) in [
            (r#"{"code":200,"msg":"success","data":5916.25}"#, Ok("5916.25")),
            (r#"{"code":200,"data":100}"#, Ok("100")),
            (r#"{"code":200,"data":0}"#, Ok("0")),
            (r#"{"code":200,"data":-1.5}"#, Ok("-1.5")),
            (r#"{"code":200,"data":" 12.5 "}"#, Ok("12.5")),
            (r#"{"code":200,"data":"many"}"#, Err("NoNumber")),
            (r#"{"code":200,"data":"NaN"}"#, Err("NoNumber")),
            (r#"{"code":200,"data":null}"#, Err("NoNumber")),
            (r#"{"code":200,"data":{"credits":7}}"#, Err("NoNumber")),
            (r#"{"code":200,"data":1e999}"#, Err("NotJson")),
            (r#"{"code":401,"msg":"Unauthorized"}"#, Err("KeyRefused")),
            (r#"{"code":429,"msg":"x","data":null}"#, Err("RateLimited")),
            ("", Err("Empty")),
        ] {
            let raw = Raw { http_status: 200, retry_after: None, body: body.as_bytes() };
            let read = number(&raw, str::to_owned).map(|number| number.to_string());
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(read.map_err(|error| kind(Err(error))), expected, "{body}");
        }
    }

    #[test]
    fn what_passes_carries_its_retry_after_and_what_does_not_does_not() {
        let after = |status, body| match answer_after(Some(3), status, body) {
            Ok(_) => panic!("a link"),
            Err(error) => (error.kind().as_str(), error.retry_after().map(|pause| pause.as_secs())),
        };
        for (status, body, expected) in [
            (429, "", ("rate-limited", Some(3))),
            (503, "<html>", ("upstream-unavailable", Some(3))),
            (502, "", ("upstream-unavailable", Some(3))),
            (500, r#"{"code":500,"msg":"x"}"#, ("upstream-unavailable", Some(3))),
            (200, r#"{"code":500,"msg":"x"}"#, ("upstream-unavailable", Some(3))),
            (200, r#"{"code":455,"msg":"x"}"#, ("upstream-unavailable", Some(3))),
            (200, r#"{"code":505,"msg":"x"}"#, ("upstream-error", None)),
            (501, "", ("upstream-error", None)),
            (200, r#"{"code":422,"msg":"x"}"#, ("source-refused", None)),
            (403, "", ("key-refused", None)),
        ] {
            assert_eq!(after(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn messages_are_made_presentable() {
        let Err(Error::Failed(answer)) = answer(200, r#"{"code":500,"msg":"Bearer KEY is wrong"}"#) else {
            panic!("not failed")
        };
        assert_eq!(answer.message.as_deref(), Some("Bearer [key] is wrong"));
    }

    #[test]
    fn the_name_of_a_callers_file_is_no_word_of_kie_ais() {
        for file in ["credits-insufficient-1.png", "credits%20insufficient.png", "not-enough/credits-not%20enough"] {
            let source = Source::parse(&format!("https://file.kie.ai/s/{file}")).unwrap();
            let name = file.rsplit('/').next().unwrap_or_default();
            for name in [name.to_owned(), name.replace("%20", " "), name.to_uppercase()] {
                let body = format!(r#"{{"code":500,"msg":"cannot read {name}"}}"#);
                let raw = Raw { http_status: 200, retry_after: None, body: body.as_bytes() };
                let result = read(&raw, |text| message::presentable(text, &source, &[]));
                assert_eq!(kind(result), "Failed", "{body}");
            }
        }
    }

    #[test]
    fn a_logged_answer_names_no_address() {
        let Err(error) = answer(200, r#"{"code":500,"msg":"cannot sign https://h/private?X-Amz-Signature=s now"}"#)
        else {
            panic!("an error is no link")
        };
        let shown = error.to_string();
        assert!(shown.contains("cannot sign [url] now") && !shown.contains("Signature"), "{shown}");
    }

    #[test]
    fn only_code_200_under_http_success_yields_a_link() {
        let (good, bad) = (AtomicU32::new(0), AtomicU32::new(0));
        let statuses = prop_oneof![4 => 200u16..300, 1 => 100u16..600];
        let codes = prop_oneof![
            4 => prop::sample::select(vec!["200", "\"200\"", "200.0", "\"200.0\"", "2e2"]).prop_map(|code| (code.to_owned(), true)),
            1 => prop::sample::select(vec!["200.5", "-200", "\"\"", "\"200 OK\"", "null", "true", "[200]", "{\"code\":200}"])
                .prop_map(|code| (code.to_owned(), false)),
            1 => (190i64..210).prop_map(|code| (code.to_string(), code == 200)),
            1 => any::<i64>().prop_map(|code| (code.to_string(), code == 200)),
        ];
        // Any string may stand where the link should: `link` decides about it. What is no string is no link.
        let data = prop_oneof![
            4 => ".{0,20}".prop_map(|text| (Value::from(text), true)),
            1 => prop::sample::select(vec![Value::Null, Value::from(7), serde_json::json!({ "url": "https://h/" })])
                .prop_map(|value| (value, false)),
        ];
        proptest!(|(status in statuses, (code, is_200) in codes, (data, is_text) in data)| {
            let body = format!(r#"{{"code":{code},"msg":"m","data":{data}}}"#);
            let is_good = is_200 && is_text && (200..300).contains(&status);
            let count = if is_good { &good } else { &bad };
            count.fetch_add(1, Ordering::Relaxed);
            let link = answer(status, &body).ok();
            prop_assert_eq!(link.as_deref(), data.as_str().filter(|_| is_good), "{} {}", status, body);
        });
        // Of 256; else the generator has lost its way.
        let (good, bad) = (good.into_inner(), bad.into_inner());
        assert!(good >= 40 && bad >= 40, "{good} good, {bad} bad");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let raw = Raw { http_status: status, retry_after: None, body: &body };
            let _ = read(&raw, str::to_owned);
        }
    }
}
