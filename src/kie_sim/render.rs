//! An answer as bytes, as awkward as the real kie.ai: chunked in two, a cookie, Cloudflare's headers.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::json;

use super::{
    World,
    answer::{Answer, Content, Envelope, Head, Manner},
    body::{bomb, chunked, gzip, padded, success},
    request::Request,
};

pub(super) struct Rendered {
    pub(super) head: Vec<u8>,
    /// Framed as the head says.
    pub(super) body: Bytes,
    /// The link inside, where there is one.
    pub(super) link: Option<String>,
}

pub(super) fn render(answer: &Answer, request: &Request, world: &World) -> Rendered {
    // Whole seconds: kie.ai's `Date` header and its signatures know no finer ones.
    let (now, life) = world.now_and_life();
    let now = shifted(now, answer.clock_off_seconds);
    let mut own_headers = answer.headers.clone();
    let mut link = None;
    let mut fresh = || {
        let source = request.source.as_deref().unwrap_or_default();
        link.insert(world.links().make(source, &answer.link, now, life)).clone()
    };
    let mut body = match &answer.content {
        Content::Link { padded_to_bytes } => padded(&fresh(), *padded_to_bytes).into(),
        Content::LinkIs(data) => success(link.insert(data.clone())).into(),
        Content::Envelope(envelope) => envelope.to_json().into(),
        Content::Bytes(bytes) => bytes.clone(),
        Content::Spring => spring(answer.status, request.path(), now).into(),
        Content::EchoKey { code } => {
            let heard = request.header("authorization").unwrap_or_default().to_owned();
            let key = heard.trim_start_matches("Bearer ");
            let data = format!("https://x.r2.cloudflarestorage.com/echo?key={key}");
            own_headers.push(("x-heard".to_owned(), heard.clone()));
            let msg = format!("refused: Authorization: {heard}");
            Envelope { code: *code, msg, data: Some(data.into()) }.to_json().into()
        }
        Content::GzipBomb => bomb(success(&fresh()).as_bytes()).into(),
    };
    if answer.gzip {
        body = gzip(&body).into();
    }

    if matches!(answer.manner, Manner::Raw | Manner::RawThenKeep) {
        return Rendered { head: Vec::new(), body, link };
    }

    let named = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    // HTTP/1.0 knows no chunks (RFC 9112, section 7.1).
    let in_chunks = answer.head == Head::Kie && !named(&own_headers, "content-length") && !request.is_http_1_0;
    let date = ("Date", http_date(shifted(now, answer.date_off_seconds)));
    let framing = if in_chunks {
        ("Transfer-Encoding", "chunked".to_owned())
    } else {
        ("Content-Length", body.len().to_string())
    };
    let connection = ("Connection", if request.keeps { "keep-alive" } else { "close" }.to_owned());
    let usual = match answer.head {
        Head::Plain => vec![date, framing, connection],
        Head::Kie => vec![
            date,
            ("Content-Type", "application/json;charset=UTF-8".to_owned()),
            framing,
            connection,
            ("Server", "cloudflare".to_owned()),
            ("cf-cache-status", "DYNAMIC".to_owned()),
            ("Set-Cookie", format!("JSESSIONID={:032X}; Path=/; HttpOnly", world.links().session_id())),
        ],
    };
    let usual = usual.into_iter().filter(|(name, _)| {
        let left_out = answer.left_out.iter().any(|n| n.eq_ignore_ascii_case(name));
        !left_out && !named(&own_headers, name)
    });

    // No reason phrase but for 200: it may be empty (RFC 9112, section 4), and often is.
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, if answer.status == 200 { "OK" } else { "" });
    let own_headers = own_headers.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in usual.chain(own_headers) {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body = match request.method.as_str() {
        "HEAD" => Bytes::new(),
        _ if in_chunks => chunked(&body).into(),
        _ => body,
    };
    Rendered { head: head.into_bytes(), body, link }
}

pub(super) fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Stays where it is rather than leaving the calendar.
fn shifted(at: Timestamp, seconds: i64) -> Timestamp {
    Timestamp::from_second(at.as_second().saturating_add(seconds)).unwrap_or(at)
}

fn spring(status: u16, path: &str, now: Timestamp) -> String {
    let error = if status == 405 { "Method Not Allowed" } else { "Not Found" };
    let timestamp = now.strftime("%Y-%m-%dT%H:%M:%S.%3f+00:00").to_string();
    let message = "No message available";
    json!({"timestamp": timestamp, "status": status, "error": error, "message": message, "path": path}).to_string()
}
