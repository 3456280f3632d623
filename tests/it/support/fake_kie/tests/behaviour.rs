//! Scripts, gates, outages, and the end of the fake.

use std::time::Duration;

use kielink::kie_sim::{Ending, Host, World, converse};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::super::eventually::eventually;
use super::super::{Answer, FakeKie, MINT_PATH};
use super::SOURCE;
use super::client::{AGENT, Client};

#[tokio::test]
async fn the_script_is_the_queue_then_the_source_then_the_usual() {
    let kie = FakeKie::start();
    kie.answer(Answer::too_frequent());
    kie.answer_for(SOURCE, Answer::envelope(455, "maintenance"));
    kie.answer_next([Answer::data(json!(1)), Answer::link_is("http://x").http_status(201)]);
    let mut client = Client::new(&kie).await;
    assert_eq!(client.mint(SOURCE).await.json()["data"], 1);
    let second = client.mint("other").await;
    assert!(second.head.starts_with("HTTP/1.1 201 \r\n"));
    assert_eq!(second.json()["data"], "http://x");
    assert_eq!(client.mint(SOURCE).await.json()["code"], 455);
    assert_eq!(client.mint("other").await.json()["code"], 429);
    assert_eq!((kie.mints_for(SOURCE), kie.mints_for("other"), kie.mints_for("none")), (2, 2, 0));
    assert_eq!(kie.links_given(), ["http://x"]);
}

#[tokio::test]
async fn held_requests_are_counted_and_go_on_in_order_when_released() {
    let kie = FakeKie::start();
    kie.hold();
    let mut clients = Vec::new();
    for n in 1..=3 {
        let mut client = Client::new(&kie).await;
        client.send_mint(SOURCE).await;
        kie.wait_for_mints(n).await;
        clients.push(client);
    }
    assert_eq!((kie.in_flight(), kie.max_in_flight_per_source()), (3, 3));
    kie.answer_next((1..=3).map(|n| Answer::data(json!(n))));
    // The one that hung up does not use up a release.
    drop(clients.remove(0));
    eventually("two are left", || async { kie.in_flight() == 2 }).await;
    kie.release_one();
    assert_eq!(clients[0].reply().await.json()["data"], 1);
    assert_eq!(kie.in_flight(), 1);
    kie.release();
    assert_eq!(clients[1].reply().await.json()["data"], 2);
    assert_eq!(clients[0].mint(SOURCE).await.json()["data"], 3);
    kie.hold();
    kie.release_one();
    assert_eq!(clients[0].mint(SOURCE).await.json()["code"], 200);
    clients[0].send_mint(SOURCE).await;
    assert!(timeout(Duration::from_millis(100), clients[0].head()).await.is_err());
}

