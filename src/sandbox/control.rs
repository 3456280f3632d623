//! `/sandbox` on the simulated kie.ai's port: what to change while it runs, and what has happened so far.
//!
//! It does not know how the changes work, only how they are called. The real kie.ai has no such path.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde_json::json;
use url::form_urlencoded;

use super::{Config, World, answer::typed};

const KNOWN: &str = "outage=30s, latency=2s, failure_rate=0.3, quota=2 (calls a second) and link_life=30s";

/// No demonstration takes longer, and a mistyped unit is caught.
const LONGEST_OUTAGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a change is refused. Written as sentences: they are all that the caller gets.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("There is nothing to change: the sandbox knows {KNOWN}.")]
    Nothing,
    #[error("GET only shows the settings: use POST to change them.")]
    WrongMethod,
    #[error("There is no parameter `{name}`: the sandbox knows {KNOWN}.")]
    Unknown { name: String },
    #[error("The parameter `{name}` is there twice.")]
    Twice { name: String },
    #[error("`{value}` is no value for `{name}`: the sandbox knows {KNOWN}.")]
    Value { name: String, value: String },
    #[error("An outage is at most 24h.")]
    Outage,
    #[error("That cannot be: {0}.")]
    Setting(#[from] super::Error),
}

/// All that one request changes.
#[derive(Debug, Default, PartialEq)]
struct Change {
    outage: Option<Duration>,
    latency: Option<Duration>,
    failure_rate: Option<f64>,
    quota: Option<u32>,
    link_life: Option<Duration>,
}

pub(crate) async fn show(State(world): State<Arc<World>>, uri: Uri) -> Response {
    // `curl .../sandbox?outage=30s` without `-X POST` would seem to work and change nothing.
    if uri.query().is_some_and(|query| !query.is_empty()) {
        return refuse(&Refusal::WrongMethod);
    }
    report(&world)
}

pub(crate) async fn change(State(world): State<Arc<World>>, uri: Uri) -> Response {
    let change = parse(uri.query().unwrap_or_default());
    match change.and_then(|change| apply(&world, change)) {
        Ok(()) => report(&world),
        Err(refusal) => refuse(&refusal),
    }
}

/// All of it or nothing.
fn apply(world: &World, change: Change) -> Result<(), Refusal> {
    if change.outage.is_some_and(|outage| outage > LONGEST_OUTAGE) {
        return Err(Refusal::Outage);
    }
    let old = world.config();
    world.reconfigure(Config {
        latency: change.latency.unwrap_or(old.latency),
        failure_rate: change.failure_rate.unwrap_or(old.failure_rate),
        link_life: change.link_life.unwrap_or(old.link_life),
        quota: change.quota.unwrap_or(old.quota),
    })?;
    if let Some(outage) = change.outage {
        world.begin_outage(outage);
    }
    Ok(())
}

fn parse(query: &str) -> Result<Change, Refusal> {
    let mut change = Change::default();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let duration = |text: &str| humantime::parse_duration(text).ok();
        let (name, value) = (name.as_ref(), value.as_ref());
        match name {
            "outage" => fill(&mut change.outage, name, value, duration)?,
            "latency" => fill(&mut change.latency, name, value, duration)?,
            "failure_rate" => fill(&mut change.failure_rate, name, value, |text| text.parse().ok())?,
            "quota" => fill(&mut change.quota, name, value, |text| text.parse().ok())?,
            "link_life" => fill(&mut change.link_life, name, value, duration)?,
            _ => {
                let name = name.to_owned();
                return Err(Refusal::Unknown { name });
            }
        }
    }
    if change == Change::default() {
        return Err(Refusal::Nothing);
    }
    Ok(change)
}

fn fill<T>(slot: &mut Option<T>, name: &str, value: &str, read: impl Fn(&str) -> Option<T>) -> Result<(), Refusal> {
    let name = name.to_owned();
    if slot.is_some() {
        return Err(Refusal::Twice { name });
    }
    let Some(read) = read(value) else {
        let value = value.to_owned();
        return Err(Refusal::Value { name, value });
    };
    *slot = Some(read);
    Ok(())
}

