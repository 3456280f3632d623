use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    clock::testing::VirtualTime,
    shared::{
        Level, Look, Newer, Take, Taken,
        model::Model,
        testing::{Cluster, LAST_SLOTS, Manner, Proxy, Replica, Server, Watched, eventually, free_port, says},
    },
};

const BUDGET: Duration = Duration::from_millis(20);

fn look(replica: &Replica) -> Request<Look> {
    Request::look(&replica.names.file("https://h.example/a"), replica.names.fleet(), None, Newer::Any)
}

/// Whether the tier answers within a time that a busy machine has, too.
async fn answers(replica: &Replica) -> bool {
    replica.tier.ask(look(replica), Duration::from_secs(30)).await.is_ok()
}

/// Asks until the state is no longer `Up`.
async fn trips(replica: &Replica) {
    eventually("trips", || async {
        let _ = replica.tier.ask(look(replica), BUDGET).await;
        replica.tier.state() != State::Up
    })
    .await;
}

/// Whether it is up, and stays so while it is asked: a busy machine may take it for silent now and then.
async fn comes_back(replica: &Replica) {
    eventually("comes back", || answers(replica)).await;
}

/// Nobody waits while the tier is away.
fn refuses_at_once(replica: &Replica) -> bool {
    let now = replica.tier.ask(look(replica), Duration::from_secs(30)).now_or_never();
    replica.tier.state() == State::Up || now == Some(Err(Error::Away))
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_tier_that_was_never_there_costs_nothing_and_is_found_when_it_comes() {
    let Some(mut server) = Server::start(&[]) else { return };
    server.kill();
    let replica = Replica::new(&url(server.port), BUDGET);
    eventually("has tried", || async { replica.tier.describe().last_fault.is_some() }).await;
    assert!(refuses_at_once(&replica));
    assert!(replica.tier.describe().last_fault.unwrap().starts_with("no connection"));
    server.restart();
    comes_back(&replica).await;
    let tier = replica.tier.clone();
    replica.stop().await;
    assert_eq!(tier.ask(Request::trial(&names_of_nobody()), BUDGET).await, Err(Error::Away), "it has ended");
}

fn names_of_nobody() -> crate::shared::FleetNames {
    Names::new(&crate::key::ApiKey::new("other-key").unwrap().fleet_secret()).fleet().clone()
}

#[tokio::test]
async fn a_frozen_tier_is_waited_for_once_and_comes_back() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::new(&url(server.port), BUDGET);
    comes_back(&replica).await;
    server.freeze();
    trips(&replica).await;
    assert!(refuses_at_once(&replica));
    replica.is(State::Down).await;
    assert_eq!(replica.tier.describe().last_fault.as_deref(), Some("no answer"));
    server.thaw();
    comes_back(&replica).await;
}

#[tokio::test]
async fn a_paused_tier_answers_late_and_is_used_again() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::new(&url(server.port), BUDGET);
    comes_back(&replica).await;
    server.run(&["CLIENT", "PAUSE", "200", "ALL"]);
    trips(&replica).await;
    comes_back(&replica).await;
}

