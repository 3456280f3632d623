//! Every bad answer that is documented, known or feared: the right problem in both forms, nothing of it cached, and
//! the next good answer is as good as ever.

mod codes;
mod links;
mod wire;

use std::time::Duration;

use crate::support::{Answer, FakeKie, Problem, SOURCE, Sidecar, encode, within};

/// One attempt a mint and no memory for refusals: each question is one answer.
const ONE_EACH: [(&str, &str); 2] = [("upstream.attempts", "1"), ("cache.negative_ttl", "0s")];

/// Asks in both forms while kie.ai answers so, and then again until all is well. A kielink of its own for each question:
/// what one answer does to quota or trust must not colour the next. The pauses in between are waited for: rows are checked
/// side by side.
async fn check(kie: &FakeKie, what: String, answer: Answer, problem: Problem) {
    let what = &what;
    let (first, second) = (Sidecar::with(kie, &ONE_EACH), Sidecar::with(kie, &ONE_EACH));
    let source = format!("{SOURCE}?{}", encode(what));
    kie.answer_for(&source, answer);
    let (document, envelope) = (first.link(&source).await, second.download_url(&source).await);
    problem.assert_told(what, &document, &envelope);
    assert_all_is_well(&first, kie, what, &source).await;
    tokio::join!(first.ended(), second.ended());
}

/// That it is well again as soon as kie.ai may be asked again, and that nothing of the bad answer was kept.
async fn assert_all_is_well(sidecar: &Sidecar, kie: &FakeKie, what: &str, source: &str) {
    let before = kie.links_given().len();
    kie.answer_for(source, Answer::link());
    // Without the file's own back-off; a pause of the account's is waited for.
    let forget = format!("{}/v1/link?url={}", sidecar.admin_url(), encode(source));
    sidecar.send(sidecar.client().delete(forget)).await;
    if sidecar.link(source).await.status != 200 {
        within(Duration::from_secs(40), what, async || sidecar.link(source).await.status == 200).await;
    }
    let good = sidecar.link(source).await;
    assert!(good.header("cache-status").starts_with("kielink; hit; ttl="), "{what}: {good:?}");
    let url = good.json()["url"].as_str().unwrap().to_owned();
    assert!(kie.links_given()[before..].contains(&url), "{what}: nothing of the bad answer was cached");
}
