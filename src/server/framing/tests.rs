use axum::http::{Request, Version};
use proptest::prelude::*;

use super::{
    super::heads::{FirstHead, HeadTooLarge, LastRequest},
    *,
};

/// The verdicts on what arrives in pieces of `size` bytes.
fn verdicts(text: &[u8], size: usize) -> Vec<Verdict> {
    let heads = Heads::default();
    let mut reader = HeadReader::new(heads.clone(), Activity::default());
    text.chunks(size).for_each(|piece| reader.saw(piece));
    std::iter::from_fn(|| heads.pop()).map(|read| read.verdict).collect()
}

fn in_any_pieces(text: &str) -> Vec<Verdict> {
    let all = verdicts(text.as_bytes(), text.len().max(1));
    for size in 1..text.len() {
        assert_eq!(verdicts(text.as_bytes(), size), all, "in pieces of {size}: {text:?}");
    }
    all
}

#[test]
fn requests_with_one_end_are_clear_however_they_arrive() {
    use Verdict::{Clear, ClearAndLast};
    for (text, expected) in [
        ("", vec![]),
        ("GET / HTTP/1.1\r\nhost: h\r\n", vec![]),
        ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", vec![Clear]),
        ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", vec![Clear]),
        ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.0\r\n\r\n", vec![Clear, Clear]),
        ("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", vec![Clear, Clear]),
        ("POST / HTTP/1.1\r\ncontent-length:0\r\n\r\nGET / HTTP/1.1\r\n\r\n", vec![Clear, Clear]),
        // As much of a line as is kept.
        (&format!("POST / HTTP/1.1\r\ncontent-length:{}3\r\n\r\n\n\n\n", "0".repeat(KEPT_BYTES - 18)), vec![Clear]),
        ("POST / HTTP/1.1\r\nTRANSFER-ENCODING: Chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nX\n", vec![ClearAndLast]),
        (
            &format!("GET / HTTP/1.1\r\nx: {}\r\n\r\nGET /{} HTTP/1.1\r\n\r\n", "y".repeat(600), "z".repeat(300)),
            vec![Clear, Clear],
        ),
        ("CONNECT h:1 HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc\n", vec![ClearAndLast]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\n\0\n", vec![]),
    ] {
        assert_eq!(in_any_pieces(text), expected, "{text:?}");
    }
}

#[test]
fn requests_that_may_have_two_ends_are_refused() {
    use Ambiguous::{BadLength, BareLineFeed, FoldedLine, LengthAndEncoding, TwoLengths, UnknownEncoding};
    for (headers, why) in [
        ("content-length: 3\r\ntransfer-encoding: chunked\r\n", LengthAndEncoding),
        ("transfer-encoding: chunked\r\ncontent-length: 3\r\n", LengthAndEncoding),
        ("content-length: 3\r\ncontent-length: 3\r\n", TwoLengths),
        ("content-length: 3\r\nContent-Length: 4\r\n", TwoLengths),
        ("content-length: 3, 3\r\n", BadLength),
        ("content-length: +3\r\n", BadLength),
        ("content-length:\r\n", BadLength),
        (&format!("content-length: {}3\r\n", " ".repeat(300)), BadLength),
        // Cut off, it would be another number.
        (&format!("content-length: {}3\r\n", "0".repeat(300)), BadLength),
        (&format!("content-length:{}3\r\n", "0".repeat(KEPT_BYTES - 17)), BadLength),
        (&format!("x: {}\ncontent-length: 3\r\n", "y".repeat(300)), BareLineFeed),
        ("content-length: 18446744073709551616\r\n", BadLength),
        ("transfer-encoding: gzip, chunked\r\n", UnknownEncoding),
        (&format!("transfer-encoding: chunked{}, gzip\r\n", " ".repeat(300)), UnknownEncoding),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", UnknownEncoding),
        ("transfer-encoding: identity\r\n", UnknownEncoding),
        ("a: b\nc: d\r\n", BareLineFeed),
        ("a: b\n", BareLineFeed),
        ("a: b\r\n c\r\n", FoldedLine),
        ("a: b\r\n\tc\r\n", FoldedLine),
        (" transfer-encoding: chunked\r\n", FoldedLine),
    ] {
        let text = format!("POST / HTTP/1.1\r\nhost: h\r\n{headers}\r\nGET / HTTP/1.1\r\n\r\n");
        assert_eq!(in_any_pieces(&text), [Verdict::Refused(why)], "{headers:?}");
    }
    for text in ["GET / HTTP/1.1\nhost: h\n\n", "\nGET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nhost: h\r\n\n"] {
        assert_eq!(in_any_pieces(text), [Verdict::Refused(BareLineFeed)], "{text:?}");
    }
}

#[test]
fn a_head_of_the_greatest_length_is_clear_and_of_one_byte_more_too_large() {
    let (begin, end) = ("GET / HTTP/1.1\r\n", "\r\n\r\n");
    for (bytes, verdict) in [(MAX_HEAD_BYTES, Verdict::Clear), (MAX_HEAD_BYTES + 1, Verdict::TooLarge)] {
        let text = format!("{begin}{:y<1$}{end}", "x:", bytes - begin.len() - end.len());
        assert_eq!(text.len(), bytes);
        assert_eq!(verdicts(text.as_bytes(), bytes), [verdict]);
    }
}

/// What a request's extensions say after `text` was read: whether the request is the last on its connection,
/// whether its head is too large, and why it is refused.
fn found(text: &str, mut request: Request<()>) -> (bool, bool, Option<Ambiguous>) {
    let heads = Heads::default();
    HeadReader::new(heads.clone(), Activity::default()).saw(text.as_bytes());
    heads.judge(&mut request);
    let found = request.extensions();
    (found.get::<LastRequest>().is_some(), found.get::<HeadTooLarge>().is_some(), found.get().copied())
}

#[test]
fn what_is_known_of_a_head_goes_with_its_request() {
    let long = "y".repeat(MAX_HEAD_BYTES);
    for (text, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", (false, false, None)),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", (true, false, None)),
        ("GET / HTTP/1.1\n\n", (true, false, Some(Ambiguous::BareLineFeed))),
        (&format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), (true, true, None)),
        ("", (true, false, Some(Ambiguous::Unseen))),
    ] {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            // The bytes that came are counted, not what a list of headers would take.
            let request = Request::builder().version(version).header("x", &long).body(()).unwrap();
            assert_eq!(found(text, request), expected, "{text:.40} {version:?}");
        }
    }
    // HTTP/2 has no text: there what a list of headers takes is limited.
    for (bytes, is_too_large) in [(MAX_HEAD_BYTES - 34, false), (MAX_HEAD_BYTES - 33, true)] {
        let request = Request::builder().version(Version::HTTP_2).uri("/").header("x", &long[..bytes]);
        assert_eq!(found("", request.body(()).unwrap()), (false, is_too_large, None), "{bytes}");
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_have_the_same_verdicts(
        text in prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), any::<u8>()], 0..300),
        size in 1usize..40,
    ) {
        let whole = verdicts(&text, text.len().max(1));
        prop_assert_eq!(verdicts(&text, size), whole);
    }

    #[test]
    fn whole_lines_are_looked_at_as_closely_as_pieces(
        lines in prop::collection::vec((line(), any::<u64>()), 0..5),
        size in 1usize..40,
    ) {
        let mut text = b"POST / HTTP/1.1\r\n".to_vec();
        for (line, upper) in lines {
            let letters = line.bytes().enumerate();
            text.extend(letters.map(|(at, byte)| if upper >> (at % 64) & 1 == 1 { byte.to_ascii_uppercase() } else { byte }));
            text.extend(b"\r\n");
        }
        text.extend(b"\r\n");
        prop_assert_eq!(verdicts(&text, size), verdicts(&text, text.len()));
    }
}

