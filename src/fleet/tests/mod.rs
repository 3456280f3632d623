mod told;
mod turns;
mod waits;

use std::sync::atomic::AtomicUsize;

use super::{later::Untold, *};
use crate::{
    clock::testing::VirtualTime,
    key::{ApiKey, KeySource},
    link::{Link, Policy},
    upstream::{
        Ask, Error, Mint, MintFuture, Minted, Party, Patience, Progress, Quota as _, Reason, Refused, Via, Welcome,
    },
};

/// Makes a link at once, and counts.
#[derive(Default)]
struct Script(AtomicUsize);

impl Mint for Script {
    fn mint<'a>(&'a self, _source: &'a Source, _ask: Ask) -> MintFuture<'a> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Err::<Minted, _>(Error::Timeout) })
    }
}

fn ask(reason: Reason, deadline: crate::clock::Instant) -> Ask {
    Ask {
        reason,
        party: Party::default(),
        patience: Patience::until(deadline, Party::default()),
        urgent: false,
        seen_to_fail: false,
        span: crate::telemetry::trace::Span::default(),
        welcome: Some(Welcome::default()),
        progress: Arc::new(Progress::default()),
    }
}

/// Its tier is never there.
fn lonely(clock: &Clock, rate: u32, burst: u32) -> Fleet {
    at(clock, "redis://127.0.0.1:1".parse().unwrap(), rate, burst)
}

fn at(clock: &Clock, address: Address, rate: u32, burst: u32) -> Fleet {
    let some = |number| NonZeroU32::new(number).unwrap();
    let config = Config {
        tier: shared::Config { address, timeout: Duration::from_millis(20) },
        address_file: None,
        presumed: some(4),
        rate: some(rate),
        burst: some(burst),
        margin: Duration::from_secs(60),
        negative_ttl: Duration::from_secs(30),
        force_interval: Duration::from_secs(10),
        reserve: Duration::from_secs(2),
        links: Policy::default(),
    };
    let keys = Keys::new(ApiKey::new("first-key").unwrap(), KeySource::Environment, clock.clone());
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    Fleet::new(config, Parts { keys, clock: clock.clone(), kie_clock: KieClock::default(), tasks, stop })
}

#[tokio::test(start_paused = true)]
async fn without_a_tier_a_replica_asks_kie_ai_at_once_and_remembers_what_to_tell() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let fleet = lonely(&clock, 10, 20);
    let script = Arc::new(Script::default());
    let minter = Minter::new(fleet.clone(), Arc::clone(&script) as Arc<dyn Mint>);
    let (source, began) = (Source::parse("https://h.kie.ai/a").unwrap(), clock.now());
    let ask = ask(Reason::Miss, began + Duration::from_secs(20));
    assert!(matches!(minter.mint(&source, ask).await, Err(Error::Timeout)));
    assert_eq!((clock.now(), script.0.load(Ordering::Relaxed)), (began, 1));
    let link = Link::parse("https://h.example/a", &Policy::default()).unwrap();
    let heard = KieClock::default().heard(None, None, began, began);
    let ends_at = began + link::LIFE;
    let minted = Minted { link, sent_at: began, ends_at, heard, says_its_end: false, via: Via::Kie };
    minter.kept(&source, Some(&minted));
    minter.kept(&Source::parse("https://h.kie.ai/b").unwrap(), Some(&Minted { via: Via::Shared, ..minted }));
    assert_eq!(fleet.forget(&Source::parse("https://h.kie.ai/c").unwrap()).await, Told::Unreachable);
    let Untold { forgotten, links, .. } = fleet.0.realms()[0].later().take(began);
    assert_eq!((forgotten.len(), links.len()), (1, 1));
}

/// Its fleet's bucket is empty, as a new one is.
fn tier(clock: &Clock) -> Arc<shared::model::Model> {
    let clock = clock.clone();
    shared::model::Model::new(1, move || {
        1_000_000_000_000 + i64::try_from(clock.now().since_origin().as_millis()).unwrap()
    })
}