/// A tier that is simulated, and time with it; it is up, and knows LOOK by its name.
async fn simulated() -> (std::sync::Arc<Model>, Replica) {
    let clock = VirtualTime::new().clock();
    let millis = {
        let clock = clock.clone();
        move || i64::try_from(clock.now().since_origin().as_millis()).unwrap()
    };
    let model = Model::new(1, millis);
    let replica = Replica::at(model.address(0), BUDGET, clock);
    replica.is(State::Up).await;
    assert!(answers(&replica).await);
    (model, replica)
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_is_late_for_the_first_is_in_time_for_the_next() {
    let (model, replica) = simulated().await;
    model.behave(crate::shared::model::Manner::Silent);
    let began = tokio::time::Instant::now();
    let millis = Duration::from_millis;
    let asks = async |after, budget| {
        tokio::time::sleep(millis(after)).await;
        let answer = replica.tier.ask(look(&replica), budget).await;
        (answer.map(drop), began.elapsed().as_millis())
    };
    let answers = async {
        tokio::time::sleep(millis(25)).await;
        model.behave(crate::shared::model::Manner::Answers);
    };
    let (first, next, patient, later, ()) =
        tokio::join!(asks(0, BUDGET), asks(10, BUDGET), asks(10, millis(2000)), asks(22, BUDGET), answers);
    assert!(first.0.is_err() && (20..22).contains(&first.1), "{first:?}");
    assert!(next.0.is_ok() && (25..28).contains(&next.1), "{next:?}");
    assert!(patient.0.is_err() && (20..22).contains(&patient.1), "nobody waits for what may not come: {patient:?}");
    assert_eq!(later, (Err(Error::Away), 22), "nobody begins to wait");
    assert_eq!(replica.tier.state(), State::Up);
}

#[tokio::test(start_paused = true)]
async fn the_tier_is_not_late_with_what_was_not_sent_in_time() {
    let (model, replica) = simulated().await;
    model.behave(crate::shared::model::Manner::Silent);
    let mut asking = Box::pin(replica.tier.ask(look(&replica), BUDGET));
    assert_eq!((&mut asking).now_or_never(), None);
    // Nothing of this process runs meanwhile.
    tokio::time::advance(Duration::from_millis(30)).await;
    let answers = async {
        tokio::time::sleep(Duration::from_millis(15)).await;
        model.behave(crate::shared::model::Manner::Answers);
    };
    let (answer, ()) = tokio::join!(asking, answers);
    assert!(answer.is_ok(), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn the_tier_is_not_charged_what_this_process_has_not_had_but_for_two_budgets() {
    let (model, replica) = simulated().await;
    let millis = Duration::from_millis;
    for (after, is_answered) in [(15, true), (500, false)] {
        model.behave(crate::shared::model::Manner::Silent);
        let began = tokio::time::Instant::now();
        let starve = async {
            tokio::time::sleep(millis(1)).await;
            // Nothing of this process runs meanwhile.
            tokio::time::advance(millis(30)).await;
            tokio::time::sleep(millis(after)).await;
            model.behave(crate::shared::model::Manner::Answers);
        };
        let ask = async {
            let spent = replica.tier.stopwatch();
            let answer = replica.tier.ask(look(&replica), BUDGET).await;
            (answer.is_ok(), spent(), began.elapsed())
        };
        let ((answer, spent, waited), ()) = tokio::join!(ask, starve);
        assert_eq!(answer, is_answered);
        assert!(spent <= millis(22), "{spent:?}");
        assert!((millis(46)..millis(54)).contains(&waited), "{waited:?}");
        replica.is(State::Up).await;
    }
    model.behave(crate::shared::model::Manner::Silent);
    let starved = async {
        loop {
            tokio::time::advance(millis(10)).await;
            tokio::task::yield_now().await;
        }
    };
    let began = tokio::time::Instant::now();
    tokio::select! {
        answer = replica.tier.ask(look(&replica), BUDGET) => assert!(answer.is_err()),
        () = starved => unreachable!("it never ends"),
    }
    let waited = began.elapsed();
    // It is woken each 10 ms.
    assert!((millis(60)..millis(90)).contains(&waited), "callers wait as well: {waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_has_come_is_read_before_it_is_called_late() {
    let (model, replica) = simulated().await;
    model.behave(crate::shared::model::Manner::Silent);
    // Whoever asked is woken first.
    let answers = async {
        tokio::time::sleep(BUDGET).await;
        model.behave(crate::shared::model::Manner::Answers);
    };
    let (answer, ()) = tokio::join!(replica.tier.ask(look(&replica), BUDGET), answers);
    assert!(answer.is_ok(), "{answer:?}");
}

#[test]
fn an_answer_is_waited_for_from_when_its_question_was_sent_and_that_for_two_budgets() {
    let at = |millis| Instant::from_origin(Duration::from_millis(millis));
    for (sent_at, now, left) in [
        (Some(100), 119, 1),
        (Some(100), 120, 0),
        (Some(105), 120, 5),
        (Some(105), 125, 0),
        (None, 100, 20),
        (None, 120, 20),
        (None, 130, 10),
        (None, 140, 0),
        (Some(139), 158, 1),
        (Some(139), 159, 0),
        (Some(175), 159, 1),
        (Some(175), 160, 0),
    ] {
        let left = Some(Duration::from_millis(left)).filter(|left| !left.is_zero());
        assert_eq!(patience(at(100), sent_at.map(at), BUDGET, at(now)), left, "{sent_at:?} {now}");
    }
    assert_eq!(patience(at(100), None, Duration::ZERO, at(100)), None);
}

#[tokio::test(start_paused = true)]
async fn looks_that_are_asked_at_once_go_in_one_trip_for_each_64_and_each_has_its_own_answer() {
    let (model, replica) = simulated().await;
    let member = crate::shared::Replica::random();
    let look = async |flight: u64, has_holder: bool| {
        let (file, holder) = (replica.names.file(&flight.to_string()), member.holder(flight));
        let request = Request::look(&file, replica.names.fleet(), Some(&holder).filter(|_| has_holder), Newer::Any);
        replica.tier.ask(request, BUDGET).await
    };
    let (before, _) = model.counts();
    let all = futures_util::future::join_all((0..100).map(|flight| look(flight, true))).await;
    assert!(all.iter().all(|found| *found == Ok(Look::Mine)));
    assert_eq!(model.counts().0 - before, 2);
    // Another kind of question goes by itself, in its turn.
    let trial = replica.tier.ask(Request::trial(replica.names.fleet()), BUDGET);
    let (first, tried, next) = tokio::join!(look(7, false), trial, look(8, false));
    assert_eq!(tried, Ok(true));
    for (found, flight) in [(first, 7), (next, 8)] {
        assert!(matches!(found, Ok(Look::Wait { holder, .. }) if holder == member.holder(flight)), "{flight}");
    }
    assert_eq!(model.counts().0 - before, 5);
    // Whoever is about to ask when the first does goes with it.
    let about_to = async {
        tokio::task::yield_now().await;
        look(9, false).await
    };
    let _ = tokio::join!(look(10, false), about_to);
    assert_eq!(model.counts().0 - before, 6);
}

#[tokio::test]
async fn whether_a_token_was_given_is_told_however_late() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::before(server.port, &TaskTracker::new()).await;
    let replica = Replica::new(&url(proxy.port), Duration::from_millis(100));
    comes_back(&replica).await;
    let quota = crate::shared::Quota { period: Duration::from_secs(1), burst: std::num::NonZeroU32::new(5).unwrap() };
    let patience = Duration::from_secs(30);
    let take =
        || replica.tier.ask(Request::take(replica.names.fleet(), quota, patience, 0, Level::default()), patience);
    // From now on it knows both scripts, so that each takes one trip.
    eventually("it is asked", || async { take().await.is_ok() && answers(&replica).await }).await;
    proxy.delay(Duration::from_millis(200));
    let (taken, looked) = tokio::join!(take(), replica.tier.ask(look(&replica), patience));
    assert!(matches!(taken, Ok(Taken { take: Take::Go { .. }, .. })), "{taken:?}");
    assert_eq!(looked, Err(Error::Away), "whoever asked does without it");
}

/// Far more than may come before one answer is whole.
#[tokio::test]
async fn long_answers_that_come_together_are_all_read() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    let holder = crate::shared::Replica::random().holder(1);
    let patience = Duration::from_secs(30);
    let files: Vec<_> = (0..crate::shared::PEEK).map(|n| replica.names.file(&n.to_string())).collect();
    for file in &files {
        let sealed = [b"1L0000000000000000", &[b'\n'; 8 << 10][..]].concat();
        let put = Request::put(file, &holder, sealed, patience);
        assert_eq!(replica.tier.ask(put, patience).await, Ok(crate::shared::Put::Kept));
    }
    let peek = || replica.tier.ask(Request::peek(&files[..4], replica.names.fleet()), patience);
    let few = futures_util::future::join_all((0..50).map(|_| peek())).await;
    assert!(few.iter().all(|found| found.as_ref().is_ok_and(|peek| peek.links.iter().all(Option::is_some))));
    assert!(
        replica.tier.ask(Request::peek(&files, replica.names.fleet()), patience).await.is_err(),
        "32 MiB by its lines"
    );
}

#[tokio::test]
async fn a_killed_tier_is_found_again_without_its_memory() {
    let Some(mut server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    assert!(answers(&replica).await);
    server.kill();
    replica.is(State::Down).await;
    assert!(refuses_at_once(&replica));
    server.restart();
    comes_back(&replica).await;
}

#[tokio::test]
async fn a_tier_that_takes_no_writes_is_away_and_says_why() {
    let Some(server) = Server::start(&[]) else { return };
    let elsewhere = free_port().to_string();
    let replica = Replica::of(&server).await;
    let file = replica.names.file("https://h.example/a");
    let holder = crate::shared::Replica::random().holder(1);
    let of_newcomers = crate::shared::fault::Fault::Replica.to_string();
    for (ailing, healthy, fault, of_newcomers) in [
        (
            &["REPLICAOF", "127.0.0.1", &elsewhere][..],
            &["REPLICAOF", "NO", "ONE"][..],
            "it answers READONLY",
            &*of_newcomers,
        ),
        (
            &["CONFIG", "SET", "maxmemory", "1"],
            &["CONFIG", "SET", "maxmemory", "0"],
            "it answers OOM",
            "it answers OOM",
        ),
    ] {
        server.run(ailing);
        let put = Request::put(&file, &holder, b"1L0000000000000000".to_vec(), Duration::from_secs(1));
        assert_eq!(replica.tier.ask(put, Duration::from_secs(30)).await, Err(Error::Away));
        replica.is(State::Down).await;
        assert_eq!(replica.tier.describe().last_fault.as_deref(), Some(fault));
        let newcomer = Replica::patient(&server.url());
        let changes = newcomer.tier.changes();
        let heard = || async { newcomer.tier.describe().last_fault.as_deref() == Some(of_newcomers) };
        eventually("a newcomer hears why", heard).await;
        assert!(!changes.has_changed().unwrap(), "nor was it let in");
        server.run(healthy);
        comes_back(&replica).await;
    }
}

#[tokio::test]
async fn a_password_that_was_changed_keeps_it_away_until_it_is_right_again() {
    let Some(server) = Server::start(&["--requirepass", "pa/ss"]) else { return };
    let strangers = Replica::patient(&url(server.port));
    let replica = Replica::patient(&format!("redis://:pa%2Fss@127.0.0.1:{}", server.port));
    comes_back(&replica).await;
    let fault = |replica: &Replica| replica.tier.describe().last_fault.unwrap_or_default();
    eventually("no stranger is let in", || async { fault(&strangers) == "it answers NOAUTH" }).await;
    let admin = Replica::patient(&format!("redis://default:pa%2Fss@127.0.0.1:{}", server.port));
    comes_back(&admin).await;
    let client = redis::Client::open(format!("redis://:pa%2Fss@127.0.0.1:{}", server.port)).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut run = |words: &[&str]| {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(word);
        });
        command.query::<redis::Value>(&mut connection).unwrap()
    };
    run(&["CONFIG", "SET", "requirepass", "other"]);
    run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("it is refused", || async { fault(&replica) == "it answers WRONGPASS" }).await;
    assert!(refuses_at_once(&replica));
    run(&["CONFIG", "SET", "requirepass", "pa/ss"]);
    comes_back(&replica).await;
}

#[tokio::test]
async fn a_user_who_may_not_use_a_command_that_a_script_uses_is_not_let_in() {
    let Some(server) = Server::start(&[]) else { return };
    let commands = crate::shared::scripts::commands_of(Operation::Trial);
    let fault = |replica: &Replica| replica.tier.describe().last_fault.unwrap_or_default();
    let allow = |change: &str| server.run(&["ACL", "SETUSER", "kielink", "on", ">pass", "~*", "+@all", change]);
    let as_user = format!("redis://kielink:pass@127.0.0.1:{}", server.port);
    for command in commands.iter().map(|command| command.to_lowercase()).chain(["evalsha".into(), "eval".into()]) {
        allow(&format!("-{command}"));
        let replica = Replica::patient(&as_user);
        eventually(&format!("nobody without {command} is let in"), || async { fault(&replica) == "it answers NOPERM" })
            .await;
        assert_eq!(replica.tier.state(), State::Down, "{command}");
    }
    allow("+@all");
    let replica = Replica::patient(&as_user);
    comes_back(&replica).await;
    // What is taken away later is found out by the first question that needs it.
    allow("-pttl");
    let file = replica.names.file("a");
    let pause = replica.tier.ask(Request::pause_left(replica.names.fleet()), BUDGET).await;
    assert_eq!(pause, Err(Error::Away));
    eventually("it is away", || async { fault(&replica) == "it answers NOPERM" }).await;
    allow("+@all");
    comes_back(&replica).await;
    allow("-mget");
    let look = Request::look(&file, replica.names.fleet(), None, Newer::Any);
    assert_eq!(replica.tier.ask(look, BUDGET).await, Err(Error::Away));
    eventually("it is away", || async { replica.tier.state() == State::Down }).await;
    allow("+@all");
    comes_back(&replica).await;
    allow("-get");
    let peek = Request::peek([&file], replica.names.fleet());
    assert_eq!(replica.tier.ask(peek, BUDGET).await, Err(Error::Away));
}

#[tokio::test]
async fn scripts_that_a_tier_has_forgotten_are_told_again() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    assert!(answers(&replica).await);
    server.run(&["SCRIPT", "FLUSH"]);
    assert!(answers(&replica).await);
    assert_eq!(replica.tier.state(), State::Up);
}

