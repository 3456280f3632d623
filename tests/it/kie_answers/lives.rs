//! Good answers, and how long their links live.

use std::time::Duration;

use jiff::Timestamp;

use crate::support::{Answer, FakeKie, Problem, Reply, SOURCE, Sidecar};

fn max_age(reply: &Reply) -> u64 {
    let seconds = reply.header("cache-control").strip_prefix("private, max-age=");
    seconds.unwrap_or_else(|| panic!("{reply:?}")).parse().unwrap()
}

/// From the answer's `Date` to its `expires_at`.
fn life(reply: &Reply) -> i64 {
    let date: Timestamp = httpdate::parse_http_date(reply.header("date")).unwrap().try_into().unwrap();
    let end: Timestamp = reply.json()["expires_at"].as_str().unwrap().parse().unwrap();
    end.duration_since(date).as_secs()
}

#[tokio::test]
async fn a_link_is_kept_as_long_as_it_lives_whatever_kie_ais_clock_says() {
    let left = |seconds| Answer::link().life_left(Duration::from_secs(seconds));
    let bare = |query: &str| Answer::link_is(format!("https://x.r2.cloudflarestorage.com/a{query}"));
    for (what, answer, full) in [
        ("a full life", Answer::link(), 1200),
        ("no expiry", Answer::link().without_expiry(), 1200),
        ("no expiry, no Date", Answer::link().without_expiry().without_header("date"), 1200),
        ("no Date", Answer::link().without_header("date"), 1200),
        ("no sensible Date", Answer::link().with_header("date", "yesterday"), 1200),
        ("an hour ahead", Answer::link().clock_off(3600), 1200),
        ("an hour behind", Answer::link().clock_off(-3600), 1200),
        ("years behind", Answer::link().clock_off(-300_000_000), 1200),
        ("longer than documented", left(7200), 1200),
        ("half a life", left(600), 600),
        ("half a life, an hour ahead", left(600).clock_off(3600), 600),
        ("half a life, an hour behind", left(600).clock_off(-3600), 600),
        ("hardly more than the margin", left(90), 90),
        ("a life without a date", bare("?X-Amz-Expires=300"), 300),
        ("another host's", bare(".png"), 1200),
    ] {
        // A kielink of its own for each: what the clock of one answer shows, the next one contradicts.
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        kie.answer(answer);
        let reply = sidecar.link(&format!("{SOURCE}?{}", crate::support::encode(what))).await;
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
        // Seconds are cut, a test machine may be slow, and a server's `Date` may lag; the deadline may never be late.
        let (life, max_age) = (life(&reply), max_age(&reply));
        assert!((full - 20..=full + 1).contains(&life), "{what}: {life} of {full} s");
        let deadline = full.cast_unsigned() - 60;
        assert!((deadline - 20..=deadline).contains(&max_age), "{what}: {max_age} of {deadline} s");
        assert_eq!(kie.mints(), 1, "{what}: it was good at once");
    }
}

#[tokio::test]
async fn a_link_that_arrives_nearly_dead_is_minted_once_more_and_then_an_error() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (n, left) in [0, 30, 60].into_iter().enumerate() {
        let nearly_dead = Answer::link().life_left(Duration::from_secs(left));
        let source = format!("{SOURCE}?{n}");
        kie.answer_for(&source, nearly_dead.clone());
        let document = sidecar.link(&source).await;
        assert_eq!(kie.mints_for(&source), 2, "{left} s");
        let envelope = sidecar.download_url(&source).await;
        assert_eq!(kie.mints_for(&source), 2, "{left} s: it is not asked for again so soon");
        Problem::error("upstream-error", None).assert_told("nearly dead", &document, &envelope);
        let forget = format!("{}/v1/link?url={}", sidecar.admin_url(), crate::support::encode(&source));
        sidecar.send(sidecar.client().delete(forget)).await;
        kie.answer_next([nearly_dead, Answer::link()]);
        let reply = sidecar.link(&source).await;
        assert_eq!((reply.status, kie.mints_for(&source)), (200, 4), "{left} s: nothing was cached");
        assert_eq!(reply.json()["url"], kie.links_given().last().unwrap().as_str());
    }
}

#[tokio::test]
async fn good_answers_are_good_in_any_dress() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let long = format!("https://x.example/{}", "a".repeat(8 * 1024 - 18));
    let spaced = "{ \"data\" : \"https:\\/\\/x.example\\/a\" ,\r\n \"more\" : {}, \"code\" : 200 }";
    for (n, (what, answer)) in [
        ("no Content-Type", Answer::link().without_content_type()),
        ("another Content-Type", Answer::link().with_header("content-type", "text/html")),
        ("gzip", Answer::link().gzip()),
        (
            "gzip in capitals",
            Answer::link().gzip().without_header("content-encoding").with_header("Content-Encoding", "GZIP"),
        ),
        (
            "gzip by its old name",
            Answer::link().gzip().without_header("content-encoding").with_header("Content-Encoding", "x-gzip"),
        ),
        ("gzip without Content-Type", Answer::link().gzip().without_content_type()),
        ("HTTP 201", Answer::link().http_status(201)),
        ("closed after it", Answer::link().with_header("connection", "close").then_close_silently()),
        ("the longest link", Answer::link_is(&long)),
        ("a port", Answer::link_is("https://x.example:8443/a")),
        ("a fragment", Answer::link_is("https://x.example/a#b")),
        ("other spaces and fields", Answer::body(spaced)),
        ("the code as text", Answer::body("{\"code\":\"200\",\"data\":\"https://x.example/a\"}")),
        ("a small cached copy", Answer::link().with_header("age", "500").with_header("cache-control", "max-age=9")),
    ]
    .into_iter()
    .enumerate()
    {
        kie.answer(answer);
        let reply = sidecar.link(&format!("{SOURCE}?{n}")).await;
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
        assert_eq!(kie.mints(), n + 1, "{what}");
        if let Some(given) =
            kie.links_given().last().filter(|_| !what.starts_with("other") && !what.starts_with("the code"))
        {
            assert_eq!(reply.json()["url"], given.as_str(), "{what}: to the letter");
        }
    }
}

