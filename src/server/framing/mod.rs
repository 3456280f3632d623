//! Requests that two readers could cut at different places (request smuggling, RFC 9112 section 11.2).
//!
//! hyper is as lenient as the RFC lets it be: it takes a bare LF for a line's end, and does not let a service see that
//! `Content-Length` stood beside `Transfer-Encoding`. A proxy in front may have read the same bytes differently. So the
//! heads of HTTP/1 are watched on their way in, byte for byte as the peer sent them; nothing is changed or held back.
//! What is found travels to the service in the request's extensions. What goes out is left alone, too, but for hyper's
//! own answers to what it cannot parse (`unserved`).

use std::{
    borrow::Cow,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    MAX_HEAD_BYTES,
    activity::Activity,
    heads::{Ambiguous, Heads, Read, Verdict},
    unserved::{Instead, Refuse},
};

/// What HTTP/2 begins with; its first line looks like a head's (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// At most so many bytes are kept of a line that comes in pieces: more than the names and values that matter here need.
/// hyper has the whole line.
const KEPT_BYTES: usize = 256;

/// A head and a body of no more bytes than this are written as one piece: to copy them costs less than the kernel takes
/// for a second piece.
const SMALL_BYTES: usize = 2 * 1024;

/// Watches what is read.
pub(super) struct Framing<S> {
    stream: S,
    reader: HeadReader,
    instead: Instead,
}

/// Where in the stream of HTTP/1 messages the next byte belongs.
#[derive(Debug)]
enum At {
    /// Before a request line, or in a head.
    Head(Head),
    /// So many bytes of a body are still to come.
    Body(u64),
    /// So many bytes of HTTP/2's preface are still to come, if it is one.
    Preface(usize),
    /// HTTP/2, or a body of chunks; what comes after such a body is not served.
    Unwatched,
    /// A head that is refused, or larger than a head may be. Where it ends does not matter any more.
    Refused(Head),
}

#[derive(Debug, Default)]
struct Head {
    /// Earlier reads brought a part of the present line. This is the beginning of that part, at most `KEPT_BYTES`.
    kept: Vec<u8>,
    /// The last byte of that part, and whether the part is longer than what is kept.
    last: Option<u8>,
    is_cut: bool,
    /// Bytes of this head so far.
    length: usize,
    has_request_line: bool,
    /// Whether the first line alone takes more than half of what a head may have.
    has_long_target: bool,
    is_connect: bool,
    content_length: Option<Result<u64, Ambiguous>>,
    transfer_encoding: Option<Result<(), Ambiguous>>,
    request_id: Option<Box<[u8]>>,
}

#[derive(Debug)]
struct HeadReader {
    at: At,
    /// Whether a head has ended. HTTP/2 begins with a connection, or not at all.
    has_had_head: bool,
    heads: Heads,
    activity: Activity,
}

impl<S> Framing<S> {
    /// `refuse` makes the answers to what is no request.
    pub(super) fn new(stream: S, heads: &Heads, activity: &Activity, refuse: Refuse) -> Framing<S> {
        let reader = HeadReader::new(heads.clone(), activity.clone());
        Framing { stream, reader, instead: Instead::new(refuse, activity.clone()) }
    }

    /// Whether nothing has come behind the last request, were it an empty line.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(&self.reader.at, At::Head(head) if head.length == 0)
    }

    pub(super) fn is_in_preface(&self) -> bool {
        matches!(self.reader.at, At::Preface(_))
    }

    /// Whether a part of a head has come, or an empty line before it.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(&self.reader.at, At::Head(head) if head.length > 0)
    }
}

impl HeadReader {
    fn new(heads: Heads, activity: Activity) -> HeadReader {
        HeadReader { at: At::Head(Head::default()), has_had_head: false, heads, activity }
    }