fn report(world: &World) -> Response {
    let config = world.config();
    let duration = |duration| humantime::format_duration(duration).to_string();
    let body = json!({
        "settings": {
            "outage_left": world.outage_left().map(duration),
            "latency": duration(config.latency),
            "failure_rate": config.failure_rate,
            "quota": config.quota,
            "link_life": duration(config.link_life),
        },
        "counts": world.counts(),
    });
    typed(StatusCode::OK, "application/json", format!("{body:#}\n"))
}

fn refuse(refusal: &Refusal) -> Response {
    typed(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", format!("{refusal}\n"))
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::{
        super::{
            kie,
            world::tests::{Bench, KEY},
        },
        *,
    };

    async fn send(bench: &Bench, method: &str, path: &str) -> (StatusCode, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("user-agent", "test")
            .header("authorization", format!("Bearer {KEY}"))
            .body(Body::from(r#"{"url":"https://file.kie.ai/s/notes.txt"}"#))
            .unwrap();
        let response = kie::router(Arc::clone(&bench.world)).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn mint(bench: &Bench) -> StatusCode {
        send(bench, "POST", "/api/v1/common/download-url").await.0
    }

    #[tokio::test]
    async fn an_outage_lasts_as_long_as_asked_and_can_be_called_off() {
        let bench = Bench::new();
        let table = [
            ("/sandbox?outage=30s", 0, 502),
            ("", 29, 502),
            ("", 1, 200),
            ("/sandbox?outage=10m", 0, 502),
            ("/sandbox?outage=0s", 0, 200),
        ];
        for (change, pass_secs, expected) in table {
            if !change.is_empty() {
                assert_eq!(send(&bench, "POST", change).await.0, StatusCode::OK);
            }
            bench.pass(Duration::from_secs(pass_secs));
            assert_eq!(mint(&bench).await.as_u16(), expected, "{change} {pass_secs}");
        }
    }

    #[tokio::test]
    async fn settings_and_counts_can_be_changed_and_read() {
        let bench = Bench::new();
        let all = "/sandbox?latency=0s&failure_rate=0.25&quota=3&link_life=45s&outage=1m";
        assert_eq!(send(&bench, "POST", all).await.0, StatusCode::OK);
        mint(&bench).await;
        let calm = "/sandbox?outage=0s&failure_rate=0";
        assert_eq!(send(&bench, "POST", calm).await.0, StatusCode::OK);
        mint(&bench).await;
        let (_, shown) = send(&bench, "GET", "/sandbox").await;
        let expected = json!({
            "settings": {
                "outage_left": null,
                "latency": "0s",
                "failure_rate": 0.0,
                "quota": 3,
                "link_life": "45s",
            },
            "counts": { "mints": 1, "refused": 1, "by_code": { "200": 1, "502": 1 } },
        });
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), expected);
    }

    #[tokio::test]
    async fn what_is_not_understood_is_refused_with_a_sentence_and_changes_nothing() {
        let bench = Bench::new();
        let before = bench.world.config();
        let table = [
            ("POST", "/sandbox", "There is nothing to change: the sandbox knows outage=30s,"),
            ("POST", "/sandbox?quota=1&speed=2", "There is no parameter `speed`: the sandbox knows outage=30s,"),
            ("POST", "/sandbox?quota=1&quota=2", "The parameter `quota` is there twice."),
            ("POST", "/sandbox?quota=many", "`many` is no value for `quota`:"),
            ("POST", "/sandbox?latency=fast", "`fast` is no value for `latency`:"),
            ("POST", "/sandbox?quota=1&failure_rate=30", "That cannot be: failure_rate is a share from 0 to 1"),
            ("POST", "/sandbox?quota=1&link_life=0s", "That cannot be: link_life is 1s to 7d"),
            ("POST", "/sandbox?quota=1&outage=25h", "An outage is at most 24h."),
            ("GET", "/sandbox?outage=30s", "GET only shows the settings: use POST"),
        ];
        for (method, path, expected) in table {
            let (status, body) = send(&bench, method, path).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
            assert!(body.starts_with(expected), "{path}: {body}");
        }
        assert_eq!(bench.world.config(), before);
        assert_eq!(bench.world.outage_left(), None);
    }
}
