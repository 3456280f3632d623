//! Every answer is, on the wire, what its name says.

use std::io::Read;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::super::{Answer, FakeKie, MINT_PATH};
use super::SOURCE;
use super::client::Client;

#[tokio::test]
async fn the_usual_answer_is_a_new_link_on_a_kept_connection() {
    let kie = FakeKie::start();
    assert_eq!(kie.mint_url(), format!("{}{MINT_PATH}", kie.base_url()));
    let mut client = Client::new(&kie).await;
    let first = client.mint(SOURCE).await;
    let second = client.mint(SOURCE).await;
    assert!(first.head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(first.header("content-type"), Some("application/json;charset=UTF-8"));
    assert!(first.header("set-cookie").unwrap().starts_with("JSESSIONID="));
    assert_eq!(first.json()["code"], 200);
    assert_eq!(first.link().end(), first.date() + 1200);
    assert_eq!(first.link().file(), second.link().file());
    assert_ne!(first.link().parameter("X-Amz-Signature"), second.link().parameter("X-Amz-Signature"));
    assert_eq!(kie.links_given(), [first.link().0, second.link().0]);
    assert_eq!((kie.mints(), kie.connections(), kie.in_flight()), (2, 1, 0));
    assert_eq!(kie.max_in_flight_per_source(), 1);
    let requests = kie.requests();
    assert_eq!(requests[0].source.as_deref(), Some(SOURCE));
    assert_eq!(requests[0].header("authorization"), Some("Bearer canary"));
    assert_eq!(requests[0].body, json!({ "url": SOURCE }).to_string().into_bytes());
    assert!(requests[0].at < requests[1].at);
}

#[tokio::test]
async fn links_end_when_they_are_told_to_by_kies_clock() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    let left = Duration::from_secs;
    for (answer, clock_off, date_off, life_left, life) in [
        (Answer::link().life_left(left(61)), 0, 0, 61, "1200"),
        (Answer::link().life_left(left(0)), 0, 0, 0, "1200"),
        (Answer::link().life_left(left(7200)), 0, 0, 7200, "7200"),
        (Answer::link().life_left(left(61)).clock_off(-86_400), -86_400, 0, 61, "1200"),
        (Answer::link().date_off(30), 0, 30, 1200, "1200"),
        (Answer::link().kept_for(left(900)), -900, 0, 1200, "1200"),
    ] {
        kie.answer(answer);
        let reply = client.mint(SOURCE).await;
        assert_eq!(reply.link().end() - reply.date(), life_left - date_off);
        assert_eq!(reply.link().parameter("X-Amz-Expires"), Some(life));
        #[expect(clippy::disallowed_methods, reason = "to compare with kie's")]
        let machine = Timestamp::now().as_second();
        assert_eq!(reply.header("age"), (clock_off == -900).then_some("900"));
        assert!((reply.date() - clock_off - date_off - machine).abs() <= 2);
    }
    kie.answer(Answer::link());
    kie.clock_off(1170);
    let (before, after) = (client.mint(SOURCE).await, client.mint(SOURCE).await);
    assert_eq!((before.link().end() - before.date(), after.link().end() - after.date()), (1200, 1200));
    #[expect(clippy::disallowed_methods, reason = "to compare with kie's")]
    let machine = Timestamp::now().as_second();
    assert!((before.date() - 1170 - machine).abs() <= 2);
    kie.answer(Answer::link().without_expiry().without_content_type().without_header("Date"));
    let reply = client.mint(SOURCE).await;
    assert_eq!((reply.header("content-type"), reply.header("date")), (None, None));
    assert_eq!((reply.link().parameter("X-Amz-Date"), reply.link().parameter("X-Amz-Expires")), (None, None));
    assert!(reply.link().parameter("X-Amz-Signature").is_some());
}

#[tokio::test]
async fn links_are_written_as_told_and_given_again_when_told() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    kie.answer(Answer::link_like("https://x.example/{id}?x-expires={end}").life_left(Duration::from_secs(300)));
    let first = client.mint(SOURCE).await;
    let end: i64 = first.link().parameter("x-expires").unwrap().parse().unwrap();
    assert_eq!(end - first.date(), 300);
    assert_ne!(client.mint(SOURCE).await.link().0, first.link().0);
    kie.answer(Answer::link().again());
    let same = client.mint(SOURCE).await.link().0;
    assert_eq!(kie.links_given()[1..], [same.clone(), same]);
    let new = client.mint("https://tempfile.aiquickdraw.com/r/2.png").await;
    assert_eq!(client.mint("https://tempfile.aiquickdraw.com/r/2.png").await.link().0, new.link().0);
}

