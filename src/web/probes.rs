//! `/livez`, `/readyz` (= `/healthz`), `/startupz`.

use std::fmt::Write as _;

use axum::{
    extract,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use crate::{
    fleet::{Description, Fleet},
    readiness::{Check, Readiness},
    shared::State,
    upstream::{KeyState, Kie},
};

/// What the probes tell of. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Probes {
    pub(crate) readiness: Readiness,
    /// Shown to people; the verdict does not depend on it.
    pub(crate) kie: Kie,
    /// Likewise.
    pub(crate) fleet: Option<Fleet>,
}

/// Alive as long as the process serves, also while it drains.
pub(crate) async fn livez(uri: Uri) -> Response {
    answer(&uri, "livez", true, &line(Check { name: "process", ok: true }))
}

pub(crate) async fn readyz(
    extract::State(Probes { readiness, kie, fleet }): extract::State<Probes>,
    uri: Uri,
) -> Response {
    // Neither kie.ai's state nor the tier's changes the verdict: a sidecar's readiness is its app's readiness.
    let mut notes = upstream_line(&kie);
    if let Some(description) = fleet.and_then(|fleet| fleet.describe()) {
        notes.push_str(&tier_line(&description));
    }
    let checks: String = readiness
        .checks()
        .iter()
        .map(|check| if check.name == "key" && check.ok { key_line(kie.key_state()) } else { line(*check) })
        .collect();
    answer(&uri, "readyz", readiness.is_ready(), &(checks + &notes))
}

/// What was last seen of the shared tier; it changes no verdict, either.
fn tier_line(fleet: &Description) -> String {
    if fleet.tier.state == State::Up {
        let replicas = if fleet.replicas == 1 { "replica" } else { "replicas" };
        let warning = fleet.warning.map(|warning| format!(", {warning}")).unwrap_or_default();
        return format!("[+]shared tier up, {} {replicas}{warning}\n", fleet.replicas);
    }
    let why =
        fleet.tier.last_fault.as_deref().map_or_else(|| "not there yet".to_owned(), |fault| format!("away: {fault}"));
    format!("[-]shared tier {why}{DOES_NOT_COUNT}\n")
}

/// What was last seen of kie.ai. It changes no verdict and promises nothing.
fn upstream_line(kie: &Kie) -> String {
    let (condition, calls) = (kie.condition(), kie.calls());
    let (sign, counts) = if calls.look_well(condition) { ('+', "") } else { ('-', DOES_NOT_COUNT) };
    format!("[{sign}]upstream {}{counts}\n", calls.said(condition))
}

/// The key's line, once there is one: that it is loaded is what readiness is about, not what kie.ai thinks of it.
fn key_line(state: KeyState) -> String {
    match state {
        KeyState::NotTried => "[+]key loaded, not tried yet\n".to_owned(),
        KeyState::Taken => "[+]key ok\n".to_owned(),
        KeyState::Refused => format!("[-]key the key is refused{DOES_NOT_COUNT}\n"),
    }
}

/// Behind what only people need to know.
const DOES_NOT_COUNT: &str = " (does not count)";

/// True for ever, once kielink has been ready for the first time.
pub(crate) async fn startupz(extract::State(Probes { readiness, .. }): extract::State<Probes>, uri: Uri) -> Response {
    let started = readiness.has_started();
    // Draining does not undo a start.
    let lines = match started {
        true => line(Check { name: "started", ok: true }),
        false => readiness.checks().into_iter().map(line).collect(),
    };
    answer(&uri, "startupz", started, &lines)
}

fn line(check: Check) -> String {
    let (sign, word) = if check.ok { ("+", "ok") } else { ("-", "failed") };
    format!("[{sign}]{} {word}\n", check.name)
}

fn answer(uri: &Uri, probe: &str, ok: bool, lines: &str) -> Response {
    let verbose =
        uri.query().is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let mut text = String::new();
    if verbose || !ok {
        text.push_str(lines);
        writeln!(text, "{probe} check {}", if ok { "passed" } else { "failed" }).expect("a String takes everything");
    } else {
        text.push_str("ok\n");
    }
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let plain = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    let mut response = (status, [plain], text).into_response();
    if !ok {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