async fn up(fleet: Fleet) -> Fleet {
    while fleet.state() != State::Up {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fleet
}

async fn pair(clock: &Clock, tier: &Arc<shared::model::Model>) -> (Fleet, Fleet) {
    (up(at(clock, tier.address(0), 10, 20)).await, up(at(clock, tier.address(1), 10, 20)).await)
}

async fn down(fleet: &Fleet) {
    while fleet.state() != State::Down {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Many at once are more than the model answers in time.
const ONE_BY_ONE: Duration = Duration::from_millis(10);

/// Takes a token as `upstream` does, and makes no link within a second; notes which files it asked kie.ai for, and when.
struct Turns {
    fleet: Fleet,
    began: crate::clock::Instant,
    asked: Mutex<Vec<(String, u64)>>,
}

impl Mint for Turns {
    fn mint<'a>(&'a self, source: &'a Source, ask: Ask) -> MintFuture<'a> {
        Box::pin(async move {
            self.fleet.take(&ask).await.unwrap();
            let now = self.fleet.0.clock.now();
            ask.progress.sends(now);
            let name = source.url().rsplit('/').next().unwrap().to_owned();
            self.asked.lock().unwrap().push((name, self.began.until(now).as_secs()));
            tokio::time::sleep(Duration::from_secs(1)).await;
            Err::<Minted, _>(Error::Timeout)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_when_the_tier_is_back_is_looked_for_once_more() {
    let time = VirtualTime::new();
    let clock = time.clock();
    let tier = tier(&clock);
    let (fleet, other) = (up(at(&clock, tier.address(0), 4, 4)).await, up(at(&clock, tier.address(1), 4, 4)).await);
    tier.cut_off(0, true);
    down(&fleet).await;
    // One at once and one a second is its share.
    let began = clock.now();
    let turns = Arc::new(Turns { fleet: fleet.clone(), began, asked: Mutex::default() });
    let minter = &Minter::new(fleet.clone(), Arc::clone(&turns) as Arc<dyn Mint>);
    let file = |name: &str| Source::parse(&format!("https://h.kie.ai/{name}")).unwrap();
    let mint_for = async |reason, place: u64, name: &str| {
        tokio::time::sleep(ONE_BY_ONE * u32::try_from(place).unwrap()).await;
        let ask = Ask { urgent: reason == Reason::Refresh, ..ask(reason, began + Duration::from_secs(20)) };
        let minted = minter.mint(&file(name), ask).await;
        (minted.map(|minted| minted.via).map_err(drop), began.until(clock.now()).as_millis())
    };
    let mint = async |place, name| mint_for(Reason::Miss, place, name).await;
    let shown = jiff::Timestamp::from_second(1_780_000_000).unwrap();
    let puts = |name: &str| {
        let heard = [&fleet, &other].map(|each| each.0.kie_clock.heard(Some(shown), None, clock.now(), clock.now()));
        let link = Link::parse("https://h.example/l", &Policy::default()).unwrap();
        let (sent_at, ends_at) = (clock.now(), clock.now() + link::LIFE);
        let minted = Minted { link, sent_at, ends_at, heard: heard[0], says_its_end: false, via: Via::Kie };
        Minter::new(other.clone(), Arc::new(Script::default())).kept(&file(name), Some(&minted));
    };
    let leases = async |name: &str| {
        let (realm, holder) = (other.0.realms().remove(0), other.0.holder());
        let look = Request::look(&realm.file(&file(name)), realm.names.fleet(), Some(&holder), shared::Newer::Any);
        assert_eq!(realm.ask(look, BEHIND).await, Ok(shared::Look::Mine));
    };
    let world = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        puts("sent");
        puts("minted");
        leases("leased").await;
        leases("minting").await;
        leases("refreshing").await;
        tier.cut_off(0, false);
        tokio::time::sleep(Duration::from_millis(900)).await;
        puts("minting");
        puts("refreshing");
    };
    let (sent, minted, leased, minting, free, refreshing, ()) = tokio::join!(
        mint(0, "sent"),
        mint(1, "minted"),
        mint(2, "leased"),
        mint(3, "minting"),
        mint(4, "free"),
        mint_for(Reason::Refresh, 5, "refreshing"),
        world
    );
    assert_eq!(sent, (Err(()), 1000), "it is paid for, and goes on");
    assert!(minted.0 == Ok(Via::Shared) && minted.1 < 900, "{minted:?}");
    assert!(minting.0 == Ok(Via::Joined) && (1200..1400).contains(&minting.1), "{minting:?}");
    assert!(leased.0.is_err() && free.0.is_err());
    assert_eq!(refreshing.0, Ok(Via::Joined), "it is urgent, and keeps its turn meanwhile");
    // Each has the turn that it had; nobody else's mint is waited for longer.
    let asked = turns.asked.lock().unwrap().clone();
    assert_eq!(asked, [("sent", 0), ("leased", 2), ("free", 4)].map(|(name, at)| (name.to_owned(), at)));
    assert!(!fleet.is_apart());
    let late = Request::look(
        &other.0.realms()[0].file(&file("sent")),
        other.0.realms()[0].names.fleet(),
        None,
        shared::Newer::Never,
    );
    assert_eq!(other.0.realms()[0].ask(late, BEHIND).await, Ok(shared::Look::Free), "nobody has it");
}
