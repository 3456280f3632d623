//! The answers one can ask for: what kie.ai is documented, known or feared to say.

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Content, Envelope, Manner};

impl Answer {
    /// Code 200 with a new R2-style link that lives 20 min.
    pub fn link() -> Self {
        Self::new(Content::Link { padded_to_bytes: 0 }, Manner::Whole)
    }

    /// Code 200 with this string as `data`, whatever it is.
    pub fn link_is(link: impl Into<String>) -> Self {
        Self::new(Content::LinkIs(link.into()), Manner::Whole)
    }

    /// Code 200 with this value as `data`.
    pub fn data(data: Value) -> Self {
        Self::new(Content::Envelope(Envelope::success(data)), Manner::Whole)
    }

    /// The documentation says that it is an integer; real values have decimals.
    pub fn credits(left: f64) -> Self {
        Self::data(json!(left))
    }

    /// HTTP 200 with kie's own code in the body, as most errors come.
    pub fn envelope(code: i64, msg: &str) -> Self {
        let envelope = Envelope { code, msg: msg.to_owned(), data: Some(Value::Null) };
        Self::new(Content::Envelope(envelope), Manner::Whole)
    }

    /// As `envelope`, in kie's words for that code.
    pub fn code(code: i64) -> Self {
        match code {
            200 => Self::link(),
            401 => Self::unauthorized(),
            402 => Self::envelope(402, "Credits insufficient"),
            404 => Self::envelope(404, "not found"),
            422 => Self::envelope(422, "url is wrong"),
            429 => Self::too_frequent(),
            433 => Self::envelope(433, "The limit of this sub-key is used up"),
            455 => Self::envelope(455, "The service is under maintenance"),
            500 => Self::envelope(500, "Server exception, please try again later"),
            505 => Self::envelope(505, "This feature is disabled"),
            _ => Self::envelope(code, "refused"),
        }
    }

    /// A 402 as it once came.
    pub fn credits_insufficient() -> Self {
        Self::envelope(500, "Credits insufficient: your current balance isn't enough to run this request.")
    }

    /// The 401 of a wrong key: HTTP 200, and no `data` at all.
    pub fn unauthorized() -> Self {
        let msg = "Unauthorized – Authentication failed. Please check your API key.".to_owned();
        Self::new(Content::Envelope(Envelope { code: 401, msg, data: None }), Manner::Whole)
    }

    pub fn too_frequent() -> Self {
        Self::envelope(429, "Your call frequency is too high. Please try again later.")
    }

    /// What Spring says of a path it does not know.
    pub fn spring_404() -> Self {
        Self::new(Content::Spring, Manner::Whole).http_status(404)
    }

    /// What Spring says of a path that it knows but that was asked with another method.
    pub(super) fn spring_405(allow: &str) -> Self {
        Self::new(Content::Spring, Manner::Whole).http_status(405).with_header("Allow", allow)
    }

    /// A gateway's own page.
    pub fn html(status: u16) -> Self {
        let page = format!("<html>\r\n<head><title>{status}</title></head>\r\n<body>cloudflare</body>\r\n</html>\r\n");
        Self::body(page).http_status(status).with_header("content-type", "text/html").without_header("set-cookie")
    }

    /// What Cloudflare says to a client whose User-Agent is missing or banned.
    pub fn banned() -> Self {
        let answer = Self::body("error code: 1010").http_status(403).without_header("set-cookie");
        answer.with_header("content-type", "text/plain; charset=UTF-8")
    }

    /// A gateway's status and nothing else.
    pub fn bare(status: u16) -> Self {
        // With a length, since some statuses have no body to cut into chunks (RFC 9110, section 6.4.1).
        let answer = Self::empty().http_status(status).with_header("Content-Length", "0");
        answer.without_content_type().without_header("set-cookie")
    }

    /// HTTP 200 without a body.
    pub fn empty() -> Self {
        Self::body("")
    }

    /// HTTP 200 with this body, in kie's usual head.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::new(Content::Bytes(Bytes::from(body.into())), Manner::Whole)
    }

    /// 307, which asks the client to send everything, the key included, to `url`.
    pub fn redirect(url: &str) -> Self {
        Self::empty().http_status(307).with_header("location", url)
    }

    /// The key that was received in `msg`, in a link as `data`, and in a header.
    pub fn echo_key(code: i64) -> Self {
        Self::new(Content::EchoKey { code }, Manner::Whole)
    }

    /// A good link in valid JSON of this many bytes.
    pub fn big(bytes: usize) -> Self {
        Self::new(Content::Link { padded_to_bytes: bytes }, Manner::Whole)
    }

    /// A good link in valid JSON: 256 MiB, in some 300 KB of gzip.
    pub fn gzip_bomb() -> Self {
        Self::new(Content::GzipBomb, Manner::Whole).with_header("content-encoding", "gzip")
    }

    /// A good link under 5,000 headers.
    pub fn thousands_of_headers() -> Self {
        (0..5000).fold(Self::link(), |answer, n| answer.with_header(&format!("x-filler-{n}"), "filler"))
    }

    /// These bytes on the wire, then the end of the connection.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { manner: Manner::Raw, ..Self::body(bytes) }
    }

    /// These bytes on the wire; the connection stays open.
    pub fn raw_then_keep(bytes: impl Into<Vec<u8>>) -> Self {
        Self { manner: Manner::RawThenKeep, ..Self::body(bytes) }
    }

    /// A good head at once, then one byte of the body a second.
    pub fn drip() -> Self {
        Self { manner: Manner::Drip, ..Self::link() }
    }

    /// A good head, then whitespace until the peer closes.
    pub fn endless() -> Self {
        Self { manner: Manner::Endless, ..Self::empty() }
    }

    /// Nothing, until the peer closes.
    pub fn hang() -> Self {
        Self { manner: Manner::Hang, ..Self::empty() }
    }

    /// A TCP reset instead of an answer.
    pub fn reset() -> Self {
        Self { manner: Manner::Reset, ..Self::empty() }
    }

    /// The end of the connection instead of an answer.
    pub fn close() -> Self {
        Self { manner: Manner::Close, ..Self::empty() }
    }
}