/// A header line that is looked at, or begins like one.
fn line() -> impl Strategy<Value = String> {
    const NAMES: [&str; 7] =
        ["content-length", "transfer-encoding", "x-request-id", "content-type", "content-location", "te", "x"];
    const VALUES: [&str; 6] = ["3", "0", "+3", "chunked", "gzip", ""];
    (prop::sample::select(&NAMES[..]), prop::sample::select(&VALUES[..]), 0..20usize).prop_map(|(name, value, cut)| {
        if cut < name.len() { name[..cut].to_owned() } else { format!("{name}: {value}") }
    })
}

#[test]
fn a_head_without_an_end_is_not_kept() {
    let mut reader = HeadReader::new(Heads::default(), Activity::default());
    (0..1000).for_each(|_| reader.saw(&[b'a'; 1024]));
    assert!(matches!(&reader.at, At::Refused(head) if head.kept.len() == KEPT_BYTES));
}

#[test]
fn a_head_has_begun_from_its_first_byte_to_its_last() {
    use super::super::activity::Phase::{Head, Idle, Silent};
    for (text, phase) in [
        ("", Silent),
        ("G", Head),
        ("\r\n", Idle),
        ("GET / HTTP/1.1\r\n", Head),
        ("GET / HTTP/1.1\r\nhost: h\r\n\r", Head),
        ("GET / HTTP/1.1\r\nhost: h\r\n\r\n", Idle),
        ("GET / HTTP/1.1\r\n\r\n\r\nGET", Head),
        ("GET / HTTP/1.1\nx", Head),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab", Idle),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabcP", Head),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Head),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0", Idle),
        ("PRI * HTTP/2.0\r\n\r\nGET", Head),
        ("PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n\r\n", Head),
        ("PRI * HTTP/2.0\r\n\r\nxSM\r\n\r\n", Head),
    ] {
        for size in 1..=text.len().max(1) {
            let activity = Activity::default();
            let mut reader = HeadReader::new(Heads::default(), activity.clone());
            text.as_bytes().chunks(size).for_each(|piece| reader.saw(piece));
            assert_eq!(activity.now().0, phase, "in pieces of {size}: {text:?}");
            assert_eq!(activity.is_http_2(), text.ends_with('\0'), "in pieces of {size}: {text:?}");
        }
    }
}

