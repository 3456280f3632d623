//! An answer as bytes, as awkward as the real kie.ai: chunked in two, a cookie, Cloudflare's headers, a link whose
//! parameters come in a different order each time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use jiff::Timestamp;
use serde_json::json;

use super::answer::{Answer, Content, LINK_LIFE, Manner};
use super::record::Recorded;

const MIB: usize = 1 << 20;

/// Far above any sensible limit on an answer of some hundred bytes, yet little enough that a client without a limit
/// fails its test and not the machine.
const BOMB_BYTES: usize = 256 * MIB;

pub(super) struct Rendered {
    pub(super) head: Vec<u8>,
    /// Framed as the head says.
    pub(super) body: Vec<u8>,
    /// The link inside, where there is one.
    pub(super) link: Option<String>,
}

/// `seed` makes links and cookies unique: it is never used twice.
pub(super) fn render(answer: &Answer, request: &Recorded, seed: u64) -> Rendered {
    let now = kie_now(answer);
    let mut own_headers = answer.headers.clone();
    let mut link = None;
    let mut fresh = || {
        let fresh = fresh_link(answer, request, seed, now);
        link.insert(fresh).clone()
    };
    let mut body = match &answer.content {
        Content::Link { padded_to_bytes } => padded(&fresh(), *padded_to_bytes),
        Content::LinkIs(data) => success(link.insert(data.clone())),
        Content::Json(value) => value.to_string().into_bytes(),
        Content::Bytes(bytes) => bytes.clone(),
        Content::EchoKey { code } => {
            let heard = request.header("authorization").unwrap_or_default().to_owned();
            let key = heard.trim_start_matches("Bearer ");
            let data = format!("https://x.r2.cloudflarestorage.com/echo?key={key}");
            own_headers.push(("x-heard".to_owned(), heard.clone()));
            let msg = format!("refused: Authorization: {heard}");
            json!({"code": code, "msg": msg, "data": data}).to_string().into_bytes()
        }
        Content::GzipBomb => bomb(&success(&fresh())),
    };
    if answer.gzip {
        body = gzip(&body);
    }

    if matches!(answer.manner, Manner::Raw | Manner::RawThenKeep) {
        return Rendered { head: Vec::new(), body, link };
    }

    let named = |headers: &[(String, String)], name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let framed = named(&own_headers, "content-length");
    let usual = [
        ("Date", now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        ("Content-Type", "application/json;charset=UTF-8".to_owned()),
        ("Transfer-Encoding", "chunked".to_owned()),
        ("Connection", "keep-alive".to_owned()),
        ("Server", "cloudflare".to_owned()),
        ("cf-cache-status", "DYNAMIC".to_owned()),
        ("Set-Cookie", format!("JSESSIONID={:016X}; Path=/; HttpOnly", digest(("cookie", seed)))),
    ];
    let usual = usual.into_iter().filter(|(name, _)| {
        let left_out = answer.left_out.iter().any(|n| n.eq_ignore_ascii_case(name));
        let replaced = named(&own_headers, name) || (framed && *name == "Transfer-Encoding");
        !left_out && !replaced
    });

    // No reason phrase but for 200: it may be empty (RFC 9112, section 4), and often is.
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, if answer.status == 200 { "OK" } else { "" });
    for (name, value) in usual {
        head += &format!("{name}: {value}\r\n");
    }
    for (name, value) in &own_headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let body = if framed { body } else { chunked(&body) };
    Rendered { head: head.into_bytes(), body, link }
}

/// kie's clock, in whole seconds: its `Date` header and its signatures know no finer ones.
#[expect(clippy::disallowed_methods, reason = "kie's clock is not the sidecar's")]
fn kie_now(answer: &Answer) -> Timestamp {
    let second = Timestamp::now().as_second() + answer.clock_off_seconds;
    Timestamp::from_second(second).expect("a test's clock is off by years at most")
}

fn fresh_link(answer: &Answer, request: &Recorded, seed: u64, now: Timestamp) -> String {
    let life = answer.life_left.max(LINK_LIFE).as_secs();
    let age = life - answer.life_left.as_secs();
    let signed = Timestamp::from_second(now.as_second() - age.cast_signed()).expect("within years of now");
    let day = signed.strftime("%Y%m%d");
    let signature: String = (0..4).map(|part| format!("{:016x}", digest((part, seed)))).collect();
    let mut query = vec![
        "X-Amz-Algorithm=AWS4-HMAC-SHA256".to_owned(),
        format!("X-Amz-Date={}", signed.strftime("%Y%m%dT%H%M%SZ")),
        "X-Amz-SignedHeaders=host".to_owned(),
        format!("X-Amz-Expires={life}"),
        format!("X-Amz-Credential=fake%2F{day}%2Fauto%2Fs3%2Faws4_request"),
        format!("X-Amz-Signature={signature}"),
    ];
    if !answer.expiry {
        query.retain(|p| !p.starts_with("X-Amz-Date=") && !p.starts_with("X-Amz-Expires="));
    }
    let turn = usize::try_from(seed % 4).unwrap_or_default();
    query.rotate_left(turn);
    let file = digest(request.source.as_deref());
    format!("https://x.r2.cloudflarestorage.com/{file:016x}?{}", query.join("&"))
}

fn success(data: &str) -> Vec<u8> {
    json!({"code": 200, "msg": "success", "data": data}).to_string().into_bytes()
}

fn padded(link: &str, bytes: usize) -> Vec<u8> {
    let plain = success(link);
    // `,"padding":""` is 13 bytes.
    let Some(missing) = bytes.checked_sub(plain.len() + 13) else {
        return plain;
    };
    let padding = "x".repeat(missing);
    json!({"code": 200, "msg": "success", "data": link, "padding": padding}).to_string().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("a Vec takes every byte");
    encoder.finish().expect("a Vec takes every byte")
}

/// `end` behind whitespace up to `BOMB_BYTES`, gzipped. Only one block of the whitespace is ever compressed (and its
/// checksum computed): the same bytes are repeated, so that a debug build does not sweat for seconds.
fn bomb(end: &[u8]) -> Vec<u8> {
    let block = vec![b' '; MIB];
    let deflated_block = deflate(&block, FlushCompress::Sync);
    let mut block_crc = Crc::new();
    block_crc.update(&block);

    let mut crc = Crc::new();
    // RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..BOMB_BYTES / MIB {
        out.extend_from_slice(&deflated_block);
        crc.combine(&block_crc);
    }
    out.extend(deflate(end, FlushCompress::Finish));
    crc.update(end);
    out.extend(crc.sum().to_le_bytes());
    out.extend(crc.amount().to_le_bytes());
    out
}

/// Raw deflate that refers to nothing before it, so that it can be put behind anything that ends in a sync flush.
fn deflate(bytes: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 1024);
    let status = Compress::new(Compression::best(), false)
        .compress_vec(bytes, &mut out, flush)
        .expect("raw deflate has no state to be wrong");
    assert_ne!(status, Status::BufError, "the buffer holds even what does not compress");
    out
}

/// Two chunks where there is enough for two, so that no client gets away with reading one.
fn chunked(body: &[u8]) -> Vec<u8> {
    let (first, second) = body.split_at(body.len() / 2);
    let mut out = Vec::with_capacity(body.len() + 64);
    for chunk in [first, second] {
        // An empty chunk would be the last one.
        if !chunk.is_empty() {
            out.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

fn digest(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