    fn saw(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.read(bytes);
        self.activity.heard(match &self.at {
            At::Head(head) => head.has_begun(),
            At::Preface(_) | At::Refused(_) => true,
            At::Body(_) | At::Unwatched => false,
        });
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Unwatched | At::Refused(_) => return,
                At::Body(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= taken as u64;
                    bytes = &bytes[taken..];
                    if *left == 0 {
                        self.at = At::Head(Head::default());
                    }
                }
                At::Preface(left) => {
                    let (these, rest) = bytes.split_at(bytes.len().min(*left));
                    if !PREFACE[PREFACE.len() - *left..].starts_with(these) {
                        // hyper takes it for HTTP/1, and refuses it.
                        self.at = At::Refused(Head::default());
                        return;
                    }
                    *left -= these.len();
                    bytes = rest;
                    if *left == 0 {
                        self.activity.speaks_http_2();
                        self.at = At::Unwatched;
                    }
                }
                At::Head(head) => {
                    let Some(end) = memchr(b'\n', bytes) else {
                        head.keep(bytes);
                        if head.length > MAX_HEAD_BYTES {
                            // hyper refuses it for its size.
                            self.at = At::Refused(std::mem::take(head));
                        }
                        return;
                    };
                    let (part, rest) = bytes.split_at(end + 1);
                    bytes = rest;
                    if let Some((verdict, next)) = head.line(part, !self.has_had_head) {
                        self.has_had_head = true;
                        let (has_long_target, request_id) = (head.has_long_target, head.request_id.take());
                        if let Some(verdict) = verdict {
                            let body = if let Some(At::Body(length)) = next { length } else { 0 };
                            self.heads.push(Read { verdict, body, has_long_target, request_id });
                        }
                        match next {
                            Some(next) => self.at = next,
                            None => *head = Head::default(),
                        }
                    }
                }
            }
        }
    }

    /// What is known of the head that hyper could not parse: whether its first line is too long, and its
    /// `X-Request-Id`.
    fn unparsed(&self) -> (bool, Option<Box<[u8]>>) {
        if let Some(read) = self.heads.pop() {
            return (read.has_long_target, read.request_id);
        }
        match &self.at {
            At::Head(head) | At::Refused(head) => {
                (head.has_long_target || !head.has_request_line, head.request_id.clone())
            }
            At::Body(_) | At::Preface(_) | At::Unwatched => (false, None),
        }
    }
}

impl Head {
    /// Empty lines before it do not count.
    fn has_begun(&self) -> bool {
        self.has_request_line || !self.kept.is_empty()
    }