#[test]
fn it_is_known_what_begins_between_two_requests() {
    use FirstHead::{Clear, Other};
    for (text, is_between, is_in_head, first) in [
        ("", true, false, None),
        ("\r\n", false, true, None),
        ("GET / HTTP/1.1\r\n", false, true, None),
        ("GET / HTTP/1.1\r\n\r\n", true, false, Some(Clear { body: 0 })),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\na", false, false, Some(Clear { body: 3 })),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", true, false, Some(Clear { body: 3 })),
        ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc\r\n", false, true, Some(Clear { body: 3 })),
        ("POST / HTTP/1.1\r\nx-request-id: a\r\ncontent-length: 3\r\n\r\n", false, false, Some(Clear { body: 3 })),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", false, false, Some(Other)),
        ("PRI * HTTP/2.0\r\n\r\n", false, false, None),
        ("GET / HTTP/1.1\n", false, false, Some(Other)),
    ] {
        let (heads, activity) = (Heads::default(), Activity::default());
        let mut framing = Framing::new(tokio::io::empty(), &heads, &activity, std::sync::Arc::new(|_, _| vec![]));
        framing.reader.saw(text.as_bytes());
        let found = (framing.is_between_requests(), framing.is_in_head(), heads.first());
        assert_eq!(found, (is_between, is_in_head, first), "{text:?}");
    }
}

#[test]
fn http_2_begins_with_its_connection_or_not_at_all() {
    let preface = std::str::from_utf8(PREFACE).unwrap();
    for (before, is_http_2) in [("", true), ("\r\n", false), ("GET / HTTP/1.1\r\n\r\n", false)] {
        let text = [before, preface].concat();
        for size in 1..=text.len() {
            let activity = Activity::default();
            let mut reader = HeadReader::new(Heads::default(), activity.clone());
            text.as_bytes().chunks(size).for_each(|piece| reader.saw(piece));
            assert_eq!(activity.is_http_2(), is_http_2, "in pieces of {size}: {text:?}");
        }
    }
}

#[test]
fn what_is_known_of_a_head_that_cannot_be_parsed_is_its_own() {
    let long = "y".repeat(300);
    let (half, target) = ("z".repeat(MAX_HEAD_BYTES / 2), "GET /x");
    for (text, has_long_target, id) in [
        ("GET", true, None),
        ("GET / HTTP/1.1\r\nhost: h\r\nX-Request-Id:  one \r\nx: y\r\nhost", false, Some("one")),
        ("GET / HTTP/1.1\r\nx-request-id: one\r\nx-request-id: two\r\nx: \0\r\n\r\n", false, Some("one")),
        ("G\r\nx-request-id: one\r\n\r\nG\r\nx-request-id: two\r\n\r\n", false, Some("one")),
        (&format!("GET / HTTP/1.1\r\nx-request-id: {long}\r\nhost"), false, None),
        (&format!("{target}{half} HTTP/1.1\r\nx-request-id: one\r\nhost"), true, Some("one")),
        (&format!("{target} HTTP/1.1\r\nx-request-id: one\r\nx: {half}\r\nhost"), false, Some("one")),
    ] {
        for size in (1..100.min(text.len())).chain([1000, text.len()]) {
            let mut reader = HeadReader::new(Heads::default(), Activity::default());
            text.as_bytes().chunks(size).for_each(|piece| reader.saw(piece));
            let (target, found) = reader.unparsed();
            let expected = (has_long_target, id.map(str::as_bytes));
            assert_eq!((target, found.as_deref()), expected, "in pieces of {size}: {:.40}", text);
        }
    }
}
