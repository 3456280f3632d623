//! Callers who mean harm: shapes that two readers may understand in two ways, nonsense, and slowness.

use super::{
    child::{Child, Run, link_path},
    wire::Wire,
};
use crate::support::{FakeKie, SOURCE, eventually};

const HOST: &str = "host: localhost\r\n";
const COMPAT: &str = "POST /api/v1/common/download-url HTTP/1.1\r\nhost: localhost\r\n";

/// What it is called, and its bytes. Behind each that could hide a second request, one is hidden.
fn shapes() -> Vec<(&'static str, Vec<u8>)> {
    let hidden = format!("GET {} HTTP/1.1\r\n{HOST}\r\n", link_path(&format!("{SOURCE}?hidden")));
    let get = format!("GET {} HTTP/1.1\r\n", link_path(SOURCE));
    let head_of = |headers: String| format!("{COMPAT}{headers}\r\n");
    let chunked = "transfer-encoding: chunked\r\n";
    let many = (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = "a".repeat(70_000);
    let texts = [
        ("length, then chunks", head_of(format!("content-length: 5\r\n{chunked}")) + "0\r\n\r\n" + &hidden),
        ("chunks, then length", head_of(format!("{chunked}content-length: 5\r\n")) + "0\r\n\r\n" + &hidden),
        ("two lengths", head_of("content-length: 0\r\ncontent-length: 5\r\n".into()) + &hidden),
        ("the same length twice", head_of("content-length: 0\r\ncontent-length: 0\r\n".into()) + &hidden),
        ("a list of lengths", head_of("content-length: 0, 0\r\n".into()) + &hidden),
        ("a signed length", head_of("content-length: +0\r\n".into()) + &hidden),
        ("a negative length", head_of("content-length: -1\r\n".into()) + &hidden),
        ("a length beyond numbers", head_of("content-length: 99999999999999999999\r\n".into()) + &hidden),
        ("a length with a space before its colon", head_of("content-length : 0\r\n".into()) + &hidden),
        ("another encoding", head_of("transfer-encoding: gzip\r\n".into()) + &hidden),
        ("an unknown encoding", head_of("transfer-encoding: xchunked\r\n".into()) + "0\r\n\r\n" + &hidden),
        ("chunked twice", head_of(format!("{chunked}{chunked}")) + "0\r\n\r\n" + &hidden),
        ("chunks in HTTP/1.0", head_of(chunked.into()).replace("1.1", "1.0") + "0\r\n\r\n" + &hidden),
        ("a chunk of no size", head_of(chunked.into()) + "zz\r\n" + &hidden),
        ("a chunk of negative size", head_of(chunked.into()) + "-1\r\nx\r\n" + &hidden),
        ("chunks that end in LF", head_of(chunked.into()) + "1\nx\n0\n\n" + &hidden),
        ("a chunk's endless extension", head_of(chunked.into()) + "1;" + &long + "\r\n"),
        ("bare line feeds", format!("{get}{HOST}\r\n").replace('\r', "")),
        ("one bare line feed", format!("{get}host: localhost\nx: y\r\n\r\n")),
        ("a folded header", format!("{get}{HOST}x: y\r\n z\r\n\r\n")),
        ("a carriage return in a header", format!("{get}{HOST}x: y\rz\r\n\r\n")),
        ("a NUL in a header", format!("{get}{HOST}x: y\0z\r\n\r\n")),
        ("two hosts", format!("{get}{HOST}{HOST}\r\n")),
        ("two different hosts", format!("{get}{HOST}host: evil.example\r\n\r\n")),
        ("no host", format!("{get}\r\n")),
        ("a foreign host", format!("{get}host: evil.example\r\n\r\n")),
        ("a user in the host", format!("{get}host: evil@localhost\r\n\r\n")),
        ("a foreign target", format!("GET http://evil.example/healthz HTTP/1.1\r\n{HOST}\r\n")),
        ("a foreign tunnel", format!("CONNECT evil.example:443 HTTP/1.1\r\n{HOST}\r\n")),
        ("a tunnel", format!("CONNECT localhost:443 HTTP/1.1\r\n{HOST}\r\n{hidden}")),
        ("a space in the target", format!("GET /a b HTTP/1.1\r\n{HOST}\r\n")),
        ("a NUL in the target", format!("GET /\0 HTTP/1.1\r\n{HOST}\r\n")),
        ("a target too long", format!("GET /{long} HTTP/1.1\r\n{HOST}\r\n")),
        ("no version", "GET /\r\n".into()),
        ("a version to come", format!("GET / HTTP/9.9\r\n{HOST}\r\n")),
        ("too many headers", format!("{get}{HOST}{many}\r\n")),
        ("a body that is announced and too large", head_of("content-length: 9999999999\r\n".into())),
        ("half a head", format!("{get}{HOST}")),
        ("half a body", head_of("content-length: 10\r\n".into()) + "{"),
    ];
    let mut shapes: Vec<(&str, Vec<u8>)> = texts.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    shapes.push(("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()));
    shapes.push(("no text", [0xff; 300].to_vec()));
    // A frame of HTTP/2 that is longer than it may be; headers on stream 0; an endless run of settings' beginning.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for (name, frame) in [
        ("HTTP/2, a frame too long", b"\xff\xff\xff\x00\x00\x00\x00\x00\x01".as_slice()),
        ("HTTP/2, headers on stream 0", b"\x00\x00\x01\x01\x05\x00\x00\x00\x00\x82"),
        ("HTTP/2, no such compression", b"\x00\x00\x02\x01\x05\x00\x00\x00\x01\xff\xff"),
    ] {
        shapes.push((name, [preface.as_slice(), b"\0\0\0\x04\0\0\0\0\0", frame].concat()));
    }
    shapes
}

fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text[at + 9..].get(..3)?.parse().ok()).collect()
}

