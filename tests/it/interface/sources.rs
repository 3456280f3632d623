//! Source URLs: what is one, which are allowed, and what kie.ai has just refused.

use crate::support::{Answer, FakeKie, Problem, SOURCE, Sidecar, eventually};

#[tokio::test]
async fn what_is_no_absolute_http_url_is_an_invalid_source_url() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("sources.allow", "*")]);
    let invalid = Problem::refused("invalid-source-url");
    let long = format!("https://tempfile.aiquickdraw.com/s/{}", "a".repeat(5000));
    let grows = format!("https://tempfile.aiquickdraw.com/s/{}", "ü".repeat(1500));
    for source in [
        "",
        " ",
        "a.png",
        "/s/a.png",
        "//tempfile.aiquickdraw.com/s/a.png",
        "tempfile.aiquickdraw.com/s/a.png",
        "ftp://tempfile.aiquickdraw.com/s/a.png",
        "file:///etc/passwd",
        "data:text/plain,x",
        "javascript:alert(1)",
        "https:tempfile.aiquickdraw.com/s/a.png",
        "https:///s/a.png",
        "https://",
        "https://tempfile.aiquickdraw.com:99999/s/a.png",
        "https://tempfile.aiquickdraw.com:/x:y@h/",
        "https://user@tempfile.aiquickdraw.com/s/a.png",
        "https://user:password@tempfile.aiquickdraw.com/s/a.png",
        "https://tempfile.aiquickdraw.com@attacker.example/s/a.png",
        "https://tempfile.aiquickdraw.com/s/a\0.png",
        "https://tempfile.aiquickdraw.com/s/a%00.png",
        "https://tempfile.aiquickdraw.com/s/a\r\nX-Evil: 1",
        "https://tempfile.aiquickdraw.com/s/a%0d%0aX-Evil:%201",
        "https://tempfile.aiquickdraw.com/s/\u{85}",
        "https://[::1/s/a.png",
        "https://[::zz]/s/a.png",
        "https://a b/s/a.png",
        "https://xn--a/s/a.png",
        "https://256.256.256.256/s/a.png",
        "https://{127.0.0.1,tempfile.aiquickdraw.com}/s/a.png",
        "https://127.0.0.1;.aiquickdraw.com/s/a.png",
        "https://127.0.0.1'.aiquickdraw.com/s/a.png",
        "https://tempfile..aiquickdraw.com/s/a.png",
        &format!("https://{}.aiquickdraw.com/s/a.png", "a".repeat(64)),
        &long,
        &grows,
    ] {
        if source == "https://tempfile.aiquickdraw.com:/x:y@h/" {
            continue; // See `unusual_hosts`: an empty port is the default one.
        }
        let (document, envelope) = (sidecar.link(source).await, sidecar.download_url(source).await);
        invalid.assert_told(source, &document, &envelope);
    }
    assert_eq!(kie.mints(), 0);
}

#[tokio::test]
async fn unusual_hosts_are_written_in_the_one_way_that_kie_ai_is_asked_in() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("sources.allow", "*")]);
    for (asked, normal) in [
        ("https://Bücher.example/s/a.png", "https://xn--bcher-kva.example/s/a.png"),
        ("https://xn--BCHER-kva.example/s/a.png", "https://xn--bcher-kva.example/s/a.png"),
        ("https://[2001:DB8:0::1]:443/s/a.png", "https://[2001:db8::1]/s/a.png"),
        ("https://[2001:db8::1]:8443/s/a.png", "https://[2001:db8::1]:8443/s/a.png"),
        ("http://192.0.2.1:80", "http://192.0.2.1/"),
        ("https://tempfile.aiquickdraw.com:/s/a.png", "https://tempfile.aiquickdraw.com/s/a.png"),
        ("https://tempfile.aiquickdraw.com/s/ä b.png", "https://tempfile.aiquickdraw.com/s/%C3%A4%20b.png"),
    ] {
        let reply = sidecar.link(asked).await;
        assert_eq!(reply.status, 200, "{asked}: {reply:?}");
        assert_eq!(reply.json()["source_url"], normal, "{asked}");
        let before = kie.mints();
        assert_eq!(sidecar.download_url(normal).await.status, 200, "{asked}");
        assert_eq!(kie.mints(), before, "{asked}: one entry");
        assert!(kie.mints_for(normal) == 1, "{asked}");
    }
}