#[tokio::test]
async fn another_database_is_another_tier() {
    let Some(server) = Server::start(&[]) else { return };
    let (one, other) = (Replica::of(&server).await, Replica::patient(&format!("{}/5", url(server.port))));
    comes_back(&other).await;
    let file = one.names.file("https://h.example/a");
    let holder = crate::shared::Replica::random().holder(1);
    let take = |replica: &Replica| {
        let look = Request::look(&file, replica.names.fleet(), Some(&holder), Newer::Any);
        let tier = replica.tier.clone();
        async move { tier.ask(look, Duration::from_secs(30)).await }
    };
    assert_eq!(take(&one).await, Ok(crate::shared::Look::Mine));
    let other_holder = crate::shared::Replica::random().holder(1);
    let look = Request::look(&file, other.names.fleet(), Some(&other_holder), Newer::Any);
    assert_eq!(other.tier.ask(look, Duration::from_secs(30)).await, Ok(crate::shared::Look::Mine));
}

#[tokio::test]
async fn no_bad_manners_on_the_way_last_longer_than_they_are_shown() {
    let Some(server) = Server::start(&[]) else { return };
    let tasks = TaskTracker::new();
    for (manner, faults) in [
        (Manner::Swallows, &["no answer"][..]),
        (Manner::Garbles, &["an answer is no Redis protocol"]),
        (Manner::Doubles, &["it answers another question than it was asked"]),
        (Manner::Swaps, &["it answers another question than it was asked", "no answer"]),
        (Manner::Floods, &["an answer is too long", "no answer"]),
        (Manner::Promises, &["no answer"]),
        (Manner::Closes, &["the connection was lost"]),
        (Manner::Resets, &["the connection was lost"]),
    ] {
        let proxy = Proxy::before(server.port, &tasks).await;
        let replica = Replica::new(&url(proxy.port), Duration::from_millis(200));
        comes_back(&replica).await;
        proxy.set(manner);
        trips(&replica).await;
        replica.is(State::Down).await;
        let fault = replica.tier.describe().last_fault.unwrap();
        assert!(faults.contains(&fault.as_str()), "{manner:?}: {fault}");
        assert!(refuses_at_once(&replica));
        proxy.set(Manner::Honest);
        comes_back(&replica).await;
    }
}

