//! The figures at the top: each with what it was in the last minute, and how it went, for up to a quarter of an hour.

use maud::{Markup, html};

use super::{
    super::{
        Snapshot,
        history::Lines,
        numbers::{NOTHING, count, latency, or_nothing, percent, rate, span},
    },
    line::{self, HEIGHT, Scale},
};

/// One figure: what it is, what it was in the last minute, and how it went.
struct Strip {
    name: &'static str,
    figure: String,
    note: Markup,
    /// What the picture shows, in words.
    summary: String,
    picture: Markup,
    /// Each value of the picture, oldest first, for those who point at it; nothing where nothing was measured.
    values: Vec<String>,
    top: String,
    bottom: String,
}

/// How much time the pictures show.
#[derive(Clone, Copy)]
struct Axis {
    /// Steps.
    width: usize,
    step_seconds: u64,
}

impl Axis {
    /// The time from so many thirds of the picture to now.
    fn ago(self, thirds: u64) -> String {
        span(self.width as u64 * self.step_seconds * thirds / 3)
    }
}

pub(super) fn strips(snapshot: &Snapshot<'_>) -> Markup {
    let Lines { step_seconds, asked_per_second, .. } = &snapshot.history;
    let axis = Axis { width: line::width(asked_per_second.len()), step_seconds: *step_seconds };
    let strips = [requests, hit_ratio, latencies, minted, life_left].map(|strip| strip(snapshot, axis));
    let seconds = snapshot.last_minute.seconds;
    html! {
        table.strips {
            thead {
                tr {
                    th scope="col" { span.unseen { "Figure" } }
                    th scope="col" { @if (1..60).contains(&seconds) { "Last " (span(seconds)) } @else { "Last minute" } }
                    th scope="col" { "Last " (axis.ago(3)) span.unseen { ": point at a picture, or go to it and press the arrow keys, for its values" } }
                    th { span.unseen { "Scale" } }
                }
            }
            tbody {
                @for (number, strip) in strips.iter().enumerate() {
                    tr {
                        th scope="row" { (strip.name) }
                        td.figure { strong { (strip.figure) } span.note { (strip.note) } }
                        td.picture { (picture(number, strip, axis)) }
                        td.scale aria-hidden="true" { div { span { (strip.top) } span { (strip.bottom) } } }
                    }
                }
            }
            tfoot aria-hidden="true" {
                tr {
                    td colspan="2" {}
                    td.axis { div { span { (axis.ago(3)) " ago" } span { (axis.ago(2)) } span { (axis.ago(1)) } span { "now" } } }
                    td {}
                }
            }
        }
    }
}

fn picture(number: usize, strip: &Strip, axis: Axis) -> Markup {
    let Strip { name, summary, values, .. } = strip;
    let (width, thirds) = (axis.width, axis.width / 3);
    html! {
        svg id={ "picture" (number) } viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" tabindex="0"
            data-step=(axis.step_seconds) data-values=(values.join("|")) {
            title { (name) ": " (summary) }
            path.grid d={ "M0 0V" (HEIGHT) "M" (thirds) " 0V" (HEIGHT) "M" (2 * thirds) " 0V" (HEIGHT) "M" (width) " 0V" (HEIGHT) "M0 " (HEIGHT) "H" (width) } {}
            (strip.picture)
            path.mark d="" {}
        }
        output {}
    }
}

/// The values as people read them.
fn shown(values: &[Option<f64>], show: impl Fn(f64) -> String) -> Vec<String> {
    values.iter().map(|value| value.map_or_else(String::new, &show)).collect()
}

/// A line over a faint area.
fn filled(values: &[Option<f64>], scale: &Scale, axis: Axis) -> Markup {
    html! {
        path.area d=(line::area(values, scale, axis.width)) {}
        path.line d=(line::line(values, scale, axis.width)) {}
    }
}

/// Failures, drawn in front of what they are a part of; where there are none, nothing is drawn.
fn failing(values: &[Option<f64>], scale: &Scale, axis: Axis) -> Markup {
    let marked: Vec<_> = values.iter().map(|value| value.filter(|value| *value > 0.0)).collect();
    html! { path.failing d=(line::area(&marked, scale, axis.width)) {} }
}