/// In whatever form kie.ai's file host may come to write it; and what only looks like an end takes no life.
#[tokio::test]
async fn an_end_is_read_in_many_forms_and_no_link_is_lost_over_one_that_cannot_be_read() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (query, full) in [
        ("x-expires=1764120300&x-signature=s", 300),
        ("Expires=1764120300000", 300),
        ("expires=Wed,+26+Nov+2025+01:25:00+GMT", 300),
        ("se=2025-11-26T01%3A25%3A00Z&sv=2024-08-04&sig=s", 300),
        ("ex=692656ec&is=692655c0", 300),
        ("expires=300", 300),
        ("q-sign-time=1764120000;1764120300", 300),
        ("hdnts=st=1764119998~exp=1764120300~acl=/*", 300),
        // {"iat":1764119998,"exp":1764120300}
        ("token=eyJhbGciOiJIUzI1NiJ9.eyJpYXQiOjE3NjQxMTk5OTgsImV4cCI6MTc2NDEyMDMwMH0.c2ln", 300),
        ("expand=1&size=1764120000&t=1764120001", 1200),
        ("verify=1764120300-c2ln%3D", 300),
        ("auth=exp%3A1764120300%20sig%3Dab", 300),
        ("Expires=never", 1200),
        ("e=0", 1200),
        ("X-Amz-Date=soon&X-Amz-Expires=1200", 1200),
    ] {
        let link = Answer::link_is(format!("https://x.r2.cloudflarestorage.com/a?{query}"));
        kie.answer(link.with_header("date", "Wed, 26 Nov 2025 01:20:00 GMT"));
        let reply = sidecar.link(&format!("{SOURCE}?{}", crate::support::encode(query))).await;
        assert_eq!(reply.status, 200, "{query}: {reply:?}");
        let deadline = full - 60;
        assert!((deadline - 20..=deadline).contains(&max_age(&reply)), "{query}: {reply:?}");
    }
    for query in ["Expires=1764119999", "X-Amz-Date=20251126T010000Z&X-Amz-Expires=1200.0", "e=1"] {
        let link = Answer::link_is(format!("https://x.r2.cloudflarestorage.com/a?{query}"));
        kie.answer(link.with_header("date", "Wed, 26 Nov 2025 01:20:00 GMT"));
        let reply = sidecar.link(&format!("{SOURCE}?over&{query}")).await;
        assert_eq!((reply.status, reply.slug().as_str()), (502, "upstream-error"), "{query}");
    }
}

#[tokio::test]
async fn an_answer_that_a_gateway_has_kept_brings_what_is_left_of_the_life() {
    let kept = || Answer::link().clock_off(-900).with_header("age", "900");
    for (what, answer) in [("an end of its own", kept()), ("none", kept().without_expiry())] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        kie.answer(answer);
        let reply = sidecar.link(SOURCE).await;
        assert!((235..=240).contains(&max_age(&reply)), "{what}: {reply:?}");
        assert!((280..=301).contains(&life(&reply)), "{what}: {reply:?}");
    }
}

/// A hypervisor that pauses its guest stops all of that guest's clocks; here kie.ai's runs ahead instead.
#[tokio::test]
async fn a_link_is_withheld_when_kie_ai_s_clock_shows_that_it_has_ended_and_given_again_when_that_was_wrong() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let source = |n: u32| format!("{SOURCE}?{n}");
    let first = sidecar.link(&source(0)).await.json()["url"].clone();
    kie.answer(Answer::link().clock_off(1170));
    assert_eq!(sidecar.link(&source(1)).await.status, 200);
    let cached = async |n: u32| {
        let path = format!("/v1/link?url={}", crate::support::encode(&source(n)));
        sidecar.get_with(&path, "cache-control", "only-if-cached").await
    };
    assert_eq!(cached(0).await.slug(), "not-cached", "less than the margin may be left");
    assert_eq!(cached(1).await.status, 200, "it is younger");
    kie.answer(Answer::link());
    for n in 2..5 {
        assert_eq!(sidecar.link(&source(n)).await.status, 200, "{n}: one wrong clock spoils nothing that comes later");
    }
    assert_eq!(cached(0).await.json()["url"], first, "three answers later it is known to have been wrong");
}

#[tokio::test]
async fn the_same_link_again_has_the_end_that_it_had() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.answer(Answer::link_is("https://x.r2.cloudflarestorage.com/always"));
    let first = sidecar.link(SOURCE).await.json()["expires_at"].clone();
    let first: Timestamp = first.as_str().unwrap().parse().unwrap();
    crate::support::eventually("a second or two have passed", async || {
        let path = format!("/v1/link?url={}", crate::support::encode(SOURCE));
        let again = sidecar.get_with(&path, "cache-control", "min-fresh=9999").await;
        let again: Timestamp = again.json()["expires_at"].as_str().unwrap().parse().unwrap();
        assert!(again.duration_since(first).as_secs().abs() <= 1, "{again} after {first}");
        kie.mints() > 1
    })
    .await;
}