/// It says so before it is asked anything, and hangs up.
#[tokio::test]
async fn a_redis_in_protected_mode_is_told_as_such_with_what_helps() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let replica = Replica::patient(&url(listener.local_addr().unwrap().port()));
    let refusing = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let denied = b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, denied).await;
        }
    };
    let told = eventually("it is told", || async {
        replica.tier.describe().last_fault.is_some_and(|fault| fault.starts_with("it is in protected mode"))
    });
    tokio::select! {
        () = refusing => {}
        () = told => {}
    }
}

#[tokio::test]
async fn a_defect_costs_a_connection_and_no_more() {
    let Some(server) = Server::start(&[]) else { return };
    // Of which the first line that is logged is one: that the tier is up.
    let is_mended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let has_failed = Arc::clone(&is_mended);
    let defect = move || {
        assert!(is_mended.swap(true, std::sync::atomic::Ordering::Relaxed), "a defect");
        std::io::sink()
    };
    let _logs = tracing::subscriber::set_default(tracing_subscriber::fmt().with_writer(defect).finish());
    let replica = Replica::of(&server).await;
    assert!(answers(&replica).await);
    assert!(has_failed.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(replica.tier.describe().last_fault.as_deref(), Some("kielink has a defect; the log says where"));
}

#[tokio::test]
async fn more_calls_than_are_bearable_are_refused_and_all_are_freed() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    server.freeze();
    let mut calls: Vec<_> =
        (0..MOST_CALLS).map(|_| Box::pin(replica.tier.ask(look(&replica), Duration::from_secs(30)))).collect();
    for call in &mut calls {
        assert!(call.now_or_never().is_none());
    }
    let one_more = replica.tier.ask(look(&replica), Duration::from_secs(30)).now_or_never();
    assert_eq!(one_more, Some(Err(Error::Busy)));
    server.thaw();
    for call in calls {
        assert!(call.await.is_ok());
    }
    eventually("all are freed", || async { replica.tier.describe().calls_under_way == 0 }).await;
}

