//! `/sandbox` on the simulated kie.ai's port: what to change while it runs, and what has happened so far.
//!
//! Knows only what the changes are called, not how they work. The real kie.ai has no such path.

use std::time::Duration;

use serde_json::{Value, json};
use url::form_urlencoded;

use super::{
    Config, World,
    answer::Answer,
    request::Request,
    words::{self, Unknown},
    world::State,
};
use crate::clock::Instant;

pub(super) const PATH: &str = "/sandbox";

const KNOWN: &str = "outage=30s, latency=2s, failure_rate=0.3, quota=2 (calls a second), link_life=30s, answer=402, \
    file=SOURCE (with answer), account=402, credit=401, balance=100, spend=0.5 (credits a second), kept=reset, clock=1170 (seconds ahead), silent=30s, \
    refuse=30s, hang_up=30s and connections=mute, reset or close";

/// No demonstration takes longer, and a mistyped unit is caught.
const LONGEST_OUTAGE: Duration = Duration::from_secs(24 * 60 * 60);

/// This many files may have an answer of their own.
const MOST_FILES: usize = 1000;

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
    #[error("A file is what an answer is for: give both, `file` and `answer`.")]
    File,
    #[error("At most {MOST_FILES} files can have an answer of their own.")]
    Files,
    #[error("{0}.")]
    Answer(#[from] Unknown),
    #[error("That cannot be: {0}.")]
    Setting(#[from] super::Error),
}

/// All that one request changes.
#[derive(Default)]
struct Change {
    outage: Option<Duration>,
    latency: Option<Duration>,
    failure_rate: Option<f64>,
    quota: Option<u32>,
    link_life: Option<Duration>,
    answer: Option<Said>,
    /// The file whose answer that is; without it, the answer holds for all files.
    file: Option<String>,
    account: Option<Said>,
    credit: Option<Said>,
    balance: Option<f64>,
    spend: Option<f64>,
    kept: Option<Said>,
    clock: Option<i64>,
    silent: Option<Duration>,
    refuse: Option<Duration>,
    hang_up: Option<Duration>,
    connections: Option<fn(&World)>,
}

/// An answer and how it was written; `None` where things are to be as usual.
struct Said(Option<(Answer, String)>);

pub(super) fn answer(world: &World, request: &Request) -> Answer {
    let done = match request.method.as_str() {
        "POST" => parse(request.query()).and_then(|change| apply(world, change)),
        // `curl .../sandbox?outage=30s` without `-X POST` would seem to work and change nothing.
        "GET" | "HEAD" if request.query().is_empty() => Ok(()),
        "GET" | "HEAD" => Err(Refusal::WrongMethod),
        _ => return Answer::plain(405, "text/plain; charset=utf-8", "").with_header("Allow", "GET, HEAD, POST"),
    };
    match done {
        Ok(()) => Answer::plain(200, "application/json", format!("{:#}\n", report(world))),
        Err(refusal) => Answer::plain(400, "text/plain; charset=utf-8", format!("{refusal}\n")),
    }
}

/// Applies all of the change or nothing: what can fail comes first.
fn apply(world: &World, change: Change) -> Result<(), Refusal> {
    let lengths = [change.outage, change.silent, change.refuse, change.hang_up];
    if lengths.into_iter().flatten().any(|length| length > LONGEST_OUTAGE) {
        return Err(Refusal::Outage);
    }
    let now = world.clock.now();
    let mut state = world.state();
    match (&change.file, &change.answer) {
        (Some(_), None) => return Err(Refusal::File),
        (Some(_), Some(_)) if state.script.by_source.len() >= MOST_FILES => return Err(Refusal::Files),
        (_, _) => {}
    }
    let old = state.config.clone();
    let config = Config {
        latency: change.latency.unwrap_or(old.latency),
        failure_rate: change.failure_rate.unwrap_or(old.failure_rate),
        link_life: change.link_life.unwrap_or(old.link_life),
        quota: change.quota.unwrap_or(old.quota),
        ..old
    };
    state.reconfigure(config, now)?;
    if let Some(outage) = change.outage {
        state.outage_end = now + outage;
    }
    let State { script, switched, balance, .. } = &mut *state;
    let mut take = |said: Said, shown_as: &str| {
        switched.remove(shown_as);
        let (answer, text) = said.0?;
        switched.insert(shown_as.to_owned(), text);
        Some(answer)
    };
    match (change.answer, change.file) {
        (Some(said), Some(file)) => match take(said, &format!("answer for {file}")) {
            Some(answer) => drop(script.by_source.insert(file, answer)),
            None => drop(script.by_source.remove(&file)),
        },
        (Some(said), None) => script.usual = take(said, "answer").unwrap_or_else(Answer::link),
        (None, _) => {}
    }
    if let Some(said) = change.credit {
        script.credit = take(said, "credit");
    }
    if change.balance.is_some() || change.spend.is_some() {
        balance.change(change.balance, change.spend, now);
    }
    if let Some(said) = change.account {
        script.account = take(said, "account");
    }
    if let Some(said) = change.kept {
        script.kept = take(said, "kept");
    }
    if let Some(seconds) = change.clock {
        script.clock_off_seconds = seconds;
    }
    drop(state);
    for (length, befall) in [
        (change.silent, World::be_silent as fn(&World, Duration)),
        (change.hang_up, World::hang_up),
        (change.refuse, World::refuse_connections),
    ] {
        if let Some(length) = length {
            befall(world, length);
        }
    }
    if let Some(befall) = change.connections {
        befall(world);
    }
    Ok(())
}

fn parse(query: &str) -> Result<Change, Refusal> {
    let mut change = Change::default();
    let mut is_empty = true;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        is_empty = false;
        let (name, value) = (name.as_ref(), value.as_ref());
        let no_value = || Refusal::Value { name: name.to_owned(), value: value.to_owned() };
        let duration = || humantime::parse_duration(value).map_err(|_| no_value());
        let credits = || value.parse().ok().filter(|it: &f64| it.is_finite() && *it >= 0.0).ok_or_else(no_value);
        let said = || match value {
            "ok" => Ok(Said(None)),
            _ => value.parse().map(|answer| Said(Some((answer, value.to_owned())))),
        };
        match name {
            "outage" => fill(&mut change.outage, name, duration()?)?,
            "latency" => fill(&mut change.latency, name, duration()?)?,
            "failure_rate" => fill(&mut change.failure_rate, name, value.parse().map_err(|_| no_value())?)?,
            "quota" => fill(&mut change.quota, name, value.parse().map_err(|_| no_value())?)?,
            "link_life" => fill(&mut change.link_life, name, duration()?)?,
            "answer" => fill(&mut change.answer, name, said()?)?,
            "file" => fill(&mut change.file, name, value.to_owned())?,
            "account" => fill(&mut change.account, name, said()?)?,
            "credit" => fill(&mut change.credit, name, said()?)?,
            "balance" => fill(&mut change.balance, name, credits()?)?,
            "spend" => fill(&mut change.spend, name, credits()?)?,
            "kept" => fill(&mut change.kept, name, said()?)?,
            "clock" => fill(&mut change.clock, name, words::seconds(value.trim()).ok_or_else(no_value)?)?,
            "silent" => fill(&mut change.silent, name, duration()?)?,
            "refuse" => fill(&mut change.refuse, name, duration()?)?,
            "hang_up" => fill(&mut change.hang_up, name, duration()?)?,
            "connections" => {
                let befall: fn(&World) = match value {
                    "mute" => World::mute_connections,
                    "reset" => World::reset_connections,
                    "close" => World::close_connections,
                    _ => return Err(no_value()),
                };
                fill(&mut change.connections, name, befall)?;
            }
            _ => return Err(Refusal::Unknown { name: name.to_owned() }),
        }
    }
    if is_empty { Err(Refusal::Nothing) } else { Ok(change) }
}