    fn keep(&mut self, part: &[u8]) {
        self.length += part.len();
        let room = KEPT_BYTES.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&part[..room.min(part.len())]);
        self.is_cut |= room < part.len();
        self.last = part.last().copied().or(self.last);
    }

    /// Takes the end of a line, LF included. `Some` when the head is over: the verdict, if there is a request, and what
    /// follows, which usually is another head (`None`).
    fn line(&mut self, part: &[u8], is_first_head: bool) -> Option<(Option<Verdict>, Option<At>)> {
        if self.is_unwatched(part) {
            self.length += part.len();
            return None;
        }
        let before_end = part.len().checked_sub(2).map(|at| part[at]).or(self.last);
        let kept = if self.kept.is_empty() {
            // The whole line is here, as it usually is: it needs no copy.
            self.length += part.len();
            self.is_cut = part.len() > KEPT_BYTES;
            Cow::Borrowed(&part[..part.len().min(KEPT_BYTES)])
        } else {
            self.keep(part);
            Cow::Owned(std::mem::take(&mut self.kept))
        };
        let is_cut = std::mem::take(&mut self.is_cut);
        self.last = None;
        let refused = |why| Some((Some(Verdict::Refused(why)), Some(At::Refused(Head::default()))));
        if before_end != Some(b'\r') {
            return refused(Ambiguous::BareLineFeed);
        }
        // Cut or not, a line's beginning tells what the line is.
        let kept = &*kept;
        let line = kept.strip_suffix(b"\r\n").unwrap_or(kept);
        if !self.has_request_line {
            // An empty line before the request line is passed over (RFC 9112 section 2.2).
            if line.is_empty() {
                return None;
            }
            let is_first_line = is_first_head && self.length == kept.len();
            if is_first_line && *kept == PREFACE[..kept.len().min(PREFACE.len())] {
                return Some((None, Some(At::Preface(PREFACE.len() - kept.len()))));
            }
            self.is_connect = line.starts_with(b"CONNECT ");
            self.has_long_target = self.length > MAX_HEAD_BYTES / 2;
            self.has_request_line = true;
            return None;
        }
        match line.first() {
            None => return Some(self.end()),
            Some(b' ' | b'\t') => return refused(Ambiguous::FoldedLine),
            Some(_) => {}
        }
        if let Some(value) = value_of(b"content-length:", line) {
            let length = match self.content_length {
                Some(_) => Err(Ambiguous::TwoLengths),
                None if is_cut => Err(Ambiguous::BadLength),
                None => number(value),
            };
            self.content_length = Some(length);
        } else if let Some(value) = value_of(b"transfer-encoding:", line) {
            let only = self.transfer_encoding.is_none() && !is_cut && value.eq_ignore_ascii_case(b"chunked");
            self.transfer_encoding = Some(if only { Ok(()) } else { Err(Ambiguous::UnknownEncoding) });
        } else if self.request_id.is_none()
            && !is_cut
            && let Some(value) = value_of(b"x-request-id:", line)
        {
            self.request_id = Some(value.into());
        }
        None
    }

    /// Whether this is a whole header line, as most are, of a name that is not looked at here.
    fn is_unwatched(&self, part: &[u8]) -> bool {
        let letter = |at: usize| part.get(at).map_or(0, |byte| byte | 0x20);
        let is_other = || match part.first() {
            // A folded line, and the CR of the empty line that ends the head.
            None | Some(b' ' | b'\t' | b'\r') => false,
            // Two letters tell the watched names from nearly all others: Content-Length, Transfer-Encoding, X-Request-Id.
            Some(_) => !matches!(
                (letter(0), letter(1), letter(2), letter(8)),
                (b'c', .., b'l') | (b't', b'r', ..) | (b'x', _, b'r', _)
            ),
        };
        self.has_request_line && self.last.is_none() && part.ends_with(b"\r\n") && is_other()
    }

    /// The head is over: the verdict on it, and what follows.
    fn end(&self) -> (Option<Verdict>, Option<At>) {
        let refused = |why| (Verdict::Refused(why), Some(At::Refused(Head::default())));
        let (verdict, next) = match (self.content_length, self.transfer_encoding) {
            // hyper keeps the buffer that an earlier body needed, and may have read a larger head into it than it would
            // otherwise.
            _ if self.length > MAX_HEAD_BYTES => (Verdict::TooLarge, Some(At::Refused(Head::default()))),
            (Some(_), Some(_)) => refused(Ambiguous::LengthAndEncoding),
            (Some(Err(why)), None) | (None, Some(Err(why))) => refused(why),
            (None, Some(Ok(()))) => (Verdict::ClearAndLast, Some(At::Unwatched)),
            // No body, whatever is announced: a tunnel (RFC 9110 section 9.3.6).
            _ if self.is_connect => (Verdict::ClearAndLast, Some(At::Unwatched)),
            (Some(Ok(length @ 1..)), None) => (Verdict::Clear, Some(At::Body(length))),
            (Some(Ok(0)) | None, None) => (Verdict::Clear, None),
        };
        (Some(verdict), next)
    }
}

/// What a header line says, if its name is this one; `name` ends with the colon.
fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let (found, value) = line.split_at_checked(name.len())?;
    found.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

/// Digits and nothing else: `+5` and `5, 5` are numbers to some readers.
fn number(value: &[u8]) -> Result<u64, Ambiguous> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    text.and_then(|text| text.parse().ok()).ok_or(Ambiguous::BadLength)
}

impl<S: AsyncRead + Unpin> AsyncRead for Framing<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.reader.saw(&buffer.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framing<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_needed() {
            this.replace(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.instead.is_needed() {
            this.replace(slices.first().map_or(&[], |first| &**first));
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if length > SMALL_BYTES {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        }
        let mut bytes = [MaybeUninit::uninit(); SMALL_BYTES];
        let mut whole = ReadBuf::uninit(&mut bytes);
        slices.iter().for_each(|slice| whole.put_slice(slice));
        Pin::new(&mut this.stream).poll_write(cx, whole.filled())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.instead.poll_write(&mut this.stream, cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.instead.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S> Framing<S> {
    /// `bytes` begin with hyper's answer to what it could not parse.
    fn replace(&mut self, bytes: &[u8]) {
        let (has_long_target, id) = self.reader.unparsed();
        self.instead.take_over(bytes, has_long_target, id.as_deref());
    }
}

#[cfg(test)]
mod tests;
