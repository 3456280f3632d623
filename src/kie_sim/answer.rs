//! What is to be answered: a value to build, to clone and to script. It knows neither sockets nor requests. `canned`
//! has the constructors, `words` reads an answer from a line of text, `render` turns it into bytes, `connection` sends
//! them.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

/// One answer, good or bad. Start with a constructor, refine with the modifiers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub(super) content: Content,
    pub(super) manner: Manner,
    pub(super) head: Head,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) left_out: Vec<String>,
    pub(super) gzip: bool,
    pub(super) latency: Duration,
    pub(super) link: Wish,
    pub(super) clock_off_seconds: i64,
    pub(super) date_off_seconds: i64,
}

/// What the body says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// A link in a good envelope; the envelope is padded to this many bytes.
    Link {
        padded_to_bytes: usize,
    },
    /// A good envelope around this string, which counts as a link given.
    LinkIs(String),
    Envelope(Envelope),
    Bytes(Bytes),
    /// What the Spring framework says where the application has nothing to say.
    Spring,
    /// The key that was received, everywhere an answer has room for it.
    EchoKey {
        code: i64,
    },
    /// A good answer behind so much whitespace that only its compressed form is small.
    GzipBomb,
}

/// kie.ai's own envelope, with its fields in kie.ai's order. `data` is null in most errors, and absent from a 401.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Envelope {
    pub(super) code: i64,
    pub(super) msg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<Value>,
}

impl Envelope {
    pub(super) fn success(data: Value) -> Self {
        Self { code: 200, msg: "success".to_owned(), data: Some(data) }
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, strings and null are always JSON")
    }
}

/// How the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Whole,
    WholeThenClose,
    /// The head and half of the body; then close.
    CutOff,
    /// The content alone, without head or framing; then close.
    Raw,
    /// As `Raw`, but the connection is kept.
    RawThenKeep,
    Drip,
    Endless,
    Hang,
    Reset,
    Close,
}

/// The headers that an answer has by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// kie.ai's: JSON, chunked, a cookie and Cloudflare's.
    Kie,
    /// A date and a length.
    Plain,
}

/// What the link should be like.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wish {
    pub(super) form: Form,
    /// `None`: the usual life.
    pub(super) life_left: Option<Duration>,
    /// Whether to give the link that was given for this file before.
    pub(super) again: bool,
}

/// How a link is written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Form {
    #[default]
    Signed,
    WithoutExpiry,
    /// See `links::fill`.
    Like(String),
}

impl Answer {
    pub(super) fn new(content: Content, manner: Manner) -> Self {
        Self {
            content,
            manner,
            head: Head::Kie,
            status: 200,
            headers: Vec::new(),
            left_out: Vec::new(),
            gzip: false,
            latency: Duration::ZERO,
            link: Wish::default(),
            clock_off_seconds: 0,
            date_off_seconds: 0,
        }
    }

    /// An answer that is not kie.ai's, such as a file's.
    pub(super) fn plain(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let answer = Self { head: Head::Plain, ..Self::new(Content::Bytes(body.into()), Manner::Whole) };
        answer.http_status(status).with_header("Content-Type", content_type)
    }

    /// The answer's HTTP status and body, where the body is the same for every request: for a simulation without
    /// sockets.
    #[cfg(test)]
    pub(crate) fn status_and_body(&self) -> Option<(u16, Bytes)> {
        let body = match &self.content {
            Content::Envelope(envelope) => envelope.to_json().into(),
            Content::Bytes(body) => body.clone(),
            Content::Link { .. }
            | Content::LinkIs(_)
            | Content::Spring
            | Content::EchoKey { .. }
            | Content::GzipBomb => return None,
        };
        Some((self.status, body))
    }

    /// What the answer counts as: kie.ai's code where the body has one, else the HTTP status; `empty` without a body.
    pub(super) fn counts_as(&self) -> String {
        if matches!(self.manner, Manner::Hang | Manner::Reset | Manner::Close) {
            return "none".to_owned();
        }
        match &self.content {
            Content::Link { .. } | Content::LinkIs(_) | Content::GzipBomb => "200".to_owned(),
            Content::EchoKey { code } => code.to_string(),
            Content::Envelope(envelope) => envelope.code.to_string(),
            Content::Bytes(body) if body.is_empty() && self.status == 200 => "empty".to_owned(),
            Content::Bytes(_) | Content::Spring => self.status.to_string(),
        }
    }
}

/// Modifiers.
impl Answer {
    pub fn http_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Takes the place of a usual header of that name. A header that is given twice is sent twice. With
    /// `content-length` the body is not chunked, and the length may lie.
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves out one of the usual headers, such as `date`.
    pub fn without_header(mut self, name: &str) -> Self {
        self.left_out.push(name.to_owned());
        self
    }

    pub fn without_content_type(self) -> Self {
        self.without_header("content-type")
    }

    pub fn gzip(mut self) -> Self {
        self.gzip = true;
        self.with_header("content-encoding", "gzip")
    }

    /// Waits this long before the first byte, after any gate.
    pub fn after(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// The link was signed some time ago, and has this many whole seconds left by kie's clock.
    pub fn life_left(mut self, left: Duration) -> Self {
        self.link.life_left = Some(left);
        self
    }

    /// kie's clock (the `Date` header and the link) is ahead of the machine's, or behind where negative. For the
    /// clock itself, and all answers from now on, see `Script::clock_off_seconds`.
    pub fn clock_off(mut self, seconds: i64) -> Self {
        self.clock_off_seconds = seconds;
        self
    }

    /// Only the `Date` header is ahead or behind, as from a gateway with a clock of its own. The link ends by kie's
    /// clock.
    pub fn date_off(mut self, seconds: i64) -> Self {
        self.date_off_seconds = seconds;
        self
    }

    /// The answer was made this long ago and kept by a gateway that says so in `Age`.
    pub fn kept_for(mut self, age: Duration) -> Self {
        let age = age.as_secs();
        self.clock_off_seconds = self.clock_off_seconds.saturating_sub_unsigned(age);
        self.with_header("age", &age.to_string())
    }

    /// The link says nothing about its end.
    pub fn without_expiry(mut self) -> Self {
        self.link.form = Form::WithoutExpiry;
        self
    }

    /// The link is written like this, with its end, kie's clock and more in the place of `{end}`, `{now}`: see
    /// `links::fill`.
    pub fn link_like(template: &str) -> Self {
        let mut answer = Self::link();
        answer.link.form = Form::Like(template.to_owned());
        answer
    }

    /// The link is the one that was given for this file before, to the letter; a new link where none was given.
    pub fn again(mut self) -> Self {
        self.link.again = true;
        self
    }

    /// Promises keep-alive, then closes the connection. (To close it only when the next request is on it, script
    /// `link()` and then `close()`, or see `Script::kept`.)
    pub fn then_close_silently(mut self) -> Self {
        self.manner = Manner::WholeThenClose;
        self
    }

    /// The connection ends half-way through the body.
    pub fn cut_off(mut self) -> Self {
        self.manner = Manner::CutOff;
        self
    }
}
