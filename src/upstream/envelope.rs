//! kie.ai's answers, read. Pure.
//!
//! kie.ai mostly says HTTP 200 and puts the real code into the body; gateways in front of it say HTTP 5xx with
//! HTML. Content-Type is sometimes missing, so the body alone decides.

use std::time::Duration;

use serde_json::Value;

use super::error::{Answer, BadAnswer, Error};

/// An answer as it came, body and two headers.
pub(crate) struct Raw<'a> {
    pub(crate) http_status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: &'a [u8],
}

/// The text that stands where the link should, or why there is none. `present` makes messages fit to be shown.
pub(crate) fn read(raw: &Raw<'_>, present: impl Fn(&str) -> String) -> Result<String, Error> {
    let parsed = parse(raw.body);
    let (code, message) = match &parsed {
        Ok(envelope) => (envelope.code, envelope.message.as_deref().map(&present)),
        Err(_) => (None, None),
    };
    let answer = Answer { http_status: raw.http_status, code, message };
    let success = (200..300).contains(&raw.http_status);

    // A redirect is refused before its body is believed: no key and no trust goes elsewhere.
    if (300..400).contains(&raw.http_status) {
        return Err(Error::Unusable { reason: BadAnswer::Redirect, answer });
    }
    match parsed {
        Ok(Envelope { code: Some(200), data, .. }) if success => match data {
            Value::String(link) => Ok(link),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(Error::Unusable { reason: BadAnswer::NoLink, answer })
            }
        },
        Ok(Envelope { code: Some(code), .. }) if code != 200 => Err(refusal(code, answer, raw.retry_after)),
        // No envelope, or one that says 200 under an HTTP error: the HTTP status speaks. Its 404 and 422 are not
        // about the file (an unknown path is a wrong base_url), so they are no reason to remember a refusal.
        Ok(_) | Err(_) if !success => Err(match raw.http_status {
            404 | 422 => Error::Unusable { reason: BadAnswer::OtherShape, answer },
            status => refusal(i64::from(status), answer, raw.retry_after),
        }),
        Ok(_) => Err(Error::Unusable { reason: BadAnswer::OtherShape, answer }),
        Err(reason) => Err(Error::Unusable { reason, answer }),
    }
}

/// What a code other than 200 means (kie.ai's documentation; 433 is its sub-key limit).
fn refusal(code: i64, answer: Answer, retry_after: Option<Duration>) -> Error {
    // One recording shows "Credits insufficient" under code 500.
    let out_of_credits = answer.message.as_deref().is_some_and(|message| {
        // Not in an address, which may be a caller's.
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
        455 => Error::Maintenance(answer),
        _ if answer.http_status == 429 => Error::RateLimited { answer, retry_after },
        _ => Error::Failed(answer),
    }
}

struct Envelope {
    code: Option<i64>,
    message: Option<String>,
    data: Value,
}

fn parse(body: &[u8]) -> Result<Envelope, BadAnswer> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(BadAnswer::Empty);
    }
    let value: Value = serde_json::from_slice(body).map_err(|_| BadAnswer::NotJson)?;
    let Value::Object(mut object) = value else {
        return Err(BadAnswer::OtherShape);
    };
    let code = object.get("code").and_then(|code| match code {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    // What is no code of kie.ai's may be anything: a key of digits among it.
    let code = code.filter(|code| (-9_999..10_000).contains(code));
    let message = object.get("msg").and_then(Value::as_str).map(str::to_owned);
    Ok(Envelope { code, message, data: object.remove("data").unwrap_or(Value::Null) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(http_status: u16, body: &str) -> Result<String, Error> {
        let raw = Raw { http_status, retry_after: Some(Duration::from_secs(3)), body: body.as_bytes() };
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
    fn a_rate_limit_carries_its_retry_after() {
        let Err(Error::RateLimited { retry_after, .. }) = answer(429, "") else { panic!("not rate limited") };
        assert_eq!(retry_after, Some(Duration::from_secs(3)));
    }

    #[test]
    fn messages_are_made_presentable() {
        let Err(Error::Failed(answer)) = answer(200, r#"{"code":500,"msg":"Bearer KEY is wrong"}"#) else {
            panic!("not failed")
        };
        assert_eq!(answer.message.as_deref(), Some("Bearer [key] is wrong"));
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

    proptest! {
        #[test]
        fn only_code_200_under_http_success_yields_a_link(status in 100u16..600, code in any::<i64>(), data in ".{0,20}") {
            let body = serde_json::json!({ "code": code, "msg": "m", "data": data }).to_string();
            let good = code == 200 && (200..300).contains(&status);
            prop_assert_eq!(answer(status, &body).is_ok(), good);
        }

        #[test]
        fn no_body_makes_it_panic(status in 100u16..600, body in prop::collection::vec(any::<u8>(), 0..200)) {
            let raw = Raw { http_status: status, retry_after: None, body: &body };
            let _ = read(&raw, str::to_owned);
        }
    }
}
