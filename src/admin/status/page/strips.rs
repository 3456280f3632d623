//! The figures at the top: each with what it was in the last minute, and how it went in the last quarter of an hour.

use maud::{Markup, html};

use super::{
    super::{Snapshot, history::Lines},
    line::{self, HEIGHT, Scale, WIDTH},
    numbers::{NOTHING, count, latency, or_nothing, percent, rate, span},
};

/// One figure: what it is, what it was in the last minute, and how it went.
struct Strip {
    name: &'static str,
    figure: String,
    note: Markup,
    /// What the picture shows, in words.
    summary: String,
    picture: Markup,
    top: String,
    bottom: String,
}

pub(super) fn strips(snapshot: &Snapshot<'_>) -> Markup {
    let strips = [requests(snapshot), hit_ratio(snapshot), latencies(snapshot), minted(snapshot), life_left(snapshot)];
    let seconds = snapshot.last_minute.seconds;
    html! {
        table.strips {
            thead {
                tr {
                    th scope="col" { span.unseen { "Figure" } }
                    th scope="col" { @if (1..60).contains(&seconds) { "Last " (span(seconds)) } @else { "Last minute" } }
                    th scope="col" { "Last 15 minutes" }
                    th { span.unseen { "Scale" } }
                }
            }
            tbody {
                @for strip in strips {
                    tr {
                        th scope="row" { (strip.name) }
                        td.figure { strong { (strip.figure) } span.note { (strip.note) } }
                        td.picture { (picture(&strip)) }
                        td.scale aria-hidden="true" { div { span { (strip.top) } span { (strip.bottom) } } }
                    }
                }
            }
            tfoot aria-hidden="true" {
                tr {
                    td colspan="2" {}
                    td.axis { div { span { "15 min ago" } span { "10 min" } span { "5 min" } span { "now" } } }
                    td {}
                }
            }
        }
    }
}

fn picture(strip: &Strip) -> Markup {
    let Strip { name, summary, .. } = strip;
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" {
            title { (name) ": " (summary) }
            path.grid d={ "M0 0V" (HEIGHT) "M60 0V" (HEIGHT) "M120 0V" (HEIGHT) "M" (WIDTH) " 0V" (HEIGHT) "M0 " (HEIGHT) "H" (WIDTH) } {}
            (strip.picture)
        }
    }
}

/// A line over a faint area.
fn filled(values: &[Option<f64>], scale: &Scale) -> Markup {
    html! {
        path.area d=(line::area(values, scale)) {}
        path.line d=(line::line(values, scale)) {}
    }
}

/// Failures, drawn in front of what they are a part of; where there are none, nothing is drawn.
fn failing(values: &[Option<f64>], scale: &Scale) -> Markup {
    let marked: Vec<_> = values.iter().map(|value| value.filter(|value| *value > 0.0)).collect();
    html! { path.failing d=(line::area(&marked, scale)) {} }
}

/// From least to most, in words.
fn extent(values: &[Option<f64>], show: impl Fn(f64) -> String) -> String {
    let values = || values.iter().flatten().copied();
    match (values().min_by(f64::total_cmp), values().max_by(f64::total_cmp)) {
        (Some(least), Some(most)) => format!("from {} to {} in the last 15 minutes", show(least), show(most)),
        _ => "nothing in the last 15 minutes".to_owned(),
    }
}

fn all<T: Copy>(values: &[T]) -> Vec<Option<f64>>
where
    f64: From<T>,
{
    values.iter().map(|value| Some(f64::from(*value))).collect()
}

fn a_second(per_second: f64) -> String {
    format!("{}\u{a0}/s", rate(per_second))
}

fn requests(snapshot: &Snapshot<'_>) -> Strip {
    let Lines { asked_per_second, errors_per_second, .. } = &snapshot.history;
    let minute = &snapshot.last_minute;
    let (asked, errors) = (all(asked_per_second), all(errors_per_second));
    let scale = Scale::from_zero(&asked, 1.0);
    Strip {
        name: "Links asked for",
        figure: if minute.seconds == 0 { NOTHING.to_owned() } else { a_second(minute.per_second) },
        note: html! {
            @match minute.error_ratio {
                None => {}
                Some(0.0) => span { "no errors" },
                Some(ratio) => span.bad { "errors " (percent(ratio)) },
            }
            @if let Some(ratio) = minute.turned_away_ratio.filter(|ratio| *ratio > 0.0) {
                " " span.bad { "turned away " (percent(ratio)) }
            }
        },
        summary: format!("{}; errors {}", extent(&asked, a_second), extent(&errors, a_second)),
        picture: html! { (filled(&asked, &scale)) (failing(&errors, &scale)) },
        top: a_second_short(scale.high),
        bottom: "0".to_owned(),
    }
}