fn fill<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), Refusal> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Refusal::Twice { name: name.to_owned() }),
    }
}

fn report(world: &World) -> Value {
    let now = world.clock.now();
    let duration = |duration: Duration| humantime::format_duration(duration).to_string();
    let left = |end: Instant| Some(now.until(end)).filter(|left| !left.is_zero()).map(duration);
    let wire = *world.wire.borrow();
    let state = world.state();
    let State { config, script, record, switched, balance, .. } = &*state;
    let mut settings = json!({
        "outage_left": left(state.outage_end),
        "latency": duration(config.latency),
        "failure_rate": config.failure_rate,
        "quota": config.quota,
        "link_life": duration(config.link_life),
    });
    // A setting that is as usual is not worth a line.
    for (name, text) in switched {
        settings[name] = text.as_str().into();
    }
    if let Some((left, spent)) = balance.shown(now) {
        (settings["balance"], settings["spend"]) = (left.into(), spent.into());
    }
    if script.clock_off_seconds != 0 {
        settings["clock"] = script.clock_off_seconds.into();
    }
    for (name, end) in [("silent_left", wire.silent_until), ("hang_up_left", wire.hangs_up_until)] {
        if let Some(left) = end.and_then(left) {
            settings[name] = left.into();
        }
    }
    let mut report = json!({ "settings": settings, "counts": record.counts });
    // The changed settings stand among the others, in the order of names.
    report.sort_all_objects();
    report
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Host,
            connection::tests::ask,
            kie::{CREDIT, DOWNLOAD_URL},
            world::tests::Bench,
        },
        *,
    };

    const NOTES: &str = r#"{"url":"https://file.kie.ai/s/notes.txt"}"#;
    const SUNRISE: &str = r#"{"url":"https://tempfile.aiquickdraw.com/s/sunrise.png"}"#;

    async fn change(bench: &Bench, query: &str) -> Value {
        let reply = ask(&bench.world, Host::Kie, "POST", &format!("/sandbox?{query}"), "", "").await;
        assert_eq!(reply.status, 200, "{query}: {}", reply.text());
        reply.json()
    }

    async fn mint(bench: &Bench, body: &str) -> u16 {
        let reply = bench.ask("POST", DOWNLOAD_URL, body).await;
        if reply.status == 200 { reply.json()["code"].as_u64().unwrap().try_into().unwrap() } else { reply.status }
    }

    #[tokio::test]
    async fn an_outage_lasts_as_long_as_asked_and_can_be_called_off() {
        let bench = Bench::new();
        let table =
            [("outage=30s", 0, 502), ("", 29, 502), ("", 1, 200), ("outage=10m", 0, 502), ("outage=0s", 0, 200)];
        for (query, pass_secs, expected) in table {
            if !query.is_empty() {
                change(&bench, query).await;
            }
            bench.pass(Duration::from_secs(pass_secs));
            assert_eq!(mint(&bench, NOTES).await, expected, "{query} {pass_secs}");
        }
    }

    #[tokio::test]
    async fn settings_and_counts_can_be_changed_and_read() {
        let bench = Bench::new();
        change(&bench, "latency=0s&failure_rate=0.25&quota=3&link_life=45s&outage=1m").await;
        mint(&bench, NOTES).await;
        change(&bench, "outage=0s&failure_rate=0").await;
        mint(&bench, NOTES).await;
        let shown = ask(&bench.world, Host::Kie, "GET", "/sandbox", "", "").await.json();
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
        assert_eq!(shown, expected);
    }

    #[tokio::test]
    async fn answers_can_be_ordered_for_all_files_for_one_for_the_account_and_are_shown() {
        let bench = Bench::new();
        let notes = "file=https://file.kie.ai/s/notes.txt";
        // The answers to the notes, to the sunrise, and to the credits left.
        let table = [
            ("answer=429;retry-after:7".to_owned(), 429, 429, 200, json!({ "answer": "429;retry-after:7" })),
            (format!("answer=http-403&{notes}"), 403, 429, 200, json!({ "answer": "429;retry-after:7" })),
            ("answer=ok".to_owned(), 403, 200, 200, json!({ "answer": null })),
            ("account=402&credit=505".to_owned(), 402, 402, 402, json!({ "account": "402", "credit": "505" })),
            (
                "account=ok".to_owned(),
                403,
                200,
                505,
                json!({ "answer for https://file.kie.ai/s/notes.txt": "http-403" }),
            ),
            (format!("answer=ok&{notes}&credit=ok&clock=-30"), 200, 200, 200, json!({ "clock": -30, "credit": null })),
        ];
        for (query, for_notes, for_sunrise, for_credits, shown) in table {
            let settings = change(&bench, &query).await["settings"].clone();
            for (name, value) in shown.as_object().unwrap() {
                assert_eq!(settings.get(name).unwrap_or(&Value::Null), value, "{query}");
            }
            assert_eq!(mint(&bench, NOTES).await, for_notes, "{query}");
            assert_eq!(mint(&bench, SUNRISE).await, for_sunrise, "{query}");
            assert_eq!(bench.ask("GET", CREDIT, "").await.json()["code"], for_credits, "{query}");
        }
        assert_eq!(bench.ask("GET", CREDIT, "").await.header("date"), "Tue, 15 Apr 2025 10:09:37 GMT");
        assert!(change(&bench, "silent=2s").await["settings"]["silent_left"].is_string());
    }

    #[tokio::test]
    async fn credits_run_out_as_they_are_spent() {
        let bench = Bench::new();
        let table = [
            ("balance=10&spend=2.5", 0, 10.0, 200),
            ("", 3, 2.5, 200),
            ("", 3, 0.0, 402),
            ("balance=100.25", 0, 100.25, 200),
            ("spend=0", 1, 100.25, 200),
        ];
        for (query, pass_secs, left, minted) in table {
            if !query.is_empty() {
                change(&bench, query).await;
            }
            bench.pass(Duration::from_secs(pass_secs));
            assert_eq!(bench.ask("GET", CREDIT, "").await.json()["data"], left, "{query} {pass_secs}");
            assert_eq!(mint(&bench, NOTES).await, minted, "{query} {pass_secs}");
        }
        let shown = change(&bench, "spend=1").await["settings"].clone();
        assert_eq!((&shown["balance"], &shown["spend"]), (&json!(100.25), &json!(1.0)));
    }

    #[tokio::test]
    async fn what_is_not_understood_is_refused_with_a_sentence_and_changes_nothing() {
        let bench = Bench::new();
        let before = bench.world.state().config.clone();
        let table = [
            ("POST", "/sandbox", "There is nothing to change: the sandbox knows outage=30s,"),
            ("POST", "/sandbox?quota=1&speed=2", "There is no parameter `speed`: the sandbox knows outage=30s,"),
            ("POST", "/sandbox?quota=1&quota=2", "The parameter `quota` is there twice."),
            ("POST", "/sandbox?balance=-1", "`-1` is no value for `balance`:"),
            ("POST", "/sandbox?spend=NaN", "`NaN` is no value for `spend`:"),
            ("POST", "/sandbox?quota=many", "`many` is no value for `quota`:"),
            ("POST", "/sandbox?latency=fast", "`fast` is no value for `latency`:"),
            ("POST", "/sandbox?quota=1&failure_rate=30", "That cannot be: failure_rate is a share from 0 to 1"),
            ("POST", "/sandbox?quota=1&link_life=0s", "That cannot be: link_life is 1s to 7d"),
            ("POST", "/sandbox?quota=1&outage=25h", "An outage is at most 24h."),
            ("POST", "/sandbox?quota=1&refuse=25h", "An outage is at most 24h."),
            ("POST", "/sandbox?quota=1&answer=lnk", "`lnk` is no answer: there is link,"),
            ("POST", "/sandbox?quota=1&file=https://file.kie.ai/a", "A file is what an answer is for:"),
            ("POST", "/sandbox?quota=1&connections=cut", "`cut` is no value for `connections`:"),
            ("POST", "/sandbox?quota=1&clock=soon", "`soon` is no value for `clock`:"),
            ("GET", "/sandbox?outage=30s", "GET only shows the settings: use POST"),
        ];
        for (method, path, expected) in table {
            let reply = ask(&bench.world, Host::Kie, method, path, "", "").await;
            assert_eq!(reply.status, 400, "{path}");
            assert!(reply.text().starts_with(expected), "{path}: {}", reply.text());
        }
        let state = bench.world.state();
        assert_eq!(state.config, before);
        assert!(state.outage_end <= bench.world.clock.now() && state.switched.is_empty());
    }
}
