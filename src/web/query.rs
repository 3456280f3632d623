//! The caller's query and body: exactly one source URL, perhaps with a task, or a sentence that says what is wrong. Pure.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Deserialize;

use super::problem::{Kind, Problem};
use crate::source::{AllowList, Invalid, Source, octet};

const HINT: &str = "Percent-encode the source URL: ?url=https%3A%2F%2Fhost%2Fpath%3Fa%3D1%26b%3D2";

/// What a caller asks for, in its own spelling.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked<'a> {
    pub(crate) url: Cow<'a, str>,
    /// Where the file is asked of kie.ai's 4o image API.
    pub(crate) task: Option<Cow<'a, str>>,
}

impl Asked<'_> {
    pub(crate) fn into_owned(self) -> Asked<'static> {
        let Asked { url, task } = self;
        Asked { url: Cow::Owned(url.into_owned()), task: task.map(|task| Cow::Owned(task.into_owned())) }
    }

    pub(crate) fn source(&self) -> Result<Source, Problem> {
        let unusable =
            |why: Invalid| Problem::refused(Kind::InvalidSourceUrl, format!("The source URL cannot be used: {why}."));
        let source = Source::parse(&self.url).map_err(unusable)?;
        let Some(task) = &self.task else { return Ok(source) };
        source.of_task(task).map_err(|why| malformed(format!("The task ID cannot be used: {why}.")))
    }

    /// One that links may be asked for.
    pub(crate) fn allowed(&self, allow: &AllowList) -> Result<Source, Problem> {
        let source = self.source()?;
        if allow.allows(&source) {
            return Ok(source);
        }
        let detail = format!("The host {} is not among sources.allow of this kielink.", source.host());
        Err(Problem::refused(Kind::SourceNotAllowed, detail).about(&source))
    }
}

impl<'a> From<Cow<'a, str>> for Asked<'a> {
    fn from(url: Cow<'a, str>) -> Asked<'a> {
        Asked { url, task: None }
    }
}

/// The parameters `url` and, where it is there, `task_id` of a query. A bare `+` is refused: form encoders mean a space
/// by it, all others a plus, and the wrong reading would ask for another file without a word.
pub(crate) fn asked(query: Option<&str>) -> Result<Asked<'_>, Problem> {
    // The usual query, in one look.
    if let Some(value) = query.and_then(|query| query.strip_prefix("url="))
        && memchr2(b'&', b'+', value.as_bytes()).is_none()
    {
        return decode(value).map(Asked::from);
    }
    let (mut url, mut task) = (None, None);
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, found) = match &*decode(name)? {
            "url" => ("url", &mut url),
            // As kie.ai spells it, too.
            "task_id" | "taskId" => ("task_id", &mut task),
            // `?url=https://h/p?a=1&b=2` must not silently lose `b`.
            _ => return Err(malformed(format!("The query has a parameter besides `url` and `task_id`. {HINT}"))),
        };
        if value.contains('+') {
            return Err(malformed(format!(
                "The query has a bare `+`, by which form encoders mean a space. Write a plus as %2B, and a space, in the \
                 source URL itself, as %20. {HINT}"
            )));
        }
        if found.replace(decode(value)?).is_some() {
            return Err(malformed(format!("The query has `{name}` more than once. {HINT}")));
        }
    }
    let url = url.ok_or_else(|| malformed(format!("The query lacks the parameter `url`. {HINT}")))?;
    Ok(Asked { url, task })
}

/// A source URL as `asked` wants it: everything but unreserved characters is encoded.
pub(crate) fn encoded(source: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(source, RESERVED).to_string()
}

/// The field `url` of kie.ai's own request body. Other fields are ignored, as kie.ai does.
pub(crate) fn source_field(body: &[u8]) -> Result<Cow<'_, str>, Problem> {
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        url: Option<Text<'a>>,
    }
    if let Some(url) = usual_field(body) {
        return Ok(Cow::Borrowed(url));
    }
    let request: Request<'_> =
        json(body).map_err(|what| malformed(format!("The body {what}. Send {{\"url\": \"https://…\"}}.")))?;
    request
        .url
        .map(|Text(url)| url)
        .ok_or_else(|| malformed("The body lacks the field `url`. Send {\"url\": \"https://…\"}."))
}

/// A text of a body. Where nothing in it is escaped, it is not copied.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A source URL and a task, each where it is there: what kie.ai's 4o image API is asked, and an item of a batch. Other
/// fields are ignored.
#[derive(Deserialize)]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    url: Option<Text<'a>>,
    #[serde(borrow, alias = "taskId")]
    task_id: Option<Text<'a>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn url(&self) -> Option<&str> {
        self.url.as_ref().map(|Text(url)| &**url)
    }

    pub(crate) fn task(&self) -> Option<&str> {
        self.task_id.as_ref().map(|Text(task)| &**task)
    }
}

