//! What the fake kie.ai is told to answer: a value to build, to clone and to script. It knows neither sockets nor
//! requests. `canned` has the constructors; `render` turns it into bytes, `connection` sends them.

use std::time::Duration;

use serde_json::Value;

/// The life of a link, as documented.
pub(super) const LINK_LIFE: Duration = Duration::from_secs(20 * 60);

/// One answer, good or bad. Start with a constructor, refine with the modifiers.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(super) content: Content,
    pub(super) manner: Manner,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) left_out: Vec<String>,
    pub(super) gzip: bool,
    pub(super) latency: Duration,
    pub(super) life_left: Duration,
    pub(super) clock_off_seconds: i64,
    pub(super) expiry: bool,
}

/// What the body says.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A fresh link in a good envelope; the envelope is padded to this many bytes.
    Link {
        padded_to_bytes: usize,
    },
    /// A good envelope around this string, which counts as a link given.
    LinkIs(String),
    Json(Value),
    Bytes(Vec<u8>),
    /// The key that was received, everywhere an answer has room for it.
    EchoKey {
        code: i64,
    },
    /// A good answer behind so much whitespace that only its compressed form is small.
    GzipBomb,
}

/// How the bytes are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Whole,
    WholeThenClose,
    /// The content alone, without head or framing; then close.
    Raw,
    /// The same, and the connection is kept.
    RawThenKeep,
    Drip,
    Endless,
    Hang,
    Reset,
    Close,
}

impl Answer {
    pub(super) fn new(content: Content, manner: Manner) -> Self {
        Self {
            content,
            manner,
            status: 200,
            headers: Vec::new(),
            left_out: Vec::new(),
            gzip: false,
            latency: Duration::ZERO,
            life_left: LINK_LIFE,
            clock_off_seconds: 0,
            expiry: true,
        }
    }

    pub(super) fn json(body: Value) -> Self {
        Self::new(Content::Json(body), Manner::Whole)
    }
}

/// Modifiers.
impl Answer {
    pub(crate) fn http_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Takes the place of a usual header of that name; given twice, it is sent twice. With `content-length` the body
    /// is not chunked, and the length may lie.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves out one of the usual headers, such as `date`.
    pub(crate) fn without_header(mut self, name: &str) -> Self {
        self.left_out.push(name.to_owned());
        self
    }

    pub(crate) fn without_content_type(self) -> Self {
        self.without_header("content-type")
    }

    pub(crate) fn gzip(mut self) -> Self {
        self.gzip = true;
        self.with_header("content-encoding", "gzip")
    }

    /// Waits this long before the first byte, after any gate.
    pub(crate) fn after(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// The link was signed some time ago, and has this many whole seconds left by kie's clock.
    pub(crate) fn life_left(mut self, left: Duration) -> Self {
        self.life_left = left;
        self
    }

    /// kie's clock (the `Date` header and the link) is ahead of the machine's, or behind where negative.
    pub(crate) fn clock_off(mut self, seconds: i64) -> Self {
        self.clock_off_seconds = seconds;
        self
    }

    /// The link says nothing about its end.
    pub(crate) fn without_expiry(mut self) -> Self {
        self.expiry = false;
        self
    }

    /// Promises keep-alive, then closes the connection. (To close it only when the next request is on it, script
    /// `link()` and then `close()`.)
    pub(crate) fn then_close_silently(mut self) -> Self {
        self.manner = Manner::WholeThenClose;
        self
    }
}
