//! The answers one can ask the fake for: what kie.ai is documented, known or feared to say.

use serde_json::{Value, json};

use super::answer::{Answer, Content, Manner};

impl Answer {
    /// Code 200 with a new R2-style link that lives 20 min.
    pub(crate) fn link() -> Self {
        Self::new(Content::Link { padded_to_bytes: 0 }, Manner::Whole)
    }

    /// Code 200 with this string as `data`, whatever it is.
    pub(crate) fn link_is(link: impl Into<String>) -> Self {
        Self::new(Content::LinkIs(link.into()), Manner::Whole)
    }

    /// Code 200 with this value as `data`.
    pub(crate) fn data(data: Value) -> Self {
        Self::json(json!({"code": 200, "msg": "success", "data": data}))
    }

    /// HTTP 200 with kie's own code in the body, as most errors come.
    pub(crate) fn envelope(code: i64, msg: &str) -> Self {
        Self::json(json!({"code": code, "msg": msg, "data": null}))
    }

    /// The 401 of a wrong key: HTTP 200, and no `data` at all.
    pub(crate) fn unauthorized() -> Self {
        let msg = "Unauthorized – Authentication failed. Please check your API key.";
        Self::json(json!({"code": 401, "msg": msg}))
    }

    pub(crate) fn too_frequent() -> Self {
        Self::envelope(429, "Your call frequency is too high. Please try again later.")
    }

    /// What Spring says of a path it does not know.
    pub(crate) fn spring_404() -> Self {
        Self::spring_404_at(super::MINT_PATH)
    }

    pub(super) fn spring_404_at(path: &str) -> Self {
        let body = json!({
            "timestamp": "2025-04-15T10:10:07.000+00:00", "status": 404, "error": "Not Found",
            "message": "No message available", "path": path,
        });
        Self::json(body).http_status(404)
    }

    /// A gateway's own page.
    pub(crate) fn html(status: u16) -> Self {
        let page = format!("<html>\r\n<head><title>{status}</title></head>\r\n<body>cloudflare</body>\r\n</html>\r\n");
        Self::body(page).http_status(status).with_header("content-type", "text/html")
    }

    /// What Cloudflare says to a client whose User-Agent is missing or banned.
    pub(crate) fn banned() -> Self {
        Self::body("error code: 1010").http_status(403).with_header("content-type", "text/plain; charset=UTF-8")
    }

    /// HTTP 200 without a body.
    pub(crate) fn empty() -> Self {
        Self::body("")
    }

    /// HTTP 200 with this body, in kie's usual head.
    pub(crate) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::new(Content::Bytes(body.into()), Manner::Whole)
    }

    /// 307, which asks the client to send everything, the key included, to `url`.
    pub(crate) fn redirect(url: &str) -> Self {
        Self::empty().http_status(307).with_header("location", url)
    }

    /// The key that was received in `msg`, in a link as `data`, and in a header.
    pub(crate) fn echo_key(code: i64) -> Self {
        Self::new(Content::EchoKey { code }, Manner::Whole)
    }

    /// A good link in valid JSON of this many bytes.
    pub(crate) fn big(bytes: usize) -> Self {
        Self::new(Content::Link { padded_to_bytes: bytes }, Manner::Whole)
    }

    /// A good link in valid JSON: 256 MiB, in some 300 KB of gzip.
    pub(crate) fn gzip_bomb() -> Self {
        Self::new(Content::GzipBomb, Manner::Whole).with_header("content-encoding", "gzip")
    }

    /// A good link under 5,000 headers.
    pub(crate) fn thousands_of_headers() -> Self {
        (0..5000).fold(Self::link(), |answer, n| answer.with_header(&format!("x-filler-{n}"), "filler"))
    }

    /// These bytes on the wire, then the end of the connection.
    pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Content::Bytes(bytes.into()), Manner::Raw)
    }

    /// These bytes on the wire; the connection stays open.
    pub(crate) fn raw_then_keep(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Content::Bytes(bytes.into()), Manner::RawThenKeep)
    }

    /// A good head at once, then one byte of the body a second.
    pub(crate) fn drip() -> Self {
        Self { manner: Manner::Drip, ..Self::link() }
    }

    /// A good head, then whitespace until the peer closes.
    pub(crate) fn endless() -> Self {
        Self { manner: Manner::Endless, ..Self::empty() }
    }

    /// Nothing, until the peer closes.
    pub(crate) fn hang() -> Self {
        Self { manner: Manner::Hang, ..Self::empty() }
    }

    /// A TCP reset instead of an answer.
    pub(crate) fn reset() -> Self {
        Self { manner: Manner::Reset, ..Self::empty() }
    }

    /// The end of the connection instead of an answer.
    pub(crate) fn close() -> Self {
        Self { manner: Manner::Close, ..Self::empty() }
    }
}