/// The body of a request of kie.ai's 4o image API.
pub(crate) fn task_fields(body: &[u8]) -> Result<Asked<'_>, Problem> {
    const SEND: &str = "Send {\"taskId\": \"…\", \"url\": \"https://…\"}.";
    let lacks = |field| malformed(format!("The body lacks the field `{field}`. {SEND}"));
    let Fields { url, task_id } = json(body).map_err(|what| malformed(format!("The body {what}. {SEND}")))?;
    let Text(url) = url.ok_or_else(|| lacks("url"))?;
    let Text(task) = task_id.ok_or_else(|| lacks("taskId"))?;
    Ok(Asked { url, task: Some(task) })
}

/// The usual body, in one look: `url` and nothing else, with nothing escaped. `None` says nothing.
fn usual_field(body: &[u8]) -> Option<&str> {
    let value = body.strip_prefix(b"{\"url\":")?;
    let value = value.strip_prefix(b" ").unwrap_or(value).strip_prefix(b"\"")?.strip_suffix(b"\"}")?;
    // Without a way out before the end, so that many bytes are looked at together.
    let has_control = value.iter().fold(false, |found, byte| found | (*byte < b' '));
    if has_control || memchr2(b'"', b'\\', value).is_some() {
        return None;
    }
    std::str::from_utf8(value).ok()
}

/// A body of JSON, or what is wrong with it: "is empty", "is not valid JSON (line 1, column 7)".
pub(crate) fn json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    // A byte order mark, which editors and PowerShell put in front (RFC 8259 section 8.1 lets readers pass over it).
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.is_empty() {
        return Err("is empty".to_owned());
    }
    let value = serde_json::from_slice(body).map_err(|why| {
        let what = match why.classify() {
            serde_json::error::Category::Data => "has another shape",
            _ => "is not valid JSON",
        };
        format!("{what} (line {}, column {})", why.line(), why.column())
    })?;
    // To serde, `["https://…"]` is as good a struct as `{"url": "https://…"}`.
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err("is no object".to_owned());
    }
    Ok(value)
}

/// Percent-decodes. The usual text by itself, because the library's own way looks at each byte, and this is done for each hit.
fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    let Some(first) = memchr(b'%', text.as_bytes()) else { return Ok(Cow::Borrowed(text)) };
    if let Some(decoded) = decode_ascii(text, first) {
        return Ok(Cow::Owned(decoded));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| malformed("The query is not UTF-8 once percent-decoded."))
}

