//! A key file that never answers: a pipe that nobody writes to, as a mount that is gone. Nobody waits for it.

use std::path::{Path, PathBuf};

use super::child::{Child, Run};
use crate::support::{Answer, FakeKie, KEY, SOURCE, eventually, within};

fn pipe(folder: &tempfile::TempDir) -> PathBuf {
    let path = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path
}

fn put(path: &Path, key: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, format!("{key}\n")).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn threads(child: &Child) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().count()
}

#[tokio::test]
async fn the_start_says_within_two_seconds_that_a_key_file_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = pipe(&folder);
    for command in ["check-config", "serve"] {
        let child = Run::new(&[command]).env("KIE_API_KEY_FILE", &path).start();
        within(std::time::Duration::from_secs(5), "it ends by itself", async || child.has_ended()).await;
        assert_eq!(child.ended().await, Some(78), "{}", child.stderr());
        assert!(child.stderr().contains("KIE_API_KEY_FILE: the file cannot be read in time"), "{}", child.stderr());
    }
}

#[tokio::test]
async fn a_key_file_that_stops_answering_takes_few_threads_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    put(&path, KEY);
    let kie = FakeKie::start();
    kie.accept_only(&[KEY]);
    let base_url = format!("upstream.base_url={}", kie.base_url());
    let settings = ["upstream.rate=1000", "upstream.burst=1000", &base_url];
    let mut run = Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    for setting in settings {
        run = run.arguments(&["--set", setting]);
    }
    let child = run.env("KIE_API_KEY_FILE", &path).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    let before = threads(&child);

    std::fs::rename(pipe(&folder), &path).unwrap();
    // Each refusal asks for the file to be looked into.
    for n in 0..100 {
        let source = format!("{SOURCE}?{n}");
        kie.answer_for(&source, Answer::unauthorized());
        assert_eq!(child.link(&source).await.status, 502);
    }
    child.wait_for_log("the key file cannot be used; the API key in use goes on").await;
    assert!(threads(&child) <= before + 3, "{} threads, and {before} before", threads(&child));
    assert_eq!(child.link(SOURCE).await.status, 200);

    // It recovers when the file does.
    let next = format!("{KEY}-next");
    put(&path, &next);
    kie.accept_only(&[&next]);
    child.wait_for_log("the key file can be used again").await;
    let source = format!("{SOURCE}?after");
    assert_eq!(child.link(&source).await.status, 200);

    std::fs::rename(pipe(&folder), &path).unwrap();
    eventually("it is being read", async || {
        threads(&child) > before || child.log_lines("the key file cannot be used; the API key in use goes on").len() > 1
    })
    .await;
    child.terminate();
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
}
