//! What callers are promised of a problem, in both forms: as one table and one list of checks.

use serde_json::{Value, json};

use super::Reply;

/// One expected problem.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    slug: &'static str,
    cache_status: String,
    /// kie.ai's own code and message, where it gave them.
    kie: Option<(i64, Option<String>)>,
}

impl Problem {
    /// Answered without kie.ai.
    pub(crate) fn refused(slug: &'static str) -> Problem {
        Problem::new(slug, format!("kielink; fwd=bypass; detail={slug}"))
    }

    /// kie.ai was asked; it answered with this HTTP status, if at all.
    pub(crate) fn error(slug: &'static str, fwd_status: Option<u16>) -> Problem {
        let fwd_status = fwd_status.map(|status| format!("; fwd-status={status}")).unwrap_or_default();
        Problem::new(slug, format!("kielink; fwd=miss{fwd_status}; detail={slug}"))
    }

    /// A refusal of kie.ai that kielink remembers.
    pub(crate) fn negative(slug: &'static str) -> Problem {
        Problem::new(slug, "kielink; hit; detail=negative".to_owned())
    }

    fn new(slug: &'static str, cache_status: String) -> Problem {
        Problem { slug, cache_status, kie: None }
    }

    /// kie.ai's envelope had this code, and nothing to be repeated besides.
    pub(crate) fn code(self, code: i64) -> Problem {
        let kie = Some((code, None));
        Problem { kie, ..self }
    }

    pub(crate) fn says(self, code: i64, message: impl Into<String>) -> Problem {
        let kie = Some((code, Some(message.into())));
        Problem { kie, ..self }
    }

    /// kie.ai has said so a moment ago, and was not asked again.
    pub(crate) fn recalled(self) -> Problem {
        let cache_status = format!("kielink; fwd=miss; detail={}", self.slug);
        Problem { cache_status, ..self }
    }

    /// Checks the form of `/v1/` and that of `/api/`, and that the two agree.
    pub(crate) fn assert_told(&self, what: &str, document: &Reply, envelope: &Reply) {
        let title = self.assert_document(what, document);
        let message = self.assert_envelope(what, envelope);
        if self.own_message().is_none() {
            let detail = document.json()["detail"].as_str().unwrap().to_owned();
            let said = message.strip_prefix(&format!("{title}: "));
            assert!(said.is_some_and(|said| !said.is_empty()), "{what}: {message:?} is no title and detail: {detail}");
        }
    }

    /// Returns the title.
    pub(crate) fn assert_document(&self, what: &str, reply: &Reply) -> String {
        self.assert_headers(what, reply, self.status());
        assert_eq!(reply.header("content-type"), "application/problem+json", "{what}");
        let document = reply.json();
        let mut names: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
        names.retain(|name| *name != "upstream_code");
        assert_eq!(names, ["type", "title", "status", "detail", "request_id"], "{what}");
        assert_eq!(document["type"], format!("urn:kielink:problem:{}", self.slug), "{what}");
        assert_eq!(document["status"], reply.status, "{what}");
        assert_eq!(document["request_id"], reply.header("x-request-id"), "{what}");
        let code = self.kie.as_ref().map(|(code, _)| json!(code));
        assert_eq!(document.get("upstream_code"), code.as_ref(), "{what}");
        for name in ["title", "detail"] {
            assert!(document[name].as_str().is_some_and(|text| text.len() > 5), "{what}: {document}");
        }
        document["title"].as_str().unwrap().to_owned()
    }

    /// Returns the message.
    pub(crate) fn assert_envelope(&self, what: &str, reply: &Reply) -> String {
        self.assert_headers(what, reply, self.compat_status());
        assert_eq!(reply.header("content-type"), "application/json", "{what}");
        let challenge = if self.compat_status() == 401 { "Bearer realm=\"kie.ai\"" } else { "" };
        assert_eq!(reply.header("www-authenticate"), challenge, "{what}");
        let envelope = reply.json();
        let message = envelope["msg"].as_str().unwrap_or_default().to_owned();
        let code = match &self.kie {
            // A code of 200 would be taken for success by those who test only that.
            Some((code, _)) if *code != 200 => *code,
            Some(_) | None => i64::from(self.compat_status()),
        };
        assert_eq!(envelope, json!({"code": code, "msg": message, "data": Value::Null}), "{what}");
        match self.own_message() {
            Some(own) => assert_eq!(message, own, "{what}"),
            None => assert!(!message.is_empty(), "{what}"),
        }
        message
    }

    fn own_message(&self) -> Option<&str> {
        self.kie.as_ref().and_then(|(_, message)| message.as_deref())
    }

    /// What every problem has, whatever its form; also that of a HEAD.
    pub(crate) fn assert_head(&self, what: &str, reply: &Reply) {
        self.assert_headers(what, reply, self.status());
    }

    fn assert_headers(&self, what: &str, reply: &Reply, status: u16) {
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        assert_eq!(reply.header("cache-status"), self.cache_status, "{what}");
        assert_eq!(reply.header("cache-control"), "no-store", "{what}");
        assert!(!reply.header("x-request-id").is_empty(), "{what}");
        assert_eq!(reply.header("access-control-allow-origin"), "", "{what}");
        for name in ["age", "location", "set-cookie"] {
            assert_eq!(reply.header(name), "", "{what}: {name}");
        }
        if matches!(reply.status, 429 | 503) {
            let seconds = reply.header("retry-after").parse::<u64>();
            assert!(seconds.is_ok_and(|seconds| seconds >= 1), "{what}: {reply:?}");
        }
    }

    /// Under `/api/`.
    fn compat_status(&self) -> u16 {
        match self.slug {
            "key-refused" => 401,
            "credits-exhausted" => 402,
            _ => self.status(),
        }
    }

    fn status(&self) -> u16 {
        match self.slug {
            "malformed-request" => 400,
            "cross-site" => 403,
            "source-not-found" | "not-found" => 404,
            "method-not-allowed" => 405,
            "body-too-large" => 413,
            "uri-too-long" => 414,
            "misdirected" => 421,
            "head-too-large" => 431,
            "invalid-source-url" | "source-not-allowed" | "source-refused" => 422,
            "rate-limited" => 429,
            "key-refused" | "credits-exhausted" | "upstream-error" | "upstream-unreachable" => 502,
            "upstream-unavailable" | "overloaded" => 503,
            "timeout" | "not-cached" => 504,
            slug => panic!("{slug} is no published problem"),
        }
    }
}