#[tokio::test]
async fn a_caller_that_leaves_harms_nobody() {
    let Some(server) = Server::start(&[]) else { return };
    let replica = Replica::of(&server).await;
    for _ in 0..50 {
        let _ = Box::pin(replica.tier.ask(look(&replica), BUDGET)).now_or_never();
    }
    assert!(answers(&replica).await);
    eventually("all are freed", || async { replica.tier.describe().calls_under_way == 0 }).await;
}

#[tokio::test]
async fn sentinels_lead_to_the_new_master_and_not_to_the_frozen_one() {
    let Some(mut watched) = Watched::start().await else { return };
    let replica = Replica::new(&format!("{}/mymaster", watched.url()), BUDGET);
    comes_back(&replica).await;
    // One of those that are asked is frozen, too.
    watched.sentinels[0].freeze();
    watched.master.freeze();
    trips(&replica).await;
    says(&watched.heir, &["ROLE"], "master").await;
    comes_back(&replica).await;
    watched.master.kill();
    assert!(answers(&replica).await);
    let nobody = Replica::patient(&format!("{}/other", watched.url()));
    eventually("it is told that there is no such master", || async {
        nobody.tier.describe().last_fault.as_deref() == Some("no sentinel knows a master of this name")
    })
    .await;
}

#[tokio::test]
async fn a_cluster_s_owner_of_our_slot_is_asked_and_its_heir_when_it_dies() {
    let Some(cluster) = Cluster::start().await else { return };
    let slot = Names::new(&crate::key::ApiKey::new("first-key").unwrap().fleet_secret()).slot();
    let place = LAST_SLOTS.iter().filter(|last| slot > **last).count();
    let (owner, heir) = (&cluster.nodes[place], &cluster.nodes[place + 3]);
    let replica = Replica::new(&cluster.url(), BUDGET);
    comes_back(&replica).await;
    // Asked to give up, it sends us to its heir.
    heir.run(&["CLUSTER", "FAILOVER"]);
    says(heir, &["ROLE"], "master").await;
    comes_back(&replica).await;
    says(owner, &["INFO", "replication"], "master_link_status:up").await;
    // And a frozen one has a new heir.
    heir.freeze();
    trips(&replica).await;
    says(owner, &["ROLE"], "master").await;
    comes_back(&replica).await;
}