async fn send_all(child: &Child) {
    for (name, bytes) in shapes() {
        let mut wire = child.connect().await;
        wire.try_send(&bytes).await;
        let statuses = statuses(&wire.rest().await);
        assert!(statuses.len() <= 1, "{name}: more than one answer: {statuses:?}");
        assert!(statuses.iter().all(|status| (400..500).contains(status)), "{name}: {statuses:?}");
    }
    assert_eq!(child.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn every_hostile_shape_is_refused_or_closed_and_leaves_nothing_behind() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.header_timeout=200ms"]).ready().await;
    // Twice, so that everything that is made once has been made.
    send_all(&child).await;
    send_all(&child).await;
    let before = child.resident_bytes();
    for _ in 0..5 {
        send_all(&child).await;
    }
    let after = child.resident_bytes();
    assert!(after <= before + before / 10, "{before} bytes before, {after} after");
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
    let kie = FakeKie::start();
    let settings = ["--set", "limits.connections=300", "--set", "limits.header_timeout=3s"];
    let child = Run::serving(&kie, &settings).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    let mut slow = Vec::new();
    for n in 0..280 {
        let mut wire = child.connect().await;
        let beginning = match n % 4 {
            0 => "GET /v1/link HTTP/1.1\r\nhost: local".to_owned(),
            1 => format!("{COMPAT}content-length: 1000\r\n\r\n{{"),
            2 => String::new(),
            // An answer that is not read: as many as the sockets' buffers do not hold.
            _ => format!("GET {} HTTP/1.1\r\n{HOST}\r\n", link_path(SOURCE)).repeat(200),
        };
        wire.try_send(beginning.as_bytes()).await;
        slow.push(wire);
    }
    for _ in 0..50 {
        assert_eq!(child.link(SOURCE).await.status, 200);
        assert_eq!(child.get_admin("/readyz").await.status, 200);
    }
    for wire in slow {
        let statuses = statuses(&wire.rest().await);
        assert!(statuses.iter().all(|status| [200, 400, 408].contains(status)), "{statuses:?}");
    }
    eventually("all places are free again", async || {
        let mut wires = Vec::new();
        for _ in 0..290 {
            let mut wire = child.connect().await;
            if wire.get_unless_closed("/healthz").await.is_none_or(|reply| reply.status != 200) {
                return false;
            }
            wires.push(wire);
        }
        true
    })
    .await;
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
