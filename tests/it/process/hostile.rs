//! Callers who mean harm: shapes that two readers may understand in two ways, nonsense, and slowness.

use super::{
    child::{Run, link_path},
    wire::Wire,
};
use crate::support::{FakeKie, SOURCE, eventually};

const HOST: &str = "host: localhost\r\n";
const COMPAT: &str = "POST /api/v1/common/download-url HTTP/1.1\r\nhost: localhost\r\n";

/// How a shape ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Says(u16),
    /// Without an answer of HTTP/1.
    Closed,
}

/// What it is called, its bytes, and how it ends. The bodies are good, so that only the shape can be what is refused; and
/// behind each that could hide a second request, one is hidden.
fn shapes() -> Vec<(&'static str, Vec<u8>, End)> {
    use End::{Closed, Says};
    let hidden = format!("GET {} HTTP/1.1\r\n{HOST}\r\n", link_path(&format!("{SOURCE}?hidden")));
    let get = format!("GET {} HTTP/1.1\r\n", link_path(SOURCE));
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let length = format!("content-length: {}\r\n", body.len());
    let post = |headers: &str, body: &str| format!("{COMPAT}{headers}\r\n{body}{hidden}");
    let chunked = "transfer-encoding: chunked\r\n";
    let many = (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = "a".repeat(70_000);
    let texts = [
        ("length, then chunks", post(&format!("{length}{chunked}"), &chunks), Says(400)),
        ("chunks, then length", post(&format!("{chunked}{length}"), &chunks), Says(400)),
        ("two lengths", post(&format!("{length}content-length: 0\r\n"), &body), Says(400)),
        ("the same length twice", post(&format!("{length}{length}"), &body), Says(400)),
        ("a list of lengths", post(&format!("content-length: {0}, {0}\r\n", body.len()), &body), Says(400)),
        ("a signed length", post(&format!("content-length: +{}\r\n", body.len()), &body), Says(400)),
        ("a negative length", post("content-length: -1\r\n", &body), Says(400)),
        ("a length beyond numbers", post("content-length: 99999999999999999999\r\n", &body), Says(400)),
        ("a space before the colon", post(&length.replace(':', " :"), &body), Says(400)),
        ("another encoding", post("transfer-encoding: gzip\r\n", &body), Says(400)),
        ("an encoding before chunks", post("transfer-encoding: gzip, chunked\r\n", &chunks), Says(400)),
        ("an unknown encoding", post("transfer-encoding: xchunked\r\n", &chunks), Says(400)),
        ("chunked twice", post(&format!("{chunked}{chunked}"), &chunks), Says(400)),
        ("chunks in HTTP/1.0", post(chunked, &chunks).replacen("1.1", "1.0", 1), Says(400)),
        ("a chunk of no size", post(chunked, "zz\r\n"), Says(400)),
        ("a chunk of negative size", post(chunked, "-1\r\nx\r\n"), Says(400)),
        ("chunks that end in LF", post(chunked, &chunks.replace('\r', "")), Says(400)),
        ("a chunk's endless extension", post(chunked, &format!("1;{long}\r\n")), Says(400)),
        ("bare line feeds", format!("{get}{HOST}\r\n").replace('\r', ""), Says(400)),
        ("one bare line feed", format!("{get}host: localhost\nx: y\r\n\r\n"), Says(400)),
        ("a folded header", format!("{get}{HOST}x: y\r\n z\r\n\r\n"), Says(400)),
        ("a carriage return in a header", format!("{get}{HOST}x: y\rz\r\n\r\n"), Says(400)),
        ("a NUL in a header", format!("{get}{HOST}x: y\0z\r\n\r\n"), Says(400)),
        ("two hosts", format!("{get}{HOST}{HOST}connection: close\r\n\r\n"), Says(400)),
        ("two different hosts", format!("{get}{HOST}host: evil.example\r\n\r\n"), Says(400)),
        ("no host", format!("{get}\r\n"), Says(400)),
        ("a foreign host", format!("{get}host: evil.example\r\n\r\n"), Says(421)),
        ("a user in the host", format!("{get}host: evil@localhost\r\n\r\n"), Says(421)),
        ("a foreign target", format!("GET http://evil.example/healthz HTTP/1.1\r\n{HOST}\r\n"), Says(421)),
        ("a foreign tunnel", format!("CONNECT evil.example:443 HTTP/1.1\r\n{HOST}\r\n"), Says(421)),
        ("a tunnel", format!("CONNECT localhost:443 HTTP/1.1\r\n{HOST}\r\n{hidden}"), Says(404)),
        ("a space in the target", format!("GET /a b HTTP/1.1\r\n{HOST}\r\n"), Says(400)),
        ("a NUL in the target", format!("GET /\0 HTTP/1.1\r\n{HOST}\r\n"), Says(400)),
        ("a target too long", format!("GET /{long} HTTP/1.1\r\n{HOST}\r\n"), Says(414)),
        ("no version", "GET /\r\n".into(), Says(400)),
        ("a version to come", format!("GET / HTTP/9.9\r\n{HOST}\r\n"), Says(400)),
        ("too many headers", format!("{get}{HOST}{many}\r\n"), Says(431)),
        ("a body that is announced and too large", post("content-length: 9999999999\r\n", ""), Says(413)),
        ("half a head", format!("{get}{HOST}"), Closed),
        ("half a body", format!("{COMPAT}content-length: 10\r\n\r\n{{"), Says(400)),
    ];
    let mut shapes: Vec<(&str, Vec<u8>, End)> =
        texts.into_iter().map(|(name, text, end)| (name, text.into_bytes(), end)).collect();
    shapes.push(("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Says(400)));
    shapes.push(("no text", [0xff; 300].to_vec(), Says(400)));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (name, frame) in [
        ("HTTP/2, a frame too long", b"\xff\xff\xff\x00\x00\x00\x00\x00\x01".as_slice()),
        ("HTTP/2, headers on stream 0", b"\x00\x00\x01\x01\x05\x00\x00\x00\x00\x82"),
        ("HTTP/2, no such compression", b"\x00\x00\x02\x01\x05\x00\x00\x00\x01\xff\xff"),
    ] {
        shapes.push((name, [preface.as_slice(), b"\0\0\0\x04\0\0\0\0\0", frame].concat(), Closed));
    }
    shapes
}

fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text[at + 9..].get(..3)?.parse().ok()).collect()
}

#[tokio::test]
async fn every_hostile_shape_is_refused_or_closed_and_leaves_nothing_behind() {
    let kie = FakeKie::start();
    let settings = ["--set", "limits.header_timeout=500ms", "--set", "limits.idle_timeout=500ms"];
    let child = Run::serving(&kie, &settings).ready().await;
    let before = child.sockets();
    for (name, bytes, end) in shapes() {
        let mut wire = child.connect().await;
        wire.try_send(&bytes).await;
        let said = match *statuses(&wire.rest().await) {
            [] => End::Closed,
            [status] => End::Says(status),
            ref several => panic!("{name}: more than one answer: {several:?}"),
        };
        // A peer that sends on while it is refused may find its connection reset, and the answer gone with it.
        assert!(said == end || (said == End::Closed && bytes.len() > 10_000), "{name}: {said:?} instead of {end:?}");
        assert_eq!(child.get("/healthz").await.status, 200, "after {name}");
    }
    eventually("no connection is left", async || child.sockets() <= before).await;
    assert_eq!(kie.mints(), 0, "something hidden was served: {:?}", kie.requests());
}

#[tokio::test]
async fn a_body_of_chunks_is_read_and_ends_its_connection() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let mut wire = child.connect().await;
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let hidden = format!("GET {} HTTP/1.1\r\n{HOST}\r\n", link_path(&format!("{SOURCE}?hidden")));
    wire.send(&format!("{COMPAT}transfer-encoding: chunked\r\n\r\n{chunks}{hidden}")).await;
    let reply = wire.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    wire.closed_after_all().await;
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn slow_clients_leave_room_for_a_fast_one_and_are_let_go() {
    const SLOW: usize = 280;
    let kie = FakeKie::start();
    let settings = ["--set", "limits.connections=300", "--set", "limits.header_timeout=3s"];
    let child = Run::serving(&kie, &settings).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    let before = child.sockets();
    let mut slow = Vec::new();
    for n in 0..SLOW {
        let mut wire = child.connect().await;
        let beginning = match n % 3 {
            0 => "GET /v1/link HTTP/1.1\r\nhost: local".to_owned(),
            1 => format!("{COMPAT}content-length: 1000\r\n\r\n{{"),
            _ => String::new(),
        };
        wire.try_send(beginning.as_bytes()).await;
        slow.push(wire);
    }
    let crowded = || child.sockets() >= before + SLOW - 5;
    eventually("all of them are there", async || crowded()).await;
    for _ in 0..10 {
        assert_eq!(child.link(SOURCE).await.status, 200);
        assert_eq!(child.get_admin("/readyz").await.status, 200);
    }
    assert!(crowded(), "the slow ones had gone before the fast ones came: this shows nothing");
    for wire in slow {
        let statuses = statuses(&wire.rest().await);
        assert!(statuses.iter().all(|status| *status == 400), "{statuses:?}");
    }
    eventually("all places are free again", async || child.sockets() <= before + 2).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_end_their_connection_and_nothing_else() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let mut wire = Wire::connect(&child.data()).await;
    wire.try_send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // GET, http, /, and an authority, from the static table and as a literal.
    let fields = b"\x82\x86\x84\x41\x09localhost";
    for n in 0..20_000u32 {
        let stream = (2 * n + 1).to_be_bytes();
        let length = u8::try_from(fields.len()).unwrap();
        let headers = [&[0, 0, length, 1, 5], stream.as_slice(), fields].concat();
        let reset = [&[0, 0, 4, 3, 0], stream.as_slice(), &[0, 0, 0, 8]].concat();
        wire.try_send(&[headers, reset].concat()).await;
    }
    // It is closed long before it would count as idle; a reset may have taken the GOAWAY along.
    wire.rest().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
}
