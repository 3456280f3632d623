//! One key takes the place of another, and nobody notices.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::task::JoinSet;

use crate::support::{Answer, FakeKie, KEY, SOURCE, Sidecar, encode, eventually};

/// Every key of a test carries the canary.
fn key(number: usize) -> String {
    format!("{KEY}-{number}")
}

struct Bench {
    kie: FakeKie,
    sidecar: Sidecar,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        put(&path, &key(0));
        let kie = FakeKie::start();
        kie.accept_only(&[&key(0)]);
        let file = path.display().to_string();
        let settings =
            [("upstream.api_key_file", file.as_str()), ("upstream.rate", "10000"), ("upstream.burst", "10000")];
        let sidecar = Sidecar::with(&kie, &settings);
        Bench { kie, sidecar, path, _folder: folder }
    }

    /// `kielink_key_reloads_total` of one result.
    async fn reloads(&self, result: &str) -> u64 {
        let metrics = self.sidecar.get_admin("/metrics").await.body;
        let start = format!("kielink_key_reloads_total{{result=\"{result}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start} in {metrics}")).parse().unwrap()
    }

    fn last_key(&self) -> String {
        let requests = self.kie.requests();
        requests.last().unwrap().header("authorization").unwrap().trim_start_matches("Bearer ").to_owned()
    }
}

/// In one step, as an editor or a volume does.
fn put(path: &Path, key: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, format!("{key}\n")).unwrap();
    std::fs::rename(next, path).unwrap();
}

#[tokio::test]
async fn a_hundred_rotations_under_load_fail_no_request() {
    let bench = Bench::new();
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..4 {
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        let (client, base) = (bench.sidecar.client().clone(), bench.sidecar.base_url().to_owned());
        callers.spawn(async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // A file that nobody has asked for: every request is a mint.
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let source = encode(&format!("https://file.kie.ai/{caller}/{number}"));
                let response = client.get(format!("{base}/v1/link?url={source}")).send().await.unwrap();
                if response.status() != 200 {
                    failed.push(response.text().await.unwrap());
                }
            }
            failed
        });
    }
    for number in 1..=100 {
        let before = asked.load(Ordering::Relaxed);
        put(&bench.path, &key(number));
        // Revoked at once: whoever comes next finds out by the refusal.
        bench.kie.accept_only(&[&key(number)]);
        eventually("callers went on", async || asked.load(Ordering::Relaxed) > before + 8).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(failed) = callers.join_next().await {
        assert_eq!(failed.unwrap(), Vec::<String>::new());
    }
    assert_eq!(bench.last_key(), key(100));
}

#[tokio::test]
async fn a_new_key_is_found_without_anybody_asking() {
    let bench = Bench::new();
    put(&bench.path, &key(1));
    bench.kie.accept_only(&[&key(0), &key(1)]);
    let number = AtomicUsize::new(0);
    eventually("the new key is used", async || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        assert_eq!(bench.sidecar.link(&format!("{SOURCE}?{number}")).await.status, 200);
        bench.last_key() == key(1)
    })
    .await;
    assert_eq!(bench.sidecar.log_lines("the new API key has minted; the old one is let go").len(), 1);
    assert_eq!((bench.reloads("taken").await, bench.reloads("ok").await, bench.reloads("refused").await), (1, 1, 0));
}

#[tokio::test]
async fn a_new_key_that_kie_ai_refuses_changes_nothing_for_callers() {
    for refusal in [Answer::unauthorized(), Answer::banned(), Answer::envelope(402, "Credits insufficient")] {
        a_new_key_that_is_refused_with(refusal).await;
    }
}