/// The same, where all escapes are of ASCII and the first of them is at `at`; `None` where one is not, or is no escape.
fn decode_ascii(text: &str, mut at: usize) -> Option<String> {
    let bytes = text.as_bytes();
    let mut decoded = String::with_capacity(text.len());
    decoded.push_str(&text[..at]);
    loop {
        // Escapes often stand side by side (`%3A%2F%2F`): no search is needed between them.
        while bytes.get(at) == Some(&b'%') {
            let byte = octet(bytes.get(at + 1..at + 3)?).filter(u8::is_ascii)?;
            decoded.push(char::from(byte));
            at += 3;
        }
        let rest = &text[at..];
        let Some(next) = memchr(b'%', rest.as_bytes()) else {
            decoded.push_str(rest);
            return Some(decoded);
        };
        decoded.push_str(&rest[..next]);
        at += next;
    }
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::refused(Kind::MalformedRequest, detail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_url_is_taken_as_it_was_meant() {
        for (query, source) in [
            ("url=https%3A%2F%2Fh%2Fp%3Fa%3D1%26b%3D2", "https://h/p?a=1&b=2"),
            ("url=https://h/p?a=1", "https://h/p?a=1"),
            ("url=https://h/a%2Bb", "https://h/a+b"),
            ("url=https://h/a%252Bb", "https://h/a%2Bb"),
            ("url=https://h/a%20b", "https://h/a b"),
            ("&url=https://h/&", "https://h/"),
            ("%75rl=https://h/", "https://h/"),
            ("url=", ""),
        ] {
            let expected = Asked { url: source.into(), task: None };
            assert_eq!(asked(Some(query)).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn a_task_may_stand_beside_it_anywhere() {
        for (query, task) in [
            ("url=https://h/&task_id=task12345", "task12345"),
            ("task_id=task12345&url=https://h/", "task12345"),
            ("url=https%3A%2F%2Fh%2F&taskId=a%2Bb%26c", "a+b&c"),
            ("url=https://h/&task_id=", ""),
        ] {
            let expected = Asked { url: "https://h/".into(), task: Some(task.into()) };
            assert_eq!(asked(Some(query)).unwrap(), expected, "{query}");
        }
    }

    #[test]
    fn a_task_is_checked_and_makes_another_source() {
        let of = |task: &str| Asked { url: "https://h/".into(), task: Some(task.into()) }.source();
        assert_eq!(of("task12345").unwrap().task(), Some("task12345"));
        for task in ["", "a b", "a\n", "\u{e9}", &"t".repeat(257)] {
            let problem = of(task).unwrap_err();
            assert_eq!(problem.kind, Kind::MalformedRequest, "{task:?}");
            assert_eq!(problem.detail, "The task ID cannot be used: it is not 1 to 256 visible ASCII characters.");
        }
        let neither = Asked { url: "h".into(), task: Some("".into()) };
        assert_eq!(neither.source().unwrap_err().kind, Kind::InvalidSourceUrl, "one thing at a time");
    }

    proptest! {
        #[test]
        fn percents_are_decoded_as_everybody_does(text in "(%[0-9a-fA-F]{0,2}|[a-z%]|[\\PC]){0,12}") {
            let decoded = decode(&text).ok();
            let expected = percent_encoding::percent_decode_str(&text).decode_utf8().ok();
            prop_assert_eq!(decoded, expected);
        }
    }

    #[test]
    fn anything_else_is_refused_with_a_hint() {
        for query in [
            None,
            Some(""),
            Some("a=1"),
            Some("url=https://h/p?a=1&b=2"),
            Some("url=a&url=b"),
            Some("url=%ff"),
            Some("url=https://h/a+b"),
            Some("url=https%3A%2F%2Fh%2Fa+b"),
            Some("url=+"),
            Some("u+l=https://h/"),
            Some("task_id=task12345"),
            Some("url=a&task_id=b&task_id=c"),
            Some("url=a&task_id=b&taskId=c"),
            Some("url=a&task_id=b+c"),
            Some("url=a&task=b"),
        ] {
            let problem = asked(query).unwrap_err();
            assert_eq!(problem.kind, Kind::MalformedRequest, "{query:?}");
            assert!(problem.detail.contains("ercent-"), "{query:?}: {}", problem.detail);
        }
    }

    #[test]
    fn a_bare_plus_is_refused_telling_what_to_write_for_it() {
        let detail = asked(Some("url=https%3A%2F%2Fh%2Fa+b")).unwrap_err().detail;
        assert!(detail.contains("%2B") && detail.contains("%20"), "{detail}");
    }

    proptest! {
        #[test]
        fn the_usual_body_is_read_as_any_other(
            begin in "(\\{\"url\": ?\"|[ {\"url:]{0,8})",
            value in "([a-z:/]{0,9}|[\"\\\\\\x00-\\x1f\\x7f\u{e9}])*",
            end in "(\"\\}|[\" }]{0,3})",
        ) {
            let body = format!("{begin}{value}{end}");
            if let Some(url) = usual_field(body.as_bytes()) {
                let whole: serde_json::Value = serde_json::from_str(&body).unwrap();
                prop_assert_eq!(whole, serde_json::json!({ "url": url }));
            }
        }
    }

    #[test]
    fn bodies_of_any_other_shape_are_refused() {
        for body in [
            r#"{"url":"https://h/a+b"}"#,
            r#"{"url": "https://h/a+b"}"#,
            r#"{"url":"https://h/a+b","x":1}"#,
            "\u{feff}{\"url\":\"https://h/a+b\"}",
            "\u{feff} {\"url\":\"https://h/a+b\"}",
        ] {
            assert_eq!(source_field(body.as_bytes()).unwrap(), "https://h/a+b");
        }
        for body in [
            "\u{feff}",
            "\u{feff}\u{feff}{\"url\":\"a\"}",
            " \u{feff}{\"url\":\"a\"}",
            "",
            "{",
            "[]",
            "[\"https://h/\"]",
            "null",
            "\"https://h/\"",
            "{}",
            r#"{"url":1}"#,
            r#"{"url":null}"#,
            r#"{"musicId":"m"}"#,
            r#"{"imageUrl":"https://h/"}"#,
            r#"{"url":"a","url":"b"}"#,
            "{\"url\":\"a\"} x",
        ] {
            let problem = source_field(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind, Kind::MalformedRequest, "{body}");
        }
        assert!(source_field(b"{\"url\":\"\xff\"}").is_err());
    }

    #[test]
    fn the_4o_image_api_s_body_has_both_fields() {
        let expected = Asked { url: "https://h/a+b".into(), task: Some("t\"1".into()) };
        for body in [
            r#"{"taskId":"t\"1","url":"https://h/a+b"}"#,
            r#" {"url":"https://h/a+b", "x": [1], "taskId":"t\u00221"}"#,
            "\u{feff}{\"taskId\":\"t\\\"1\",\"url\":\"https://h/a+b\"}",
        ] {
            assert_eq!(task_fields(body.as_bytes()).unwrap(), expected, "{body}");
        }
        for (body, what) in [
            ("", "is empty"),
            ("{", "not valid JSON"),
            ("[]", "has another shape"),
            (r#"["https://h/","t"]"#, "is no object"),
            (r#"{"taskId":"t","imageUrl":"https://h/"}"#, "lacks the field `url`"),
            (r#"{"url":"https://h/"}"#, "lacks the field `taskId`"),
            (r#"{"url":"https://h/","taskId":null}"#, "lacks the field `taskId`"),
            (r#"{"url":"https://h/","taskId":7}"#, "has another shape"),
        ] {
            let problem = task_fields(body.as_bytes()).unwrap_err();
            assert_eq!(problem.kind, Kind::MalformedRequest, "{body}");
            assert!(problem.detail.contains(what) && problem.detail.contains("taskId"), "{body}: {}", problem.detail);
        }
    }
}