#[tokio::test]
async fn tls_is_spoken_with_whom_the_roots_vouch_for_only() {
    let folder = tempfile::TempDir::new().unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("cert"), certified.cert.pem()).unwrap();
    std::fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let tls_port = port.to_string();
    let (cert, key) = (path("cert"), path("key"));
    let settings =
        ["--tls-port", &tls_port, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-auth-clients", "no"];
    let Some(_server) = Server::start(&settings) else { return };
    let secret = crate::key::ApiKey::new("first-key").unwrap().fleet_secret();
    let dialer = |host: &str| {
        let address = format!("rediss://{host}:{port}").parse().unwrap();
        Dialer::new(address, Names::new(&secret))
    };
    let trust = || {
        let mut store = rustls::RootCertStore::empty();
        store.add(certified.cert.der().clone()).unwrap();
        crate::roots::tls(store)
    };
    let known = dialer("localhost");
    known.trust_in(trust());
    assert!(known.dial().await.is_ok());
    let misnamed = dialer("127.0.0.1");
    misnamed.trust_in(trust());
    let fault = misnamed.dial().await.err().unwrap();
    assert!(matches!(fault, Fault::OtherName));
    let told = format!("{} {fault:?}", Chain(&fault));
    assert!(!told.contains("localhost") && !told.contains("127.0.0.1"), "{told}");
    let stranger = dialer("localhost");
    assert!(matches!(stranger.dial().await, Err(Fault::Tls(_) | Fault::NoRoots(_))));
}
