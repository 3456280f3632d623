//! What replicas tell each other by their beats.

use super::*;

#[tokio::test]
async fn beats_tell_who_is_live_without_a_clock() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let views: Vec<_> = (0..5).map(|_| View::of(&replica)).collect();
    let live = async |view: &View<'_>| {
        let beat = view.ask(beat_of(view, None, None, false)).await;
        for (member, record) in &beat.live {
            let told = replica.seals.open(&view.fleet().records, record.as_ref().unwrap()).unwrap();
            assert_eq!(told, Content::Member { at: at(0), text: member.clone() });
        }
        beat.live.len()
    };
    for view in &views {
        live(view).await;
    }
    assert_eq!(live(&views[0]).await, 5);
    // Two die.
    let mut seen = Vec::new();
    for _ in 0..12 {
        for view in &views[..3] {
            seen.push(live(view).await);
        }
    }
    assert_eq!((seen[0], seen.last().copied()), (5, Some(3)), "{seen:?}");
    let beat = views[0].ask(beat_of(&views[0], None, None, false)).await;
    assert_eq!((beat.present, beat.remembered), (3, 5), "the others may be cut off, and keep their shares");
    for _ in 0..110 {
        live(&views[0]).await;
        live(&views[1]).await;
        live(&views[2]).await;
    }
    assert_eq!(server.run(&["ZCARD", &views[0].fleet().members]), redis::Value::Int(3), "the dead are forgotten");
    assert_eq!(server.run(&["HLEN", &views[0].fleet().records]), redis::Value::Int(3));
    let goodbye = views[2].ask(beat_of(&views[2], None, None, true)).await;
    assert_eq!((goodbye.live.len(), goodbye.remembered), (2, 2), "whoever says goodbye has no share");
    server.run(&["DEL", &views[0].fleet().beats]);
    live(&views[0]).await;
    assert_eq!(live(&views[1]).await, 2, "a lost counter begins anew");
}

#[tokio::test]
async fn the_greatest_beacon_is_told_and_dies_by_itself() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let told = async |seconds: i64| {
        let beacon = replica.seals.seal(&view.fleet().beacon, &Content::Beacon { at: at(seconds) });
        let beat = view.ask(beat_of(&view, None, Some(beacon), false)).await;
        match replica.seals.open(&view.fleet().beacon, &beat.beacon.unwrap()).unwrap() {
            Content::Beacon { at } => at.as_second() - self::at(0).as_second(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((told(5).await, told(9).await, told(7).await), (5, 9, 9));
    let redis::Value::Int(left) = server.run(&["PTTL", &view.fleet().beacon]) else { panic!() };
    assert!((1..=30_000).contains(&left), "{left}");
    view.put(1, 0).await;
    let Look::Hit { beacon: Some(_), .. } = view.look(None, Newer::Any).await else { panic!("no beacon with the hit") };
    let silent = view.ask(beat_of(&view, None, None, false)).await;
    assert!(silent.beacon.is_some());
}

#[tokio::test]
async fn what_was_forgotten_is_told_once_and_gaps_are_told() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let view = View::of(&replica);
    let drop = async |name: &str| {
        let file = replica.names.file(name);
        view.ask(Request::drop(&file, view.fleet())).await;
        file.id
    };
    let beat = async |sequence| view.ask(beat_of(&view, sequence, None, false)).await;
    let a = drop("a").await;
    let first = beat(None).await;
    let began = first.sequence;
    assert_eq!((&first.forgotten[..], first.missed), (&[a.clone()][..], false), "who begins hears all");
    let quiet = beat(Some(began)).await;
    assert_eq!((quiet.sequence, quiet.forgotten.len(), quiet.missed), (began, 0, false));
    let b = drop("b").await;
    assert_eq!(drop("a").await, a);
    let heard = beat(Some(began)).await;
    assert_eq!((heard.sequence, &heard.forgotten[..], heard.missed), (began + 2, &[b, a][..], false));
    let restarted = beat(Some(began + 7)).await;
    assert_eq!((restarted.sequence, restarted.missed), (began + 2, true), "the tier has lost its memory");
    assert_eq!(restarted.forgotten.len(), 2, "what was forgotten since is told");
    for number in 0..DELETIONS + 5 {
        drop(&number.to_string()).await;
    }
    let late = beat(Some(began + 2)).await;
    assert!(late.missed);
    assert_eq!(late.forgotten.len(), 1000);
    server.run(&["DEL", &view.fleet().sequence]);
    let evicted = drop("c").await;
    assert_eq!(beat(Some(late.sequence)).await.forgotten, [evicted], "those before it had other numbers");
    server.run(&["FLUSHALL"]);
    let flushed = beat(Some(late.sequence)).await;
    assert_eq!((flushed.sequence, flushed.missed), (0, true));
    let news = drop("d").await;
    assert_eq!(beat(Some(began)).await.forgotten, [news], "as many as before the memory was lost");
}

#[tokio::test]
async fn who_has_died_is_forgotten_after_a_minute_of_those_who_live() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let views: Vec<_> = (0..10).map(|_| View::of(&replica)).collect();
    let beat = async |view: &View<'_>| {
        let beat = view.ask(beat_of(view, None, None, false)).await;
        (beat.live.len(), beat.present, beat.remembered)
    };
    for view in &views {
        beat(view).await;
    }
    assert_eq!(beat(&views[0]).await, (10, 10, 10));
    // One that beats in haste is no sign that the others are gone.
    for _ in 0..20 {
        assert_eq!(beat(&views[0]).await, (10, 10, 10));
    }
    for (second, of) in [(25, (2, 2, 10)), (55, (2, 2, 10)), (66, (2, 2, 2))] {
        server.run(&["DEL", &views[0].fleet().beats, &views[0].fleet().members]);
        for view in &views {
            beat(view).await;
        }
        let mut last = (0, 0, 0);
        for _ in 0..second {
            for view in &views[..2] {
                last = beat(view).await;
            }
        }
        assert_eq!(last, of, "eight of ten died {second} s ago");
    }
}

/// Whoever thinks that it is alone takes the whole rate.
#[tokio::test]
async fn a_tier_that_is_full_is_not_one_that_knows_nobody() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let (one, other) = (View::of(&replica), View::of(&replica));
    one.ask(beat_of(&one, None, None, false)).await;
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let beat = replica.tier.ask(beat_of(&other, None, None, false), PATIENCE).await;
    assert!(beat.is_err(), "{beat:?}");
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("it is used again", async || {
        replica.tier.ask(beat_of(&other, None, None, false), PATIENCE).await.is_ok()
    })
    .await;
    assert_eq!(other.ask(beat_of(&other, None, None, false)).await.live.len(), 2);
}
