//! What has failed lately, newest first.

use maud::{Markup, html};

use super::numbers::{self, count, counted, span, time_of_day};
use crate::telemetry::{Failure, Severity, What};

pub(super) fn failures(failures: &[Failure], log_lines_dropped: u64, now: &str) -> Markup {
    html! {
        section.failures aria-labelledby="failures" {
            h2 #failures { "Recent failures" }
            @if failures.is_empty() {
                p.none { "None since the start." }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { "Last, UTC" }
                            th.number scope="col" { "Times" }
                            th scope="col" { "What failed" }
                        }
                    }
                    tbody {
                        @for failure in failures.iter().filter(|failure| !is_told_by_a_mint(failure, failures)) {
                            (one_failure(failure, failures, now))
                        }
                    }
                }
            }
            @if log_lines_dropped > 0 {
                p.note { (counted(log_lines_dropped, "log line was", "log lines were")) " dropped: nobody read them in time." }
            }
        }
    }
}

/// A mint that failed is noted, and so is each request that got no link because of it: to people this is one failure.
fn is_told_by_a_mint(failure: &Failure, failures: &[Failure]) -> bool {
    failures.iter().any(|mint| belongs(failure, mint))
}

/// When a refresh fails, no request fails with it.
fn belongs(request: &Failure, mint: &Failure) -> bool {
    matches!((&request.what, &mint.what), (What::Request { .. }, What::Mint { is_awaited: true, .. }))
        && request.error.is_some()
        && request.error == mint.error
}

fn one_failure(failure: &Failure, failures: &[Failure], now: &str) -> Markup {
    let Failure { severity, what, error, count: times, first_at, last_at, source_host } = failure;
    let request = failures.iter().find(|request| belongs(request, failure));
    let (level, word) = match severity {
        Severity::Error => ("error", "Error"),
        Severity::Warn => ("warn", "Warning"),
    };
    let (message, reason) = match what {
        What::Mint { reason, .. } => ("Mint failed".to_owned(), Some(*reason)),
        What::Request { .. } => ("Request without a link".to_owned(), None),
        What::Line { message, reason } => (numbers::capitalised(message), reason.as_deref()),
    };
    let problem = match (what, request.map(|request| &request.what)) {
        (What::Request { problem }, _) | (_, Some(What::Request { problem })) => Some(problem.as_str()),
        _ => None,
    };
    let lasted = numbers::between(first_at, last_at);
    html! {
        tr {
            td.when {
                time datetime=(last_at) { (time_of_day(last_at, now)) } " "
                @if let Some(lasted) = lasted { span.note { "for " (span(lasted.as_secs())) } }
            }
            td.number { (count(*times)) }
            td {
                span class={ "level " (level) } { (word) } " "
                span.message {
                    (message)
                    @if let Some(reason) = reason { " (" (reason) ")" }
                }
                @if let Some(problem) = problem { " " code { (problem) } }
                @if let Some(error) = error { p { (error) } }
                p.note {
                    @if let Some(request) = request { span { (counted(request.count, "request", "requests")) " without a link" } " " }
                    @if let Some(host) = source_host { span { "last for " (host) } }
                }
            }
        }
    }
}
