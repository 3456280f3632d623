//! What stands below the lines: kie.ai, the key, the cache, what became of requests and mints, the settings.

use maud::{Markup, html};

use super::{
    super::{
        Snapshot,
        headline::Level,
        numbers::{NOTHING, amount, bytes, count, counted, percent, span, tenths},
    },
    sign,
};
use crate::{
    links::{self, Found, MintResult, Rule},
    upstream::{BreakerState, Condition, KeyState, Reason},
    web::outcome::{NoLink, Outcome},
};

pub(super) fn kie(snapshot: &Snapshot<'_>) -> Markup {
    let kie = &snapshot.kie;
    let level = match (kie.condition, kie.calls.calls, kie.calls.look_well(kie.condition)) {
        (Condition::Well, 0, _) => Level::Idle,
        (Condition::Well, _, true) if kie.calls.failed == 0 => Level::Ok,
        (Condition::Well, _, true) | (Condition::Limiting, _, _) => Level::Warning,
        (_, _, _) => Level::Problem,
    };
    let said = match (level, kie.calls.calls) {
        (Level::Ok, 1) => "the last call worked".to_owned(),
        (Level::Ok, calls) => format!("the last {calls} calls worked"),
        (_, _) => kie.calls.said(kie.condition),
    };
    let breaker = match kie.breaker {
        BreakerState::Closed => "closed, requests pass",
        BreakerState::Open => "open, nothing is asked",
        BreakerState::HalfOpen => "half-open, one request finds out",
    };
    html! {
        section aria-labelledby="kie" {
            h2 #kie { "kie.ai" }
            dl {
                dt { "Last seen" }
                dd {
                    span class={ "state " (level.as_str()) } { (sign(level)) (said) }
                    @if kie.calls.calls > 0 { span.note { (span(kie.calls.age.as_secs())) " ago" } }
                }
                dt { "Credits left" }
                dd {
                    @match &snapshot.credits {
                        Some(credits) => {
                            span.state.problem[credits.left <= 0.0] { @if credits.left <= 0.0 { (sign(Level::Problem)) } (amount(credits.left)) }
                            span.note { "seen " (span(credits.age_seconds)) " ago" }
                        }
                        None => "not known",
                    }
                }
                dt { "Breaker" } dd { (breaker) }
                dt { "Quota left" }
                dd {
                    (tenths(kie.budget_tokens)) " of " (tenths(kie.budget_most_tokens)) " at once"
                    span.note { (tenths(kie.budget_tokens_per_second)) " a second are added" }
                }
                dt { "Mints under way" } dd { (snapshot.mints.in_flight) }
                @if kie.renews_links {
                    dt { "Links" }
                    dd { "given again after their end: one that is given again counts as a new one" }
                }
            }
        }
    }
}

pub(super) fn key(snapshot: &Snapshot<'_>) -> Markup {
    let key = &snapshot.key;
    let reloads: Vec<_> = key.reloads.iter().filter(|(_, times)| **times > 0).collect();
    html! {
        section aria-labelledby="key" {
            h2 #key { "API key" }
            dl {
                dt { "Fingerprint" }
                dd {
                    code { (key.fingerprint) }
                }
                dt { "At kie.ai" }
                dd {
                    @match snapshot.key_state {
                        KeyState::NotTried => span.state { (sign(Level::Idle)) "not tried yet" },
                        KeyState::Taken => span.state.ok { (sign(Level::Ok)) "taken" },
                        KeyState::Refused => span.state.problem { (sign(Level::Problem)) "refused" },
                    }
                }
                dt { "From" } dd { (key.source) }
                dt { "In use for" } dd { (span(key.age_seconds)) }
                dt { "On trial" }
                dd {
                    @match &key.on_trial {
                        Some(fingerprint) => span.state.warning { (sign(Level::Warning)) code { (fingerprint) } },
                        None => "none",
                    }
                }
                dt { "Read again" }
                dd {
                    @if reloads.is_empty() { "never" }
                    @for (place, (result, times)) in reloads.iter().enumerate() {
                        @if place > 0 { ", " } (result) " " (count(**times))
                    }
                }
            }
        }
    }
}

pub(super) fn cache(snapshot: &Snapshot<'_>) -> Markup {
    let links = &snapshot.links;
    html! {
        section aria-labelledby="cache" {
            h2 #cache { "Cache" }
            dl {
                dt { "Links in memory" } dd { (count(links.entries)) }
                dt { "Memory" } dd {
                    (bytes(links.bytes)) " of " (bytes(links.max_bytes))
                }
                dt { "Margin" } dd { (span(links.margin_seconds)) }
                dt { "Shared tier" } dd { (tier(snapshot)) }
            }
        }
    }
}

/// In a few words; `/status.json` has more.
fn tier(snapshot: &Snapshot<'_>) -> String {
    let Some(fleet) = &snapshot.shared else { return "off".to_owned() };
    let state = fleet.tier.state.as_str();
    let replicas = if fleet.replicas == 1 { "replica" } else { "replicas" };
    let fault = fleet.tier.last_fault.as_ref().filter(|_| state != "up").map(|fault| format!(": {fault}"));
    let warning = fleet.warning.map(|warning| format!("; {warning}"));
    format!("{state}, {} {replicas}{}{}", fleet.replicas, fault.unwrap_or_default(), warning.unwrap_or_default())
}

fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Found(Found::Hit) => "from memory",
        Outcome::Found(Found::HitRefresh) => "from memory, renewed meanwhile",
        Outcome::Found(Found::Shared) => "from the shared tier",
        Outcome::Found(Found::Miss) => "minted for this request",
        Outcome::Found(Found::Joined) => "waited for a mint under way",
        Outcome::NoLink(NoLink::Negative) => "a refusal that is remembered",
        Outcome::NoLink(NoLink::Refused) => "answered without kie.ai",
        Outcome::NoLink(NoLink::Error) => "kie.ai gave no link",
    }
}

pub(super) fn outcomes(snapshot: &Snapshot<'_>) -> Markup {
    let total: u64 = snapshot.outcomes.values().sum();
    html! {
        section aria-labelledby="outcomes" {
            h2 #outcomes { "Links asked for, since the start" }
            table {
                thead {
                    tr {
                        th scope="col" { "Outcome" } th scope="col" { span.unseen { "Meaning" } }
                        th.number scope="col" { "Number" } th.number scope="col" { "Share" }
                    }
                }
                tbody {
                    @for outcome in Outcome::ALL {
                        @let name = outcome.as_str();
                        @let number = snapshot.outcomes.get(name).copied().unwrap_or_default();
                        tr.zero[number == 0] data-outcome=(name) {
                            th scope="row" { (name) } td.note { (meaning(outcome)) }
                            td.number { (count(number)) }
                            td.number { @if total > 0 { (percent(number as f64 / total as f64)) } @else { (NOTHING) } }
                        }
                    }
                }
                tfoot {
                    tr { th scope="row" { "all" } td {} td.number { (count(total)) } td {} }
                    tr {
                        th scope="row" { "no link" } td.note { "of these, though rightly asked for" }
                        td.number { (count(snapshot.no_link)) }
                        td.number { @if total > 0 { (percent(snapshot.no_link as f64 / total as f64)) } @else { (NOTHING) } }
                    }
                }
            }
        }
    }
}

pub(super) fn mints(snapshot: &Snapshot<'_>) -> Markup {
    let mints = &snapshot.mints;
    let mut results: Vec<_> = mints.results.iter().map(|of| of.result).collect();
    // The entries of one result stand together.
    results.dedup();
    let number = |reason: Reason, result: MintResult| {
        let of = mints.results.iter().filter(|of| of.reason == reason && of.result == result);
        of.map(|of| of.count).sum::<u64>()
    };
    html! {
        section aria-labelledby="mints" {
            h2 #mints { "Mints, since the start" }
            @if results.is_empty() {
                p.none { "None yet." }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { "Result" }
                            th.number scope="col" { "for a miss" }
                            th.number scope="col" { "refresh" }
                            th.number scope="col" { "forced" }
                        }
                    }
                    tbody {
                        @for result in results {
                            tr {
                                th scope="row" { (result.as_str()) }
                                @for reason in Reason::ALL {
                                    @let number = number(reason, result);
                                    td.number.zero[number == 0] { (count(number)) }
                                }
                            }
                        }
                    }
                }
            }
            @for links::Withheld { reason, rule, count: number } in &mints.withheld {
                p.note { (counted(*number, "mint", "mints")) " (" (reason.as_str()) ") withheld: " (withheld(*rule)) "." }
            }
            @if mints.retries > 0 {
                p.note { (counted(mints.retries, "request", "requests")) " to kie.ai repeated one that had failed." }
            }
        }
    }
}

/// Why a rule keeps a mint from kie.ai.
fn withheld(rule: Rule) -> &'static str {
    match rule {
        Rule::Budget => "no room in upstream.rate in time",
        Rule::Pause => "kie.ai had said 429",
        Rule::Breaker => "the breaker was open",
        Rule::Account => "kie.ai had refused the account",
    }
}

pub(super) fn settings(snapshot: &Snapshot<'_>) -> Markup {
    let sections = snapshot.settings.iter().fold(Vec::<(&str, Vec<_>)>::new(), |mut sections, (name, value)| {
        let (section, key) = name.split_once('.').unwrap_or(("", name));
        match sections.last_mut() {
            Some((last, settings)) if *last == section => settings.push((*name, key, *value)),
            _ => sections.push((section, vec![(*name, key, *value)])),
        }
        sections
    });
    let changed = snapshot.settings_changed.len() as u64;
    html! {
        details #settings {
            summary #settings-summary {
                h2 { "Configuration" } " "
                span.note {
                    (counted(snapshot.settings.len() as u64, "setting", "settings")) ", "
                    @if changed == 0 { "all as by default" } @else { (count(changed)) " not as by default" }
                }
            }
            @for (section, settings) in sections {
                table {
                    caption { (section) }
                    thead.unseen { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "Default" } } }
                    tbody {
                        @for (name, key, value) in settings {
                            @let default = snapshot.settings_changed.get(name);
                            tr.changed[default.is_some()] {
                                th scope="row" { code { (key) } } td { code { (value) } }
                                td.note {
                                    @match default {
                                        None => {}
                                        Some(Some(default)) => { "by default " code { (default) } },
                                        Some(None) => "not set by default",
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
