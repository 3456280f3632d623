//! `/livez`, `/readyz` (= `/healthz`), `/startupz`.

use std::fmt::Write as _;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::{Readiness, readiness::Check};
use crate::upstream::{Condition, RecentCalls};

/// As long as the process serves, also while it drains.
pub(crate) async fn livez(uri: Uri) -> Response {
    answer(&uri, "livez", true, &[Check { name: "process", ok: true }], "")
}

pub(crate) async fn readyz(State(readiness): State<Readiness>, uri: Uri) -> Response {
    // kie.ai's state never changes the verdict: a sidecar's readiness is its app's readiness.
    let upstream = readiness.upstream().map(|kie| upstream_line(kie.condition(), &kie.recent_calls()));
    answer(&uri, "readyz", readiness.is_ready(), &readiness.checks(), &upstream.unwrap_or_default())
}

/// What was seen of kie.ai last. It counts for nothing, and is no promise: "ok" is only what was tried and did not fail.
fn upstream_line(condition: Condition, recent: &RecentCalls) -> String {
    let RecentCalls { calls, failed, last_failure } = recent;
    let said = match (condition, last_failure) {
        (Condition::Limiting, _) => "limits the rate".to_owned(),
        (Condition::Refusing, Some(why)) => format!("refuses the account: {why}"),
        (Condition::Refusing, None) => "refuses the account".to_owned(),
        (Condition::Well | Condition::Unwell, Some(why)) => {
            let calls = if *calls == 1 { "call".to_owned() } else { format!("{calls} calls") };
            format!("{failed} of the last {calls} failed: {why}")
        }
        (Condition::Unwell, None) => "is failing and is not asked for the moment".to_owned(),
        (Condition::Well, None) if *calls == 0 => return "[ ]upstream not asked yet (does not count)\n".to_owned(),
        (Condition::Well, None) => return "[+]upstream ok\n".to_owned(),
    };
    format!("[-]upstream {said} (does not count)\n")
}

/// Once ready for the first time, for ever.
pub(crate) async fn startupz(State(readiness): State<Readiness>, uri: Uri) -> Response {
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
