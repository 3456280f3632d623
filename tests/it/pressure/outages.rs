//! kie.ai is away: it is not asked in vain more than it takes to find out, users of a link do not notice, and it is
//! back by itself.

use std::time::Duration;

use super::{ask_at_once, files, is_hit};
use crate::support::{Answer, FakeKie, SOURCE, Sidecar, eventually, within};

const SECOND: Duration = Duration::from_secs(1);

/// Requests that found nobody, by the log: a retry that was refused repeats the words of the request before it.
fn at_a_closed_door(sidecar: &Sidecar) -> usize {
    let lines = [sidecar.log_lines("mint failed"), sidecar.log_lines("mint attempt failed, trying again")].concat();
    lines.iter().filter(|line| line["error"].as_str().unwrap().contains("cannot be reached")).count()
}

async fn sixty_misses(sidecar: &Sidecar) {
    for reply in ask_at_once(sidecar, files(60)).await {
        assert!(matches!(reply.status, 502..=504), "{reply:?}");
    }
}

async fn assert_it_recovers(sidecar: &Sidecar) {
    let source = format!("{SOURCE}?after");
    within(30 * SECOND, "misses are served again", async || sidecar.link(&source).await.status == 200).await;
}

#[tokio::test]
async fn sixty_misses_against_a_kie_ai_that_nobody_reaches_cost_few_requests_and_it_recovers() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.stop_listening();
    sixty_misses(&sidecar).await;
    assert!((1..=25).contains(&at_a_closed_door(&sidecar)), "{}", at_a_closed_door(&sidecar));
    kie.listen_again();
    assert_it_recovers(&sidecar).await;
}

#[tokio::test]
async fn sixty_misses_against_a_failing_kie_ai_cost_few_requests_and_it_recovers() {
    let kie = FakeKie::start();
    for failure in [Answer::envelope(500, "oops"), Answer::html(502), Answer::reset()] {
        let (before, sidecar) = (kie.mints(), Sidecar::start(&kie));
        kie.answer(failure.clone());
        sixty_misses(&sidecar).await;
        let mints = kie.mints() - before;
        assert!((1..=25).contains(&mints), "{mints}: {failure:?}");
        // Said to people, and not held against us.
        let ready = sidecar.get_admin("/readyz?verbose").await;
        assert!(ready.status == 200 && ready.body.contains("[-]upstream unwell"), "{ready:?}");
        kie.answer(Answer::link());
        assert_it_recovers(&sidecar).await;
        assert!(sidecar.get_admin("/readyz?verbose").await.body.contains("[+]upstream "));
    }
}

#[tokio::test]
async fn sixty_misses_against_a_kie_ai_that_hangs_cost_few_requests_and_it_recovers() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempt_timeout", "1500ms"), ("server.request_timeout", "6s")]);
    kie.answer(Answer::hang());
    sixty_misses(&sidecar).await;
    assert!((1..=25).contains(&kie.mints()), "{}", kie.mints());
    kie.answer(Answer::link());
    assert_it_recovers(&sidecar).await;
}

/// A link in constant use, from its mint to beyond an outage that ends five seconds after the first refresh failed.
async fn use_a_link_through_an_outage(begin: impl Fn(&FakeKie), end: impl Fn(&FakeKie)) {
    let kie = FakeKie::start();
    let settings = [
        ("cache.ttl", "9s"),
        ("cache.refresh_after", "2s"),
        ("cache.margin", "1s"),
        ("upstream.attempt_timeout", "500ms"),
    ];
    let sidecar = Sidecar::with(&kie, &settings);
    let link = sidecar.link(SOURCE).await.json()["url"].clone();
    begin(&kie);
    let served = async || {
        let replies = ask_at_once(&sidecar, std::iter::repeat_n(SOURCE.to_owned(), 5)).await;
        // A hit waits for nobody.
        assert!(replies.iter().all(is_hit), "{replies:?}");
        replies
    };
    let tries = || sidecar.log_lines("mint failed").len();
    eventually("a refresh was tried and failed", async || {
        served().await;
        tries() > 0
    })
    .await;
    let began = tokio::time::Instant::now();
    within(6 * SECOND, "five seconds have passed", async || {
        served().await;
        began.elapsed() >= 5 * SECOND
    })
    .await;
    let tries = tries();
    assert!((2..=12).contains(&tries), "{tries} tries to refresh");
    end(&kie);
    eventually("the link is renewed", async || served().await[0].json()["url"] != link).await;
}

#[tokio::test]
async fn users_of_a_link_do_not_notice_an_outage_of_five_seconds() {
    tokio::join!(
        use_a_link_through_an_outage(FakeKie::stop_listening, FakeKie::listen_again),
        use_a_link_through_an_outage(|kie| kie.answer(Answer::hang()), |kie| kie.answer(Answer::link())),
    );
}
