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
    upstream::{Condition, Kie, RecentCalls},
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
    answer(&uri, "livez", true, &[Check { name: "process", ok: true }], "")
}

pub(crate) async fn readyz(
    extract::State(Probes { readiness, kie, fleet }): extract::State<Probes>,
    uri: Uri,
) -> Response {
    // Neither kie.ai's state nor the tier's changes the verdict: a sidecar's readiness is its app's readiness.
    let mut notes = upstream_line(kie.condition(), &kie.recent_calls());
    if let Some(description) = fleet.and_then(|fleet| fleet.describe()) {
        notes.push_str(&tier_line(&description));
    }
    answer(&uri, "readyz", readiness.is_ready(), &readiness.checks(), &notes)
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
    format!("[-]shared tier {why} (does not count)\n")
}

/// What was last seen of kie.ai. It changes no verdict and promises nothing: "ok" only says that what was tried did not
/// fail.
fn upstream_line(condition: Condition, recent: &RecentCalls) -> String {
    let calls = if recent.calls == 1 { "call".to_owned() } else { format!("{} calls", recent.calls) };
    let failed = recent.last_failure.as_ref().map(|why| format!("{} of the last {calls} failed: {why}", recent.failed));
    let (sign, said) = match (condition, &failed) {
        (Condition::Well, None) if recent.calls == 0 => ('+', "not asked yet"),
        (Condition::Well, None) => ('+', "ok"),
        (Condition::Well, Some(failed)) if recent.last_was_good => ('+', failed.as_str()),
        (Condition::Well, Some(failed)) => ('-', failed.as_str()),
        (Condition::Limiting, _) => ('-', "limits the rate"),
        (Condition::Unwell, _) => ('-', "unwell"),
        (Condition::Refusing, _) => ('-', "refuses the account"),
    };
    let why = failed.as_deref().filter(|failed| *failed != said).map(|failed| format!(", {failed}"));
    let counts = if sign == '+' { "" } else { " (does not count)" };
    format!("[{sign}]upstream {said}{}{counts}\n", why.unwrap_or_default())
}

/// True for ever, once kielink has been ready for the first time.
pub(crate) async fn startupz(extract::State(Probes { readiness, .. }): extract::State<Probes>, uri: Uri) -> Response {
    let started = readiness.has_started();
    let checks = readiness.checks();
    // Draining does not undo a start.
    answer(&uri, "startupz", started, if started { &[Check { name: "started", ok: true }] } else { &checks }, "")
}

fn answer(uri: &Uri, probe: &str, ok: bool, checks: &[Check], notes: &str) -> Response {
    let verbose =
        uri.query().is_some_and(|query| query.split('&').any(|part| part.split('=').next() == Some("verbose")));
    let mut text = String::new();
    if verbose || !ok {
        for check in checks {
            let (sign, word) = if check.ok { ("+", "ok") } else { ("-", "failed") };
            writeln!(text, "[{sign}]{} {word}", check.name).expect("a String takes everything");
        }
        text.push_str(notes);
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