async fn a_new_key_that_is_refused_with(refusal: Answer) {
    let bench = Bench::new();
    bench.kie.refuse_with(refusal);
    let shown = bench.sidecar.get_admin("/metrics").await.body;
    put(&bench.path, &key(1));
    bench.sidecar.reload();
    let message = "kie.ai refuses the new API key; the old one goes on";
    let number = AtomicUsize::new(0);
    eventually("the refusal is logged", async || {
        let number = number.fetch_add(1, Ordering::Relaxed);
        assert_eq!(bench.sidecar.link(&format!("{SOURCE}?{number}")).await.status, 200);
        !bench.sidecar.log_lines(message).is_empty()
    })
    .await;
    assert_eq!(bench.sidecar.log_lines(message)[0]["level"], "ERROR");
    assert_eq!(bench.sidecar.link(&format!("{SOURCE}?after")).await.status, 200);
    assert_eq!(bench.last_key(), key(0));
    assert_eq!((bench.reloads("refused").await, bench.reloads("ok").await), (1, 0));
    // The key that serves is the one that served before.
    let info = |shown: &str| shown.lines().find(|line| line.starts_with("kielink_key_info{")).unwrap().to_owned();
    let now = info(&bench.sidecar.get_admin("/metrics").await.body);
    assert!(now.contains("source=\"file\"") && now == info(&shown), "{now}");
}

#[tokio::test]
async fn a_new_key_that_several_have_in_hand_when_it_is_refused_fails_none_of_them() {
    for refusal in [Answer::unauthorized(), Answer::envelope(402, "Credits insufficient")] {
        let bench = Bench::new();
        bench.kie.refuse_with(refusal);
        put(&bench.path, &key(1));
        bench.sidecar.reload();
        let read = "a new API key was read; the next mint tries it";
        eventually("it is read", async || !bench.sidecar.log_lines(read).is_empty()).await;
        bench.kie.hold();
        let sources: Vec<_> = (0..3).map(|n| format!("{SOURCE}?{n}")).collect();
        let asked = futures_util::future::join_all(sources.iter().map(|source| bench.sidecar.link(source)));
        let (replies, ()) = tokio::join!(asked, async {
            bench.kie.wait_for_mints(3).await;
            bench.kie.release();
        });
        assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
        assert_eq!(bench.reloads("refused").await, 1);
    }
}

/// Words of every signed link, and what is pasted by mistake: none is a key, and each is tried as one.
#[tokio::test]
async fn wrong_keys_put_in_and_taken_back_under_load_fail_no_request() {
    let bench = Bench::new();
    let wrong = ["cloudflarestorage", "aws4_request", "X-Amz-Signature", "X-Amz-Credential=fake", SOURCE];
    let no_keys =
        ["host", "e", "1", "auto", "KIE_API_KEY=0123456789abcdef", "Bearer 0123456789abcdef", "\"0123456789\""];
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for caller in 0..4 {
        let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
        let (client, base) = (bench.sidecar.client().clone(), bench.sidecar.base_url().to_owned());
        callers.spawn(async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                let source = encode(&format!("https://file.kie.ai/{caller}/{number}"));
                let response = client.get(format!("{base}/v1/link?url={source}")).send().await.unwrap();
                if response.status() != 200 {
                    failed.push(response.text().await.unwrap());
                }
            }
            failed
        });
    }
    let go_on = async || {
        let before = asked.load(Ordering::Relaxed);
        eventually("callers went on", async || asked.load(Ordering::Relaxed) > before + 20).await;
    };
    for (n, text) in wrong.iter().enumerate() {
        put(&bench.path, text);
        bench.sidecar.reload();
        let refused = "kie.ai refuses the new API key; the old one goes on";
        eventually("it is tried", async || bench.sidecar.log_lines(refused).len() > n).await;
        go_on().await;
        put(&bench.path, &key(0));
        bench.sidecar.reload();
        go_on().await;
    }
    for text in no_keys {
        put(&bench.path, text);
        bench.sidecar.reload();
        go_on().await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(failed) = callers.join_next().await {
        assert_eq!(failed.unwrap(), Vec::<String>::new());
    }
    assert_eq!(bench.reloads("taken").await, wrong.len() as u64);
    assert!(!bench.sidecar.logs().contains("0123456789abcdef"), "what is no key is not shown, either");
}