#[tokio::test]
async fn an_outage_resets_and_refuses_until_it_ends() {
    let kie = FakeKie::start();
    kie.hold();
    let mut idle = Client::new(&kie).await;
    let mut held = Client::new(&kie).await;
    held.send_mint(SOURCE).await;
    kie.wait_for_mints(1).await;
    for _ in 0..3 {
        kie.stop_listening();
        kie.stop_listening();
        let refused = TcpStream::connect(("127.0.0.1", kie.port)).await.unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        kie.listen_again();
        kie.listen_again();
    }
    for client in [&mut idle, &mut held] {
        assert_eq!(client.rest().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(kie.in_flight(), 0);
    kie.release();
    assert_eq!(Client::new(&kie).await.mint(SOURCE).await.json()["code"], 200);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_mints_takes_real_time() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    let (reply, ()) = tokio::join!(client.mint(SOURCE), kie.wait_for_mints(1));
    assert_eq!(reply.json()["code"], 200);
}

#[tokio::test]
#[should_panic(expected = "the fake kie.ai was sent what is no request")]
async fn what_is_no_request_fails_its_test() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    client.send(&format!("POST {MINT_PATH}"), "Transfer-Encoding: gzip\r\n", "").await;
    assert!(client.head().await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn one_bad_file_and_a_refused_account_are_bad_until_they_are_good_again() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    kie.answer_for(SOURCE, Answer::bare(403));
    client.send_mint(SOURCE).await;
    assert!(client.head().await.starts_with("HTTP/1.1 403 "));
    let mut client = Client::new(&kie).await;
    assert_eq!(client.mint("other").await.json()["code"], 200);
    kie.refuse_account(Answer::code(402).with_header("Retry-After", "soon").with_header("Retry-After", "7"));
    for source in [SOURCE, "other"] {
        let reply = client.mint(source).await;
        assert_eq!((reply.json()["code"].as_u64(), reply.head.matches("Retry-After: ").count()), (Some(402), 2));
    }
    kie.refuse_account(None);
    assert_eq!(client.mint("other").await.json()["code"], 200);
}

#[tokio::test]
async fn a_connection_that_fell_silent_stays_open_and_says_nothing_while_new_ones_are_fine() {
    let kie = FakeKie::start();
    kie.hold();
    let mut idle = Client::new(&kie).await;
    let mut held = Client::new(&kie).await;
    held.send_mint(SOURCE).await;
    kie.wait_for_mints(1).await;
    eventually("both are known", || async { kie.connections() == 2 }).await;
    kie.mute_connections();
    kie.release();
    idle.send_mint("other").await;
    kie.wait_for_mints(2).await;
    assert_eq!(Client::new(&kie).await.mint(SOURCE).await.json()["code"], 200);
    for client in [&mut idle, &mut held] {
        assert!(timeout(Duration::from_millis(50), client.rest()).await.is_err());
    }
    // What waits on them has not been answered, until its peer gives it up.
    assert_eq!(kie.in_flight(), 2);
    drop((idle, held));
    eventually("they are gone", || async { kie.in_flight() == 0 }).await;
}

#[tokio::test]
async fn a_silence_ends_and_what_was_asked_is_answered_then() {
    let kie = FakeKie::start();
    kie.be_silent(Duration::from_secs(3600));
    let mut client = Client::new(&kie).await;
    client.send_mint(SOURCE).await;
    kie.wait_for_mints(1).await;
    assert!(timeout(Duration::from_millis(50), client.head()).await.is_err());
    kie.be_silent(Duration::ZERO);
    assert_eq!(client.reply().await.json()["code"], 200);
}

#[tokio::test]
async fn connections_are_closed_when_told_at_once_or_when_they_are_used_again() {
    let kie = FakeKie::start();
    let mut first = Client::new(&kie).await;
    kie.answer_kept(Answer::close());
    first.mint(SOURCE).await;
    first.send_mint(SOURCE).await;
    assert_eq!(first.rest().await.unwrap(), b"");
    kie.answer_kept(None);

    for (end, kind) in [
        (World::close_connections as fn(&World), None),
        (World::reset_connections, Some(std::io::ErrorKind::ConnectionReset)),
    ] {
        let mut client = Client::new(&kie).await;
        client.mint(SOURCE).await;
        end(&kie);
        assert_eq!(client.rest().await.err().map(|why| why.kind()), kind);
    }

    kie.hang_up(Duration::from_secs(3600));
    assert_eq!(Client::new(&kie).await.rest().await.unwrap(), b"");
    kie.hang_up(Duration::ZERO);
    assert_eq!(Client::new(&kie).await.mint(SOURCE).await.json()["code"], 200);
}

#[tokio::test]
async fn any_stream_is_served() {
    let kie = FakeKie::start();
    let (mut client, mut server) = tokio::io::duplex(1 << 16);
    let world = kie.world();
    let request = format!("POST {MINT_PATH} HTTP/1.1\r\n{AGENT}Connection: close\r\nContent-Length: 15\r\n\r\n");
    client.write_all(format!("{request}{{\"url\":\"some\"}}\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    let (ending, read) = tokio::join!(converse(&world, Host::Kie, &mut server), client.read_to_string(&mut answer));
    assert!(read.is_ok() && answer.contains("{\"code\":200"), "{answer}");
    assert_eq!((ending, kie.connections(), kie.mints_for("some")), (Ending::Closed, 1, 1));
}
