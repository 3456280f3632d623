//! `kielink check-key`: one question to kie.ai, and what its answer means for whoever has typed it.

use serde_json::json;

use super::child::{Finished, Run};
use crate::support::{Answer, FakeKie};

async fn check(kie: &FakeKie) -> Finished {
    let base_url = format!("upstream.base_url={}", kie.base_url());
    Run::new(&["check-key", "--set", &base_url]).key().finished().await
}

#[tokio::test]
async fn a_good_key_is_told_by_its_fingerprint_with_the_credits_left() {
    let kie = FakeKie::start();
    let run = check(&kie).await;
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
    assert!(run.stdout.starts_with("kie.ai takes the API key "), "{run:?}");
    assert!(run.stdout.ends_with("; its account has 5916.25 credits left\n"), "{run:?}");
    assert_eq!(kie.requests().len(), 1, "it asks once");
}

#[tokio::test]
async fn whatever_else_kie_ai_says_is_said_in_words_that_help() {
    for (answer, said) in [
        (Answer::unauthorized(), "refuses the API key "),
        (Answer::bare(403), "refuses the API key "),
        (Answer::data(json!(0)), "has no credits: 0 are left. Top it up"),
        (Answer::data(json!(-3.5)), "has no credits: -3.5 are left"),
        (Answer::code(402), "says that its account has no credits"),
        (Answer::too_frequent(), "nothing is known of the API key. Try again later"),
        (Answer::html(502), "did not say whether it takes the API key "),
        (Answer::data(json!("soon")), "its `data` is no number"),
        (Answer::spring_404(), "it is JSON of another shape"),
        (Answer::close(), "kie.ai cannot be reached"),
        (Answer::echo_key(401), "refuses the API key "),
    ] {
        let kie = FakeKie::start();
        kie.answer_credit(answer.clone());
        let run = check(&kie).await;
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{answer:?}: {run:?}");
        assert!(run.stderr.starts_with("kielink: ") && run.stderr.contains(said), "{answer:?}: {run:?}");
        assert_eq!(kie.requests().len(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_kie_ai_that_is_not_there_and_a_key_that_is_not_there_are_told_apart() {
    let kie = FakeKie::start();
    kie.stop_listening();
    let run = check(&kie).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("kie.ai cannot be reached"), "{run:?}");
    let run = Run::new(&["check-key"]).finished().await;
    assert_eq!(run.code, Some(78), "{run:?}");
    assert!(run.stderr.contains("no API key"), "{run:?}");
}