#[tokio::test]
async fn a_wrong_key_that_cannot_be_told_from_a_links_words_is_not_held_against_links_while_it_is_on_trial() {
    let bench = Bench::new();
    bench.kie.hold();
    // Asked for with the old key, answered when another is on trial.
    let (reply, ()) = tokio::join!(bench.sidecar.link(SOURCE), async {
        bench.kie.wait_for_mints(1).await;
        put(&bench.path, "cloudflarestorage");
        bench.sidecar.reload();
        let read = "a new API key was read; the next mint tries it";
        eventually("it is read", async || !bench.sidecar.log_lines(read).is_empty()).await;
        bench.kie.release();
    });
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[tokio::test]
async fn a_file_that_comes_back_unchanged_gets_an_all_clear() {
    let bench = Bench::new();
    std::fs::remove_file(&bench.path).unwrap();
    bench.sidecar.reload();
    let message = "the key file cannot be used; the API key in use goes on";
    eventually("it is missed", async || bench.sidecar.log_lines(message).len() == 1).await;
    put(&bench.path, &key(0));
    let message = "the key file can be used again";
    eventually("it is welcomed", async || bench.sidecar.log_lines(message).len() == 1).await;
    assert_eq!(bench.sidecar.link(SOURCE).await.status, 200);
    assert_eq!((bench.reloads("unreadable").await, bench.reloads("taken").await), (1, 0));
}

#[tokio::test]
async fn an_account_that_runs_dry_gives_way_to_the_key_that_lies_in_the_file() {
    let bench = Bench::new();
    bench.kie.refuse_with(Answer::envelope(402, "Credits insufficient"));
    put(&bench.path, &key(1));
    bench.kie.accept_only(&[&key(1)]);
    assert_eq!(bench.sidecar.link(SOURCE).await.status, 200);
    assert_eq!(bench.last_key(), key(1));
}

#[tokio::test]
async fn a_message_with_a_callers_url_in_it_does_not_cost_a_new_key_its_trial() {
    let bench = Bench::new();
    put(&bench.path, &key(1));
    bench.sidecar.reload();
    let read = "a new API key was read; the next mint tries it";
    eventually("it is read", async || !bench.sidecar.log_lines(read).is_empty()).await;
    bench.kie.accept_only(&[&key(1)]);
    let named = format!("{SOURCE}?insufficient%20credit");
    let echo = Answer::envelope(500, "cannot fetch https://tempfile.aiquickdraw.com/s/a.png?insufficient credit");
    bench.kie.answer_for(&named, echo);
    bench.sidecar.link(&named).await;
    assert_eq!(bench.reloads("refused").await, 0);
    assert_eq!(bench.sidecar.link(SOURCE).await.status, 200);
    assert_eq!(bench.last_key(), key(1));
}

impl Bench {
    /// With another key on trial, which kie.ai takes as well as the first.
    async fn with_a_key_on_trial() -> Bench {
        let bench = Bench::new();
        put(&bench.path, &key(1));
        bench.sidecar.reload();
        let read = "a new API key was read; the next mint tries it";
        eventually("it is read", async || !bench.sidecar.log_lines(read).is_empty()).await;
        bench.kie.accept_only(&[&key(0), &key(1)]);
        bench
    }
}

#[tokio::test]
async fn files_that_a_gateway_does_not_like_do_not_cost_a_new_key_its_trial() {
    for (n, page) in
        [Answer::html(403), Answer::html(401), Answer::envelope(500, "x").http_status(403)].into_iter().enumerate()
    {
        for is_old_one_revoked in [false, true] {
            let bench = Bench::with_a_key_on_trial().await;
            if is_old_one_revoked {
                bench.kie.accept_only(&[&key(1)]);
            }
            for file in 0..2 {
                let disliked = format!("{SOURCE}?select={file}");
                bench.kie.answer_for(&disliked, page.clone());
                let reply = bench.sidecar.link(&disliked).await;
                assert_eq!((reply.status, reply.slug().as_str()), (502, "key-refused"), "{n} {is_old_one_revoked}");
                assert_eq!(bench.kie.mints(), 2 * (file + 1), "with either key");
            }
            bench.kie.accept_only(&[&key(1)]);
            let reply = bench.sidecar.link(SOURCE).await;
            assert_eq!((reply.status, bench.last_key()), (200, key(1)), "{n} {is_old_one_revoked} {reply:?}");
            assert_eq!((bench.reloads("refused").await, bench.reloads("ok").await), (0, 1));
        }
    }
}

#[tokio::test]
async fn a_new_key_that_one_file_was_refused_with_by_a_gateway_is_tried_again_with_the_next() {
    let bench = Bench::with_a_key_on_trial().await;
    bench.kie.refuse_with(Answer::banned());
    bench.kie.accept_only(&[&key(0)]);
    for _ in 0..2 {
        assert_eq!(bench.sidecar.link(SOURCE).await.status, 200, "the old key is there");
        let address = format!("{}/v1/link?url={}", bench.sidecar.admin_url(), encode(SOURCE));
        bench.sidecar.send(bench.sidecar.client().delete(address)).await;
    }
    assert_eq!((bench.kie.mints(), bench.reloads("refused").await), (4, 0));
    bench.kie.accept_only(&[&key(0), &key(1)]);
    assert_eq!(bench.sidecar.link(&format!("{SOURCE}?next")).await.status, 200);
    assert_eq!((bench.last_key(), bench.reloads("ok").await), (key(1), 1));
}

#[tokio::test]
async fn where_a_gateway_refuses_both_keys_few_files_find_out_for_all() {
    let bench = Bench::with_a_key_on_trial().await;
    bench.kie.refuse_with(Answer::banned());
    bench.kie.accept_only(&[]);
    for file in 0..60 {
        assert_eq!(bench.sidecar.link(&format!("{SOURCE}?{file}")).await.status, 502);
    }
    assert!(bench.kie.mints() <= 12, "{}", bench.kie.mints());
}

#[tokio::test]
async fn a_file_that_becomes_useless_changes_nothing() {
    let bench = Bench::new();
    let message = "the key file cannot be used; the API key in use goes on";
    for (n, content) in [b"".to_vec(), vec![b'k'; 10 << 20], b"\xff".to_vec()].into_iter().enumerate() {
        std::fs::write(&bench.path, content).unwrap();
        bench.sidecar.reload();
        eventually("it is logged", async || bench.sidecar.log_lines(message).len() == n + 1).await;
        assert_eq!(bench.sidecar.link(&format!("{SOURCE}?{n}")).await.status, 200);
    }
    assert_eq!(bench.reloads("unreadable").await, 3);
    put(&bench.path, &key(1));
    bench.kie.accept_only(&[&key(1)]);
    assert_eq!(bench.sidecar.link(&format!("{SOURCE}?replaced")).await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_refused_and_not_replaced_is_the_operators_business() {
    let bench = Bench::new();
    bench.kie.accept_only(&[]);
    let reply = bench.sidecar.link(SOURCE).await;
    assert_eq!((reply.status, reply.slug().as_str()), (502, "key-refused"));
    assert_eq!(bench.kie.mints(), 1);
}

#[tokio::test]
async fn a_key_that_was_let_go_while_its_request_was_on_the_way_is_blotted_out_of_the_answer() {
    let bench = Bench::new();
    bench.kie.accept_only(&[&key(0), &key(1)]);
    let slow = format!("{SOURCE}?slow");
    // Echoes the old key when the new one has long been in use.
    bench.kie.answer_for(&slow, Answer::echo_key(422).after(std::time::Duration::from_secs(3)));
    let rotate = async {
        bench.kie.wait_for_mints(1).await;
        put(&bench.path, &key(1));
        bench.sidecar.reload();
        let number = AtomicUsize::new(0);
        eventually("the old key is let go", async || {
            let number = number.fetch_add(1, Ordering::Relaxed);
            bench.sidecar.link(&format!("{SOURCE}?{number}")).await;
            !bench.sidecar.log_lines("the new API key has minted; the old one is let go").is_empty()
        })
        .await;
    };
    let (reply, ()) = tokio::join!(bench.sidecar.download_url(&slow), rotate);
    assert_eq!(reply.status, 422, "{reply:?}");
    assert!(reply.body.contains("[key]") && !reply.body.contains(KEY), "{reply:?}");
}
