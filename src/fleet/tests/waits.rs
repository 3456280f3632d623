//! Who waits for mints of other replicas.

use std::sync::atomic::AtomicI64;

use futures_util::future::{FutureExt as _, join_all};

use super::*;
use crate::shared::{FileNames, Holder, Look, Newer, PEEK, model::Manner};

fn file(number: usize) -> Source {
    Source::parse(&format!("https://h.kie.ai/{number}")).unwrap()
}

/// Has the leases of files 0 to `count`, and keeps them as if it were minting.
async fn holds(fleet: &Fleet, count: usize) {
    let (realm, holder) = (fleet.0.realms().remove(0), fleet.0.holder());
    let files: Vec<_> = (0..count).map(|number| realm.file(&file(number))).collect();
    let looks = files.iter().map(|file| realm.ask(look(&realm, file, Some(&holder)), BEHIND));
    assert!(join_all(looks).await.into_iter().all(|look| look == Ok(Look::Mine)));
    fleet.0.tasks.spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _ = realm.ask(Request::renew(files.iter().map(|file| (file, &holder))), BEHIND).await;
        }
    });
}

fn look(realm: &Realm, file: &FileNames, holder: Option<&Holder>) -> Request<Look> {
    Request::look(file, realm.names.fleet(), holder, Newer::Any)
}

#[tokio::test(start_paused = true)]
async fn mints_of_others_are_asked_about_together_and_less_often_the_longer_they_take() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (fleet, other) = pair(&clock, &tier).await;
    holds(&other, PEEK + 1).await;
    let script = Arc::new(Script::default());
    let minter = Minter::new(fleet.clone(), Arc::clone(&script) as Arc<dyn Mint>);
    let began = clock.now();
    let files: Vec<_> = (0..=PEEK).map(file).collect();
    let waits = files.iter().map(|file| minter.mint(file, ask(Reason::Miss, began + Duration::from_secs(30))));
    let calls_within = async |from, to| {
        let until = |millis| tokio::time::sleep(clock.now().until(began + Duration::from_millis(millis)));
        until(from).await;
        let before = tier.counts().0;
        until(to).await;
        tier.counts().0 - before
    };
    tokio::select! {
        _ = join_all(waits) => panic!("none is over"),
        () = async {
            let calls = calls_within(100, 500).await;
            assert!((16..=22).contains(&calls), "two trips every 40 ms: {calls}");
            // Between two looks.
            let calls = calls_within(6_300, 7_700).await;
            assert!((8..=18).contains(&calls), "two every 240 ms, and renewals: {calls}");
        } => {}
    }
    assert_eq!(script.0.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn who_waits_goes_on_where_the_tier_is_asked_too_much_at_once() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (fleet, other) = pair(&clock, &tier).await;
    holds(&other, 1).await;
    let script = Arc::new(Script::default());
    let minter = Minter::new(fleet.clone(), Arc::clone(&script) as Arc<dyn Mint>);
    let (began, awaited) = (clock.now(), file(0));
    let realm = fleet.0.realms().remove(0);
    let another = realm.file(&file(1));
    let mut crowd = Vec::new();
    tokio::select! {
        _ = minter.mint(&awaited, ask(Reason::Miss, began + Duration::from_secs(30))) => panic!("it is not over"),
        () = async {
            tokio::time::sleep(Duration::from_millis(35)).await;
            tier.behave(Manner::Silent);
            while crowd.len() < 2000 {
                let mut asks = Box::pin(realm.ask(look(&realm, &another, None), BEHIND));
                let answer = (&mut asks).now_or_never();
                crowd.push(asks);
                if answer == Some(Err(shared::Error::Busy)) {
                    break;
                }
            }
            assert!((1000..2000).contains(&crowd.len()), "{}", crowd.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
            tier.behave(Manner::Answers);
            tokio::time::sleep(Duration::from_millis(200)).await;
        } => {}
    }
    assert_eq!((script.0.load(Ordering::Relaxed), fleet.state()), (0, State::Up));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_lasts_longer_than_any_is_not_waited_for() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let (now, shift) = (clock.clone(), Arc::new(AtomicI64::new(0)));
    let tier = shared::model::Model::new(1, {
        let shift = Arc::clone(&shift);
        move || {
            let millis = i64::try_from(now.now().since_origin().as_millis()).unwrap();
            1_000_000_000_000 + millis + shift.load(Ordering::Relaxed)
        }
    });
    let (fleet, other) = pair(&clock, &tier).await;
    let (realm, holder, awaited) = (other.0.realms().remove(0), other.0.holder(), file(0));
    let names = realm.file(&awaited);
    assert_eq!(realm.ask(look(&realm, &names, Some(&holder)), BEHIND).await, Ok(Look::Mine));
    let minter = Minter::new(fleet, Arc::new(Script::default()));
    let began = clock.now();
    let (result, ()) = tokio::join!(minter.mint(&awaited, ask(Reason::Miss, began + Duration::from_secs(30))), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        // Nobody renews it, and by the tier's clock it lasts an hour.
        shift.store(-3_600_000, Ordering::Relaxed);
    });
    assert!(matches!(result, Err(Error::Timeout)), "it is minted here");
    let after = began.until(clock.now());
    assert!((2000..4000).contains(&after.as_millis()), "{after:?}");
}

/// A replica's mint while the tier's words change every 30 ms.
async fn is_minted_here_while(change: impl AsyncFn(Fleet, FileNames, usize)) {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (fleet, other) = pair(&clock, &tier).await;
    holds(&other, 1).await;
    let minter = Minter::new(fleet, Arc::new(Script::default()));
    let (began, awaited) = (clock.now(), file(0));
    let names = other.0.realms()[0].file(&awaited);
    tokio::select! {
        result = minter.mint(&awaited, ask(Reason::Miss, began + Duration::from_secs(30))) => {
            assert!(matches!(result, Err(Error::Timeout)), "it is minted here");
        }
        () = async {
            for number in 1..2000 {
                change(other.clone(), names.clone(), number).await;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        } => panic!("it is waited for without end"),
    }
    let after = began.until(clock.now());
    assert!((100..3000).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_goes_from_hand_to_hand_is_not_waited_for_without_end() {
    is_minted_here_while(async |other: Fleet, names, _| {
        let realm = other.0.realms().remove(0);
        let Ok(Look::Wait { holder, .. }) = realm.ask(look(&realm, &names, None), BEHIND).await else { panic!() };
        assert_eq!(realm.ask(Request::steal(&names, &other.0.holder(), &holder), BEHIND).await, Ok(true));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn links_that_are_ever_newer_and_of_no_use_are_not_waited_for_without_end() {
    is_minted_here_while(async |other: Fleet, names, number| {
        let realm = other.0.realms().remove(0);
        let minted_at = jiff::Timestamp::from_second(1_780_000_000 + i64::try_from(number).unwrap()).unwrap();
        // Nobody knows kie.ai's clock.
        let kept = shared::Kept { minted_at, ends_at: minted_at, text: "https://h.example/l".to_owned() };
        let sealed = realm.seals.seal(&names.link, &shared::Content::Link(kept));
        let put = Request::put(&names, &other.0.holder(), sealed, Duration::from_secs(60));
        assert_eq!(realm.ask(put, BEHIND).await, Ok(shared::Put::Kept));
    })
    .await;
}