/// From least to most, in words.
fn extent(values: &[Option<f64>], show: impl Fn(f64) -> String) -> String {
    let values = || values.iter().flatten().copied();
    match (values().min_by(f64::total_cmp), values().max_by(f64::total_cmp)) {
        (Some(least), Some(most)) => format!("from {} to {}", show(least), show(most)),
        _ => "nothing yet".to_owned(),
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

fn requests(snapshot: &Snapshot<'_>, axis: Axis) -> Strip {
    let Lines { asked_per_second, no_link_per_second, .. } = &snapshot.history;
    let minute = &snapshot.last_minute;
    let (asked, none) = (all(asked_per_second), all(no_link_per_second));
    let scale = Scale::from_zero(&asked, 1.0);
    Strip {
        name: "Links asked for",
        figure: if minute.seconds == 0 { NOTHING.to_owned() } else { a_second(minute.per_second) },
        note: html! {
            @match minute.no_link_ratio {
                None => {}
                Some(0.0) => span { "all callers got one" },
                Some(ratio) => span.bad { (percent(ratio)) " of callers got no link" },
            }
        },
        summary: format!("{}; without a link {}", extent(&asked, a_second), extent(&none, a_second)),
        picture: html! { (filled(&asked, &scale, axis)) (failing(&none, &scale, axis)) },
        values: both(&asked, &none, "without a link"),
        top: a_second_short(scale.high),
        bottom: "0".to_owned(),
    }
}

/// How often something happened, and how often badly, where it did.
fn both(values: &[Option<f64>], bad: &[Option<f64>], badly: &str) -> Vec<String> {
    let pairs = values.iter().zip(bad);
    let show = |(all, bad): (&Option<f64>, &Option<f64>)| match (all, bad) {
        (Some(all), Some(bad)) if *bad > 0.0 => format!("{}, {} {badly}", a_second(*all), a_second(*bad)),
        (Some(all), _) => a_second(*all),
        (None, _) => String::new(),
    };
    pairs.map(show).collect()
}

/// A scale's end is a round number.
fn a_second_short(per_second: f64) -> String {
    format!("{per_second}\u{a0}/s")
}

fn hit_ratio(snapshot: &Snapshot<'_>, axis: Axis) -> Strip {
    let ratios = &snapshot.history.hit_ratio;
    Strip {
        name: "Hits",
        figure: or_nothing(snapshot.last_minute.hit_ratio, percent),
        note: html! { "answered out of memory" },
        summary: extent(ratios, percent),
        picture: html! { path.line d=(line::line(ratios, &Scale::linear(1.0), axis.width)) {} },
        values: shown(ratios, percent),
        top: percent(1.0),
        bottom: percent(0.0),
    }
}

fn latencies(snapshot: &Snapshot<'_>, axis: Axis) -> Strip {
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
            path.grid d=(decades_between(&scale, axis)) {}
            path.line d=(line::line(p99, &scale, axis.width)) {}
        },
        values: shown(p99, latency),
        top: decade(scale.high),
        bottom: decade(scale.low),
    }
}

fn decades_between(scale: &Scale, axis: Axis) -> String {
    let exponents = scale.low.log10().round() as i32 + 1..scale.high.log10().round() as i32;
    exponents.map(|exponent| format!("M0 {}H{}", scale.y(10f64.powi(exponent)), axis.width)).collect()
}

/// A power of ten, of milliseconds.
fn decade(milliseconds: f64) -> String {
    match milliseconds {
        short if short < 999.0 => format!("{}\u{a0}ms", (short * 1e6).round() / 1e6),
        long => format!("{}\u{a0}s", (long / 1_000.0).round()),
    }
}

fn minted(snapshot: &Snapshot<'_>, axis: Axis) -> Strip {
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
        picture: html! { (filled(&mints, &scale, axis)) (failing(&failed, &scale, axis)) },
        values: both(&mints, &failed, "failed"),
        top: a_second_short(scale.high),
        bottom: "0".to_owned(),
    }
}

fn life_left(snapshot: &Snapshot<'_>, axis: Axis) -> Strip {
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
            path.margin d={ "M0 " (scale.y(margin as f64)) "H" (axis.width) } {}
            path.line d=(line::line(&lives, &scale, axis.width)) {}
        },
        values: shown(&lives, |life| span(life as u64)),
        top: span(high as u64),
        bottom: "0".to_owned(),
    }
}
