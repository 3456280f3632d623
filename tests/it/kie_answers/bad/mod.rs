//! Every bad answer that is documented, known or feared: the right problem in both forms, nothing of it cached, and
//! the next good answer is as good as ever.

mod codes;
mod links;
mod wire;

use crate::support::{Answer, FakeKie, Problem, SOURCE, Sidecar, encode};

/// One attempt a mint and no memory for refusals: each question is one answer.
const ONE_EACH: [(&str, &str); 2] = [("upstream.attempts", "1"), ("cache.negative_ttl", "0s")];

/// Asks in both forms while kie.ai answers so, then once more when it is well again. A kielink of its own for each
/// answer: what one does to quota or trust must not colour the next.
async fn check(kie: &FakeKie, what: &str, answer: Answer, problem: Problem) {
    let sidecar = Sidecar::with(kie, &ONE_EACH);
    let source = format!("{SOURCE}?{}", encode(what));
    // A short pause where it is a 429, so that the next question need not wait long.
    kie.answer_for(&source, answer.with_header("retry-after", "1"));
    let (document, envelope) = (sidecar.link(&source).await, sidecar.download_url(&source).await);
    problem.assert_told(what, &document, &envelope);
    assert_all_is_well(&sidecar, kie, what, &source).await;
}

async fn assert_all_is_well(sidecar: &Sidecar, kie: &FakeKie, what: &str, source: &str) {
    kie.answer_for(source, Answer::link());
    let good = sidecar.link(source).await;
    assert_eq!(good.status, 200, "{what}: {good:?}");
    let status = good.header("cache-status");
    assert!(status.starts_with("kielink; fwd=miss; stored; "), "{what}: nothing was cached: {status}");
    assert_eq!(good.json()["url"], kie.links_given().last().unwrap().as_str(), "{what}");
}
