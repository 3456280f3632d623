//! A request, read off the wire. Pure; it does not know what will be answered.

use std::time::Duration;

/// kielink's heads are some hundred bytes, browsers' some thousand.
const LONGEST_HEAD: usize = 32 * 1024;

/// Room for any URL, and no more.
const LONGEST_BODY: usize = 64 * 1024;

/// Reading ends here: the body counts twice, for what chunks add to it.
pub(super) const LONGEST_REQUEST: usize = LONGEST_HEAD + 2 * LONGEST_BODY;

/// One request, as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub method: String,
    /// The path with its query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body's `url`.
    pub source: Option<String>,
    /// The body's `taskId`, which the 4o image API wants.
    pub task: Option<String>,
    /// When it came, since the simulation was started.
    pub at: Duration,
    pub(super) is_json: bool,
    /// Whether the connection is to be kept.
    pub(super) keeps: bool,
    pub(super) is_http_1_0: bool,
}

/// What cannot be read, with the status of the answer to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Unreadable(pub(super) u16);

const BAD_REQUEST: Unreadable = Unreadable(400);
const TOO_LARGE: Unreadable = Unreadable(413);

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn path(&self) -> &str {
        self.path.split_once('?').map_or(&self.path, |(path, _)| path)
    }

    pub(super) fn query(&self) -> &str {
        self.path.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first request in these bytes and how many of them it takes; `None` where more must be read.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Unreadable> {
        let Some(head_bytes) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
            return if bytes.len() > LONGEST_HEAD { Err(Unreadable(431)) } else { Ok(None) };
        };
        let (head, rest) = bytes.split_at(head_bytes);
        let head = String::from_utf8_lossy(head);
        let mut lines = head.trim_end().split("\r\n");
        let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        let &[method, path, version @ ("HTTP/1.1" | "HTTP/1.0")] = words.as_slice() else {
            return Err(BAD_REQUEST);
        };
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        let mut request = Request {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: headers.collect::<Option<_>>().ok_or(BAD_REQUEST)?,
            is_http_1_0: version == "HTTP/1.0",
            ..Request::default()
        };
        let asks = |word| request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case(word));
        request.keeps = if request.is_http_1_0 { asks("keep-alive") } else { !asks("close") };
        let body = match (request.header("transfer-encoding"), request.header("content-length")) {
            (None, None) => Some((Vec::new(), 0)),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => join_chunks(rest)?,
            (None, Some(length)) => match length.parse() {
                Ok(length) if length <= LONGEST_BODY => rest.get(..length).map(|body| (body.to_vec(), length)),
                Ok(_) => return Err(TOO_LARGE),
                Err(_) => return Err(BAD_REQUEST),
            },
            (Some(_), _) => return Err(BAD_REQUEST),
        };
        let Some((body, body_bytes)) = body else { return Ok(None) };
        let json = serde_json::from_slice::<serde_json::Value>(&body);
        request.is_json = json.is_ok();
        let json = json.unwrap_or_default();
        request.source = json["url"].as_str().map(str::to_owned);
        request.task = json["taskId"].as_str().filter(|task| !task.is_empty()).map(str::to_owned);
        request.body = body;
        Ok(Some((request, head_bytes + body_bytes)))
    }
}

/// Joins a body of chunks (RFC 9112, section 7.1); trailers are ignored.
pub(super) fn join_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, Unreadable> {
    let mut body = Vec::new();
    let mut rest = bytes;
    loop {
        let Some(end) = find(rest, b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end]).map_err(|_| BAD_REQUEST)?;
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| BAD_REQUEST)?;
        if size == 0 {
            // The line end before the empty line belongs to the last chunk or to the last trailer.
            let end = find(&rest[end..], b"\r\n\r\n").map(|at| end + at + 4);
            return Ok(end.map(|end| (body, bytes.len() - rest.len() + end)));
        }
        if size > LONGEST_BODY - body.len() {
            return Err(TOO_LARGE);
        }
        let Some(chunk) = rest.get(end + 2..end + 2 + size + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_however_its_body_is_framed_and_the_next_one_is_left() {
        let head = "POST /a?b=c HTTP/1.1\r\nHost: x\r\n";
        let body = r#"{"url":"https://x/a"}"#;
        let table = [
            format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
            format!(
                "{head}transfer-encoding: Chunked\r\n\r\n5;x=y\r\n{}\r\n10\r\n{}\r\n0\r\n\r\n",
                &body[..5],
                &body[5..]
            ),
            format!("{head}transfer-encoding: chunked\r\n\r\n15\r\n{body}\r\n000\r\nA: b\r\n\r\n"),
        ];
        for whole in table {
            for cut in 0..whole.len() {
                assert!(matches!(Request::parse(&whole.as_bytes()[..cut]), Ok(None)), "{cut} of {whole}");
            }
            let (request, used) = Request::parse(format!("{whole}GET / HTTP/1.1").as_bytes()).unwrap().unwrap();
            assert_eq!((used, request.body.as_slice()), (whole.len(), body.as_bytes()), "{whole}");
            assert_eq!((request.method.as_str(), request.path(), request.query()), ("POST", "/a", "b=c"));
            assert_eq!((request.source.as_deref(), request.header("HOST")), (Some("https://x/a"), Some("x")));
            assert!(request.keeps);
        }
    }

    #[test]
    fn what_is_no_request_or_too_much_of_one_is_answered_with_a_status() {
        let long = "x".repeat(LONGEST_HEAD);
        let table = [
            ("GET /\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/2\r\n\r\n".to_owned(), 400),
            ("\u{16}\u{3}\u{1}\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_owned(), 400),
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_owned(), 413),
            ("GET / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n".to_owned(), 413),
            (format!("GET /{long}"), 431),
        ];
        for (text, status) in table {
            assert_eq!(Request::parse(text.as_bytes()).err(), Some(Unreadable(status)), "{text:.80}");
        }
        let keeps = |text: &str| Request::parse(text.as_bytes()).unwrap().unwrap().0.keeps;
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n") && keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }
}
