//! Draws the status: one page without any outside resource, complete without JavaScript, refreshed by a few lines of
//! it.
//!
//! Everything goes through maud, which escapes every text; only the style and the script, which are ours, do not.

mod failures;
mod line;
mod replicas;
mod sections;
mod strips;

use std::sync::LazyLock;

use axum::http::HeaderValue;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::{
    failures::failures,
    replicas::replicas,
    sections::{cache, key, kie, mints, outcomes, settings},
    strips::strips,
};
use super::{
    Headline, Snapshot,
    headline::Level,
    numbers::{self, span, time_of_day},
};
use crate::web::policy;

pub(super) const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("refresh.js");

/// A reader without JavaScript sees the page anew after so many seconds.
const PLAIN_REFRESH_SECONDS: u32 = 10;

pub(super) static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| policy::for_page(STYLE, Some(SCRIPT)));

pub(super) fn render(snapshot: &Snapshot<'_>) -> String {
    let Snapshot { headline, at, .. } = snapshot;
    let page = html! {
        (DOCTYPE)
        html lang="en" data-level=(headline.level.as_str()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title(headline)) }
                link rel="icon" href=(icon(headline.level));
                noscript { meta http-equiv="refresh" content=(PLAIN_REFRESH_SECONDS); }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    // Stays when the page is refreshed, so that a screen reader notices what changes in it.
                    div #headline aria-live="polite" { (announcement(Some(headline.level), &headline.text, headline.advice)) }
                    p #about { (about(snapshot)) }
                }
                main {
                    (strips(snapshot))
                    (failures(&snapshot.failures, snapshot.log_lines_dropped, at))
                    div.columns {
                        (kie(snapshot))
                        (key(snapshot))
                        (cache(snapshot))
                    }
                    div.columns.wide {
                        (outcomes(snapshot))
                        (mints(snapshot))
                    }
                    (replicas(snapshot.shared.as_ref()))
                    (settings(snapshot))
                }
                footer {
                    nav aria-label="More" {
                        a href="runbook" { "Alert runbook" } " "
                        a href="docs" { "The interface for callers" } " "
                        a href="status.json" { "status.json" } " "
                        a href="metrics" { "metrics" } " "
                        a href="readyz?verbose" { "readyz?verbose" }
                    }
                }
                // What the script says when kielink does not answer.
                template #lost {
                    (announcement(None, "Not reachable", Some("What is shown below is what it said last.")))
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

fn title(headline: &Headline) -> String {
    match headline.text.starts_with("kielink") {
        true => headline.text.clone(),
        false => format!("kielink: {}", numbers::uncapitalised(&headline.text)),
    }
}

/// `None` where kielink does not answer: then the page's script says so.
fn announcement(level: Option<Level>, text: &str, advice: Option<&str>) -> Markup {
    html! {
        span.sign { (sign(level)) }
        h1 { span.word { (word(level)) } " " (text) }
        @if let Some(advice) = advice { p.advice { (advice) } }
    }
}

fn about(snapshot: &Snapshot<'_>) -> Markup {
    let Snapshot { at, host, version, revision, uptime_seconds, .. } = snapshot;
    html! {
        span.as-of { "as of " time datetime=(at) { (time_of_day(at, at)) " UTC" } span.held { ", held while text is selected" } }
        span { "kielink " (version) @if *revision != "unknown" { " (" (short(revision)) ")" } " on " b { (host) } ", up " (span(*uptime_seconds)) }
    }
}

/// The first 12 characters: enough to tell a commit by. `/status.json` has all of it.
fn short(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

/// What a level is called, since colours alone tell some people nothing.
fn word(level: Option<Level>) -> &'static str {
    match level {
        Some(Level::Ok) => "OK",
        Some(Level::Idle) => "Idle",
        Some(Level::Warning) => "Warning",
        Some(Level::Problem) => "Problem",
        None => "Lost",
    }
}

/// The stroke of a level's sign, in 24 by 24.
fn stroke(level: Option<Level>) -> &'static str {
    match level {
        Some(Level::Ok) => "M7 12.5l3.5 3.5L17 8.5",
        Some(Level::Idle) => "M7.5 12h9",
        Some(Level::Warning) => "M12 6.5v7M12 17.4v.1",
        Some(Level::Problem) => "M8 8l8 8M16 8l-8 8",
        None => "M9.2 9.3a2.8 2.8 0 1 1 4.3 2.4c-1 .6-1.5 1.1-1.5 2.2M12 17.4v.1",
    }
}