#[tokio::test]
async fn answers_come_in_the_shapes_they_are_named_after() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;

    kie.answer(Answer::html(502).with_header("x-a", "1").with_header("Server", "awselb"));
    let reply = client.mint(SOURCE).await;
    assert!(reply.head.starts_with("HTTP/1.1 502 ") && reply.body.starts_with(b"<html>"));
    assert_eq!((reply.header("content-type"), reply.header("x-a")), (Some("text/html"), Some("1")));
    assert_eq!((reply.header("server"), reply.head.matches("erver: ").count()), (Some("awselb"), 1));

    kie.answer(Answer::spring_404());
    let reply = client.mint(SOURCE).await;
    assert_eq!((reply.json()["status"].clone(), reply.json()["path"].clone()), (json!(404), json!(MINT_PATH)));

    kie.answer(Answer::empty());
    assert!(client.mint(SOURCE).await.body.is_empty());
    kie.answer(Answer::body("["));
    assert_eq!(client.mint(SOURCE).await.body, b"[");

    kie.answer(Answer::redirect("http://127.0.0.1:1/"));
    let reply = client.mint(SOURCE).await;
    assert_eq!(
        (reply.head.starts_with("HTTP/1.1 307 "), reply.header("location")),
        (true, Some("http://127.0.0.1:1/"))
    );

    kie.answer(Answer::echo_key(422));
    let reply = client.mint(SOURCE).await;
    assert_eq!(reply.header("x-heard"), Some("Bearer canary"));
    assert!(reply.json()["msg"].as_str().unwrap().contains("Bearer canary"));
    assert!(reply.json()["data"].as_str().unwrap().contains("canary"));

    kie.answer(Answer::thousands_of_headers());
    assert!(client.mint(SOURCE).await.head.lines().count() > 5000);

    kie.answer(Answer::big(5_000_000));
    let reply = client.mint(SOURCE).await;
    assert_eq!((reply.body.len(), reply.json()["code"].clone()), (5_000_000, json!(200)));
}

#[tokio::test]
async fn gzip_is_good_and_the_bomb_is_valid_gzip_too() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    kie.answer_next([Answer::link().gzip(), Answer::gzip_bomb()]);

    let reply = client.mint(SOURCE).await;
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(&*reply.body).read_to_string(&mut text).unwrap();
    assert!(text.contains(&kie.links_given()[0]));

    let reply = client.mint(SOURCE).await;
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert!(reply.body.len() < 1_000_000, "{}", reply.body.len());
    // Only the beginning: inflating all of it takes seconds in a debug build.
    let mut start = vec![0; 3_000_000];
    flate2::read::GzDecoder::new(&*reply.body).read_exact(&mut start).unwrap();
    assert!(start.iter().all(|byte| *byte == b' '));
}

#[tokio::test]
async fn connections_end_as_badly_as_they_are_told_to() {
    let kie = FakeKie::start();
    kie.answer_next([
        Answer::link().then_close_silently(),
        Answer::raw("HTTP/1.1 2"),
        Answer::link().with_header("content-length", "5000").then_close_silently(),
        Answer::close(),
        Answer::reset(),
        Answer::link().cut_off(),
    ]);
    let mut client = Client::new(&kie).await;
    assert_eq!(client.mint(SOURCE).await.header("connection"), Some("keep-alive"));
    assert_eq!(client.rest().await.unwrap(), b"");

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    assert_eq!(client.rest().await.unwrap(), b"HTTP/1.1 2");

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    assert!(!client.head().await.to_lowercase().contains("transfer-encoding"));
    assert!(client.rest().await.unwrap().len() < 5000);

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    assert_eq!(client.rest().await.unwrap(), b"");

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    assert_eq!(client.rest().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    assert!(client.head().await.contains("chunked"));
    let rest = String::from_utf8(client.rest().await.unwrap()).unwrap();
    assert!(rest.contains("{\"code\":200") && !rest.ends_with("0\r\n\r\n"), "{rest}");
    assert_eq!(kie.in_flight(), 0);
}

#[tokio::test]
async fn slow_answers_are_slow_and_end_with_their_peer() {
    let kie = FakeKie::start();
    let soon = Duration::from_millis(200);
    kie.answer_next([Answer::hang(), Answer::drip(), Answer::endless(), Answer::link().after(soon)]);

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    assert!(timeout(soon, client.head()).await.is_err());
    assert_eq!(kie.in_flight(), 1);
    drop(client);

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    client.head().await;
    assert!(timeout(soon, client.0.read_u8()).await.is_err());
    timeout(Duration::from_secs(5), client.0.read_u8()).await.unwrap().unwrap();
    drop(client);

    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    client.head().await;
    client.0.read_exact(&mut vec![0; 20_000_000]).await.unwrap();
    drop(client);

    let began = tokio::time::Instant::now();
    let mut client = Client::new(&kie).await;
    client.mint(SOURCE).await;
    assert!(began.elapsed() >= soon);
    // None of those who hung up counts as asking twice at once.
    assert_eq!((kie.max_in_flight_per_source(), kie.in_flight()), (1, 0));
}