/// A scale's end is a round number.
fn a_second_short(per_second: f64) -> String {
    format!("{per_second}\u{a0}/s")
}

fn hit_ratio(snapshot: &Snapshot<'_>) -> Strip {
    let ratios = &snapshot.history.hit_ratio;
    Strip {
        name: "Hits",
        figure: or_nothing(snapshot.last_minute.hit_ratio, percent),
        note: html! { "answered out of memory" },
        summary: extent(ratios, percent),
        picture: html! { path.line d=(line::line(ratios, &Scale::linear(1.0))) {} },
        top: percent(1.0),
        bottom: percent(0.0),
    }
}

fn latencies(snapshot: &Snapshot<'_>) -> Strip {
    let p99 = &snapshot.history.latency_p99_ms;
    let scale = Scale::decades(p99, (0.1, 1_000.0));
    let minute = snapshot.last_minute.latency_ms;
    Strip {
        name: "Latency, p99",
        figure: or_nothing(minute, |minute| latency(minute.p99)),
        note: match minute {
            None => html! {},
            Some(minute) => html! {
                span { "p50\u{a0}" (latency(minute.p50)) } " "
                span { "p90\u{a0}" (latency(minute.p90)) } " "
                span { "max\u{a0}" (latency(minute.max)) }
            },
        },
        summary: extent(p99, latency),
        picture: html! {
            path.grid d=(decades_between(&scale)) {}
            path.line d=(line::line(p99, &scale)) {}
        },
        top: decade(scale.high),
        bottom: decade(scale.low),
    }
}

fn decades_between(scale: &Scale) -> String {
    let exponents = scale.low.log10().round() as i32 + 1..scale.high.log10().round() as i32;
    exponents.map(|exponent| format!("M0 {}H{WIDTH}", scale.y(10f64.powi(exponent)))).collect()
}

/// A power of ten, of milliseconds.
fn decade(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 999.0 => format!("{}\u{a0}ms", (short * 1e6).round() / 1e6),
        long => format!("{}\u{a0}s", (long / 1_000.0).round()),
    }
}

fn minted(snapshot: &Snapshot<'_>) -> Strip {
    let Lines { mints_per_second, mints_failed_per_second, .. } = &snapshot.history;
    let (mints, failed) = (all(mints_per_second), all(mints_failed_per_second));
    let minute = &snapshot.last_minute;
    let (seconds, ended) = (minute.seconds, minute.minted + minute.mints_failed);
    let scale = Scale::from_zero(&mints, 1.0);
    Strip {
        name: "Mints",
        figure: if seconds == 0 { NOTHING.to_owned() } else { a_second(ended as f64 / seconds as f64) },
        note: html! {
            @if ended > 0 {
                (count(minute.minted)) " made"
                @if minute.mints_failed > 0 { ", " span.bad { (count(minute.mints_failed)) " failed" } }
            }
        },
        summary: format!("{}; failed {}", extent(&mints, a_second), extent(&failed, a_second)),
        picture: html! { (filled(&mints, &scale)) (failing(&failed, &scale)) },
        top: a_second_short(scale.high),
        bottom: "0".to_owned(),
    }
}

fn life_left(snapshot: &Snapshot<'_>) -> Strip {
    let lives: Vec<_> =
        snapshot.history.least_life_left_seconds.iter().map(|life| life.map(|life| life as f64)).collect();
    let margin = snapshot.links.margin_seconds;
    let longest = lives.iter().flatten().fold(2.0 * margin as f64, |longest, life| longest.max(*life));
    // Whole minutes where they are minutes.
    let high = if longest > 60.0 { (longest / 60.0).ceil() * 60.0 } else { longest.max(1.0) };
    let scale = Scale::linear(high);
    Strip {
        name: "Least life left",
        figure: or_nothing(snapshot.last_minute.least_life_left_seconds, span),
        note: html! { span.margin { "margin " (span(margin)) } },
        summary: format!(
            "of what was handed out, {}; the margin is {}",
            extent(&lives, |life| span(life as u64)),
            span(margin)
        ),
        picture: html! {
            path.margin d={ "M0 " (scale.y(margin as f64)) "H" (WIDTH) } {}
            path.line d=(line::line(&lives, &scale)) {}
        },
        top: span(high as u64),
        bottom: "0".to_owned(),
    }
}