fn sign(level: impl Into<Option<Level>>) -> Markup {
    html! {
        svg viewBox="0 0 24 24" aria-hidden="true" {
            circle cx="12" cy="12" r="12" {}
            path d=(stroke(level.into())) {}
        }
    }
}

/// The sign again, for the browser's tab. The icon has no style, so its colour is one that suits light and dark tabs.
fn icon(level: Level) -> String {
    let colour = match level {
        Level::Ok => "2da44e",
        Level::Idle => "6e7781",
        Level::Warning => "bf8700",
        Level::Problem => "cf222e",
    };
    let stroke = stroke(Some(level));
    format!(
        "data:image/svg+xml,%3Csvg xmlns='http:%2F%2Fwww.w3.org/2000/svg' viewBox='0 0 24 24'%3E%3Ccircle cx='12' cy='12' r='12' \
         fill='%23{colour}'/%3E%3Cpath d='{stroke}' fill='none' stroke='%23fff' stroke-width='2.6' stroke-linecap='round'/%3E%3C/svg%3E"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{
            Cached, Mints, Upstream,
            history::{Latency, Lines, Minute},
        },
        *,
    };
    use crate::{
        credits, fleet, key,
        kind::Kind,
        links::{self, MintResult, Rule},
        shared,
        telemetry::{Config, Failed, Failure, Format, NOTED, Severity, Telemetry, What},
        upstream::{BreakerState, Calls, Condition, KeyState, Reason},
    };

    const MARKUP: &str = "</p><script>alert(\"it's out\")</script>";

    fn snapshot(values: usize) -> Snapshot<'static> {
        let some = values > 0;
        let failure = Failure {
            severity: Severity::Warn,
            what: What::Line { message: MARKUP.to_owned(), reason: Some(MARKUP.to_owned()) },
            error: Some(format!("kie.ai failed: code 500: {MARKUP}")),
            count: 1234,
            first_at: "2026-11-22T23:58:01Z".to_owned(),
            last_at: "2026-11-23T00:01:04Z".to_owned(),
            source_host: Some("\"onload='x'".to_owned()),
        };
        Snapshot {
            at: "2026-11-23T00:02:00Z".to_owned(),
            host: "web-1",
            headline: Headline { level: Level::Ok, text: "Links are flowing".to_owned(), advice: None },
            version: "0.1.0",
            revision: "0123456789abcdef0123456789abcdef01234567",
            uptime_seconds: 723,
            ready: true,
            draining: false,
            outcomes: BTreeMap::from([("hit", 2_000 * u64::from(some))]),
            no_link: 500 * u64::from(some),
            last_minute: Minute {
                seconds: values.min(12) as u64 * 5,
                per_second: 2.0,
                hit_ratio: some.then_some(0.983),
                no_link_ratio: some.then_some(0.267),
                latency_ms: some.then_some(Latency { p50: 0.1, p90: 0.2, p99: 0.48, max: 1_600.0 }),
                least_life_left_seconds: some.then_some(723),
                minted: 3,
                mints_failed: 1,
                mints_withheld: 0,
                withheld_for_a_while: 0,
            },
            links: Cached { entries: 3, bytes: 3_072, max_bytes: 64 << 20, margin_seconds: 60 },
            mints: Mints {
                in_flight: 1,
                results: vec![
                    links::Count {
                        reason: Reason::Refresh,
                        result: MintResult::Failed(Kind::UpstreamError),
                        count: 7
                    };
                    usize::from(some)
                ],
                withheld: vec![
                    links::Withheld { reason: Reason::Miss, rule: Rule::Budget, count: 5 };
                    usize::from(some)
                ],
                retries: 2,
            },
            kie: Upstream {
                condition: Condition::Well,
                calls: Calls { calls: 6 * usize::from(some), last_was_good: some, ..Calls::default() },
                renews_links: false,
                breaker: BreakerState::Closed,
                budget_tokens: 3.5,
                budget_most_tokens: 19.0,
                budget_tokens_per_second: 9.7,
            },
            credits: some.then_some(credits::Description { left: 5916.25, age_seconds: 75 }),
            key: key::Description {
                fingerprint: "c93ab9081bea".to_owned(),
                source: "file",
                age_seconds: 60,
                on_trial: some.then(|| "0123456789ab".to_owned()),
                reloads: BTreeMap::from([("taken", u64::from(some))]),
            },
            key_state: if some { KeyState::Taken } else { KeyState::NotTried },
            shared: None,
            failures: vec![failure; usize::from(some)],
            log_lines_dropped: u64::from(some),
            history: Lines {
                step_seconds: 5,
                asked_per_second: vec![2.0; values],
                hit_ratio: vec![Some(0.983); values],
                no_link_per_second: vec![0.1; values],
                mints_per_second: vec![0.2; values],
                mints_failed_per_second: vec![0.0; values],
                latency_p99_ms: vec![Some(0.48); values],
                least_life_left_seconds: vec![Some(723); values],
            },
            settings: BTreeMap::from([("sources.allow", MARKUP), ("upstream.base_url", "\"https://api.kie.ai/\"")]),
            settings_changed: BTreeMap::from([("sources.allow", Some("[]"))]),
        }
    }

    /// What stands between `<` and `>`.
    fn tags(page: &str) -> impl Iterator<Item = &str> {
        page.split('<').filter_map(|part| part.split('>').next())
    }

    fn between<'a>(page: &'a str, from: &str, to: &str) -> &'a str {
        page.split_once(from).and_then(|(_, rest)| rest.split_once(to)).expect(from).0
    }

    #[test]
    fn the_commit_is_told_by_so_many_digits_as_people_read() {
        let page = render(&snapshot(3));
        assert!(page.contains("(0123456789ab)") && !page.contains("0123456789abc"), "{page}");
        assert_eq!(short("unknown"), "unknown");
    }

    #[test]
    fn whatever_comes_from_outside_is_text() {
        let page = render(&snapshot(3));
        assert_eq!(page.matches("<script").count(), 1, "our own");
        assert_eq!(page.matches("&lt;script&gt;alert(&quot;it's out&quot;)").count(), 4, "failure and setting");
        assert!(tags(&page).all(|tag| !tag.contains("onload")), "{page}");
        assert!(page.contains("&quot;onload='x'"));
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        let page = render(&snapshot(180));
        let own = ["status.json", "metrics", "readyz?verbose", "runbook", "docs"];
        for tag in tags(&page) {
            for attribute in ["href=", "src=", "srcset=", "action=", "style="] {
                let Some((_, value)) = tag.split_once(attribute) else { continue };
                let value = value.trim_start_matches('"').split('"').next().unwrap_or_default();
                assert!(own.contains(&value) || value.starts_with("data:image/svg+xml,"), "{tag}");
            }
            assert!(!tag.contains("//"), "{tag}");
        }
        for text in [STYLE, SCRIPT] {
            for loading in ["://", "url(", "@import", "</", "<!--"] {
                assert!(!text.contains(loading), "{loading}");
            }
        }
    }

    #[test]
    fn the_policy_admits_what_is_in_the_page_and_nothing_else() {
        let page = render(&snapshot(3));
        let (style, script) = (between(&page, "<style>", "</style>"), between(&page, "<script>", "</script>"));
        assert_eq!(*POLICY, policy::for_page(style, Some(script)));
    }

    #[test]
    fn a_page_without_figures_has_dashes_and_no_lines() {
        let page = render(&snapshot(0));
        assert!(page.contains("<strong>–</strong>") && page.contains("None since the start."));
        assert!(page.contains("not asked yet") && page.contains("not tried yet") && page.contains("not known"));
        assert!(page.contains("<path class=\"line\" d=\"\">"));
        for values in [0, 1, 180] {
            let page = render(&snapshot(values));
            let main = between(&page, "<main>", "</main>");
            assert!(!main.contains("NaN") && !main.contains("inf ") && !main.contains("-0"), "{main}");
        }
    }

    #[test]
    fn it_says_what_it_knows() {
        let page = render(&snapshot(3)).replace('\u{a0}', " ");
        for text in [
            "<title>kielink: links are flowing</title>",
            "<span class=\"word\">OK</span> Links are flowing",
            "as of <time datetime=\"2026-11-23T00:02:00Z\">00:02:00 UTC</time>",
            "<strong>98.3 %</strong>",
            "<span class=\"bad\">26.7 % of callers got no link",
            "</svg>the last 6 calls worked",
            "5,916.25</span><span class=\"note\">seen 1 min 15 s ago",
            "kielink 0.1.0 (0123456789ab) on <b>web-1</b>, up 12 min 3 s",
            "Last 1 min<",
            "data-values=\"98.3 %|98.3 %|98.3 %\"",
            "by default <code>[]</code>",
            "2 settings, 1 not as by default",
            "<strong>0.48 ms</strong>",
            "<strong>12 min 3 s</strong>",
            "Last 15 s",
            "3.5 of 19 at once",
            "3.0 KiB of 64.0 MiB",
            "1,234",
            "00:01:04</time> <span class=\"note\">for 3 min 3 s</span>",
            "<td><code>&quot;https://api.kie.ai/&quot;</code></td>",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
    }

    #[test]
    fn each_replica_is_shown_as_it_says_of_itself() {
        let member = |id: &str, rate| fleet::Member {
            id: id.to_owned(),
            version: MARKUP.to_owned(),
            age_seconds: 723,
            mints: 1234,
            rate,
        };
        let fleet = fleet::Description {
            tier: shared::Description {
                address: "redis".to_owned(),
                state: shared::State::Up,
                last_fault: None,
                calls_under_way: 0,
            },
            id: "0a".to_owned(),
            replicas: 2,
            members: vec![member("0a", 10), member("0b", 20)],
            warning: Some("replicas disagree about upstream.rate"),
        };
        let page = render(&Snapshot { shared: Some(fleet.clone()), ..snapshot(1) }).replace('\u{a0}', " ");
        let table = between(&page, "<h2 id=\"replicas\">", "</section>");
        for text in [
            "<code>0a</code> <span class=\"note\">this one</span>",
            "<code>0b</code></th>",
            "&lt;script&gt;",
            "<td class=\"number\">12 min 3 s</td><td class=\"number\">1,234</td><td class=\"number\">20</td>",
            "replicas disagree about upstream.rate",
        ] {
            assert!(table.contains(text), "{text}: {table}");
        }
        let alone = Snapshot { shared: Some(fleet::Description { members: vec![], ..fleet }), ..snapshot(1) };
        assert!(!render(&alone).contains("id=\"replicas\""), "nobody was heard of");
    }

    #[test]
    fn a_mint_that_failed_and_its_requests_are_one_failure() {
        let mut snapshot = snapshot(1);
        let mint = |reason, is_awaited| What::Mint { reason, is_awaited };
        let request = What::Request { problem: Kind::UpstreamError };
        let failure = |what: &What, error: &str, count| Failure {
            what: what.clone(),
            error: Some(error.to_owned()),
            count,
            ..snapshot.failures[0].clone()
        };
        snapshot.failures = vec![
            failure(&request, "code 500", 30),
            failure(&mint("miss", true), "code 500", 10),
            failure(&mint("refresh", false), "code 501", 20),
            failure(&request, "code 501", 40),
        ];
        let page = render(&snapshot).replace('\u{a0}', " ");
        let table = between(&page, "<section class=\"failures\"", "</section>");
        assert_eq!(table.matches("<tr><td").count(), 3, "{table}");
        assert_eq!(table.matches("upstream-error").count(), 2, "{table}");
        assert!(table.contains("Mint failed (miss)") && table.contains("30 requests without a link"), "{table}");
        assert_eq!(table.matches("Request without a link").count(), 1, "no mint for a request tells of it: {table}");
    }

    #[test]
    fn reworded_the_page_still_joins() {
        let telemetry = Telemetry::default();
        let log = Config { format: Format::Json, level: "info".parse().unwrap(), priorities: false };
        let fail = |what, error: &str| {
            telemetry.failures.note(Failed {
                severity: Severity::Warn,
                what,
                error: Some(error.to_owned()),
                source_host: None,
            });
        };
        tracing::dispatcher::with_default(&log.dispatch(std::io::sink, &telemetry), || {
            tracing::warn!(target: NOTED, why = "code 500", "kie.ai made no link");
            fail(What::Mint { reason: "miss", is_awaited: true }, "code 500");
            tracing::warn!(target: NOTED, because_of = "code 500", "somebody got none");
            fail(What::Request { problem: Kind::UpstreamError }, "code 500");
            // The words of the failure above, now in a line of something else.
            tracing::warn!(error = "code 500", "request");
        });
        let snapshot = Snapshot { failures: telemetry.failures.recent(9), ..snapshot(1) };
        let page = render(&snapshot).replace('\u{a0}', " ");
        let table = between(&page, "<section class=\"failures\"", "</section>");
        assert_eq!(table.matches("<tr><td").count(), 2, "the mint, and the other line: {table}");
        assert!(table.contains("Mint failed (miss)</span> <code>upstream-error</code>"), "{table}");
        assert!(table.contains("1 request without a link"), "{table}");
    }

    #[test]
    fn a_title_says_kielink_once() {
        for (text, shown) in [
            ("Links are flowing", "kielink: links are flowing"),
            ("kie.ai refuses the API key", "kielink: kie.ai refuses the API key"),
            ("kielink is not ready", "kielink is not ready"),
        ] {
            assert_eq!(title(&Headline { level: Level::Ok, text: text.to_owned(), advice: None }), shown);
        }
    }
}