#[tokio::test]
async fn kie_ai_is_asked_only_for_files_on_allowed_hosts() {
    let kie = FakeKie::start();
    let by_default = Sidecar::start(&kie);
    let configured = Sidecar::with(&kie, &[("sources.allow", "*.example.com, bücher.example, [2001:db8::1]")]);
    let not_allowed = Problem::refused("source-not-allowed");
    for (sidecar, allowed, refused) in [
        (
            &by_default,
            &[
                "tempfile.aiquickdraw.com",
                "TEMPFILEB.aiquickdraw.com:8443",
                "tempfile.redpandaai.co",
                "file.kie.ai",
                "a.b.kie.ai",
            ][..],
            &[
                "kie.ai",
                "evilkie.ai",
                "file.kie.ai.attacker.example",
                "attacker.example",
                "127.0.0.1",
                "169.254.169.254",
                "[::1]",
                "localhost",
                "file.kie.ai.",
            ][..],
        ),
        (
            &configured,
            &["a.example.com", "xn--bcher-kva.example", "[2001:DB8::1]:1"],
            &["example.com", "file.kie.ai", "a.bücher.example", "[2001:db8::2]"],
        ),
    ] {
        for host in allowed {
            let source = format!("https://{host}/s/a.png");
            assert_eq!(sidecar.link(&source).await.status, 200, "{host}");
        }
        let before = kie.mints();
        for host in refused {
            let source = format!("https://{host}/s/a.png");
            let (document, envelope) = (sidecar.link(&source).await, sidecar.download_url(&source).await);
            not_allowed.assert_told(host, &document, &envelope);
        }
        assert_eq!(kie.mints(), before);
    }
}

#[tokio::test]
async fn a_refusal_of_kie_ai_is_remembered_for_that_file_only() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (n, (code, slug)) in [(422, "source-refused"), (404, "source-not-found")].into_iter().enumerate() {
        let source = format!("{SOURCE}?{n}");
        kie.answer_for(&source, Answer::envelope(code, "url is wrong"));
        let first = sidecar.link(&source).await;
        Problem::error(slug, Some(200)).says(code, "url is wrong").assert_document(slug, &first);
        let remembered = Problem::negative(slug).says(code, "url is wrong");
        for _ in 0..2 {
            let (document, envelope) = (sidecar.link(&source).await, sidecar.download_url(&source).await);
            remembered.assert_told(slug, &document, &envelope);
        }
        assert_eq!(kie.mints_for(&source), 1, "{slug}");
        assert_eq!(sidecar.link(&format!("{source}0")).await.status, 200, "another file");
    }
}

#[tokio::test]
async fn a_remembered_refusal_expires() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.negative_ttl", "50ms")]);
    kie.answer_next([Answer::envelope(422, "url is wrong")]);
    assert_eq!(sidecar.link(SOURCE).await.status, 422);
    eventually("kie.ai is asked again", async || sidecar.link(SOURCE).await.status == 200).await;
    assert_eq!(kie.mints(), 2);
}

#[tokio::test]
async fn with_no_memory_for_refusals_kie_ai_is_asked_each_time() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.negative_ttl", "0s")]);
    kie.answer(Answer::envelope(404, "no such file"));
    for n in 1..=3 {
        let reply = sidecar.link(SOURCE).await;
        Problem::error("source-not-found", Some(200)).code(404).assert_document("not found", &reply);
        assert_eq!(kie.mints(), n);
    }
}
