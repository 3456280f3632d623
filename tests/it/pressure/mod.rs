//! Many callers at once, and a kie.ai that limits, fails or is away: how often it is asked, and what callers get.

mod bounds;
mod directives;
mod limits;
mod outages;
mod quota;

use futures_util::future::join_all;

use crate::support::{Reply, SOURCE, Sidecar, encode};

/// The source URLs of this many files.
fn files(many: usize) -> impl Iterator<Item = String> {
    (0..many).map(|n| format!("{SOURCE}?{n}"))
}

/// Asks for all of them at once. That a reply is there for each means that everybody was answered.
async fn ask_at_once(sidecar: &Sidecar, sources: impl IntoIterator<Item = String>) -> Vec<Reply> {
    let replies = join_all(sources.into_iter().map(async |source| sidecar.link(&source).await)).await;
    for reply in &replies {
        assert_tells_when_to_come_back(reply);
    }
    replies
}

/// The same with a `Cache-Control` of the caller's.
async fn ask_for(sidecar: &Sidecar, source: &str, cache_control: &str) -> Reply {
    let request = sidecar.client().get(format!("{}/v1/link?url={}", sidecar.base_url(), encode(source)));
    sidecar.send(request.header("cache-control", cache_control)).await
}

fn assert_tells_when_to_come_back(reply: &Reply) {
    let seconds = reply.header("retry-after").parse::<u64>();
    match reply.status {
        429 | 503 => assert!(seconds.is_ok_and(|seconds| seconds >= 1), "{reply:?}"),
        _ => assert!(seconds.is_err(), "{reply:?}"),
    }
}

fn count(replies: &[Reply], status: u16) -> usize {
    replies.iter().filter(|reply| reply.status == status).count()
}

fn is_hit(reply: &Reply) -> bool {
    reply.status == 200 && reply.header("cache-status").starts_with("kielink; hit; ")
}
