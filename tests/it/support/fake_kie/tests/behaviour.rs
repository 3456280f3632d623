//! Scripts, gates, outages, and the end of the fake.

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::super::eventually::eventually;
use super::super::{Answer, CREDIT_PATH, FakeKie, MINT_PATH};
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
async fn requests_that_the_real_kie_refuses_are_refused() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    let mint = format!("POST {MINT_PATH}");
    client.send(&mint, "", "{}").await;
    let reply = client.reply().await;
    assert_eq!((reply.head.starts_with("HTTP/1.1 403 "), &*reply.body), (true, &b"error code: 1010"[..]));
    client.send(&mint, "User-Agent: test\r\n", "{}").await;
    assert_eq!(client.reply().await.json()["code"], 401);
    client.send(&mint, AGENT, "{}").await;
    assert_eq!(client.reply().await.json()["code"], 422);
    client.send("GET /nowhere", AGENT, "").await;
    assert_eq!(client.reply().await.json()["path"], "/nowhere");
    client.send(&format!("GET {CREDIT_PATH}"), AGENT, "").await;
    assert_eq!(client.reply().await.json()["data"], 5916.25);
    kie.answer_credit(Answer::unauthorized());
    client.send(&format!("GET {CREDIT_PATH}"), AGENT, "").await;
    assert_eq!(client.reply().await.json()["code"], 401);
    assert_eq!((kie.mints(), kie.requests().len()), (3, 6));
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
#[should_panic(expected = "the fake kie.ai panicked: the fake reads only bodies of a known length")]
async fn a_panicking_fake_fails_its_test() {
    let kie = FakeKie::start();
    let mut client = Client::new(&kie).await;
    client.send(&format!("POST {MINT_PATH}"), "Transfer-Encoding: chunked\r\n", "").await;
    let _ = client.rest().await;
}
