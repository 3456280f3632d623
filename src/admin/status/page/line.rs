//! Lines over the last minutes, as paths of an SVG. Pure.
//!
//! A step of the history is one unit wide; what is missing leaves a gap. The newest value is at the right edge, and the
//! picture is as wide as there is something to show.

use std::fmt::Write as _;

use super::super::history::STEPS;

/// Widths of a picture, in steps: 1, 3, 6 and 15 minutes, whose thirds are round.
const WIDTHS: [usize; 4] = [12, 36, 72, STEPS];

pub(super) const HEIGHT: f64 = 40.0;

/// A line at the very edge would lose half of its thickness.
const INSET: f64 = 1.0;

/// Where a value lies between bottom and top.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    /// Each decade takes the same room: latencies of hits and of mints differ ten thousandfold.
    pub(super) in_decades: bool,
}

impl Scale {
    pub(super) fn linear(high: f64) -> Scale {
        Scale { low: 0.0, high, in_decades: false }
    }

    /// From zero to the least of 1, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, ... that has room for all, at least `at_least`.
    pub(super) fn from_zero(values: &[Option<f64>], at_least: f64) -> Scale {
        let most = values.iter().flatten().fold(at_least, |most, value| most.max(*value));
        let decade = 10f64.powf(most.log10().floor());
        let high =
            [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0].into_iter().map(|step| step * decade).find(|high| *high >= most);
        Scale::linear(high.unwrap_or(10.0 * decade))
    }

    /// The decades that have room for all values; where there is no value, those of `usual`.
    pub(super) fn decades(values: &[Option<f64>], usual: (f64, f64)) -> Scale {
        let positive = || values.iter().flatten().copied().filter(|value| *value > 0.0);
        let least = positive().min_by(f64::total_cmp).unwrap_or(usual.0).log10().floor();
        let most = positive().max_by(f64::total_cmp).unwrap_or(usual.1).log10().ceil();
        Scale { low: 10f64.powf(least), high: 10f64.powf(most.max(least + 1.0)), in_decades: true }
    }

    /// The distance from the top.
    pub(super) fn y(&self, value: f64) -> f64 {
        let share = if self.in_decades {
            (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        let y = HEIGHT - INSET - share.clamp(0.0, 1.0) * (HEIGHT - 2.0 * INSET);
        (y * 10.0).round() / 10.0
    }
}

/// The least width that has room for so many steps.
pub(super) fn width(steps: usize) -> usize {
    WIDTHS.into_iter().find(|width| *width >= steps).unwrap_or(STEPS)
}

/// The line itself: nothing where there is no value.
pub(super) fn line(values: &[Option<f64>], scale: &Scale, width: usize) -> String {
    let mut path = String::new();
    for (from, run) in runs(values, width) {
        write!(path, "M{} {}", from, scale.y(run[0])).expect("a String takes everything");
        points(&mut path, from, &run, scale);
    }
    path
}

/// What lies between the line and the bottom.
pub(super) fn area(values: &[Option<f64>], scale: &Scale, width: usize) -> String {
    let mut path = String::new();
    for (from, run) in runs(values, width) {
        write!(path, "M{from} {HEIGHT}V{}", scale.y(run[0])).expect("a String takes everything");
        points(&mut path, from, &run, scale);
        write!(path, "V{HEIGHT}Z").expect("a String takes everything");
    }
    path
}

/// From the left edge of the first step over the middle of each to the right edge of the last one: a single value is a
/// dash.
fn points(path: &mut String, from: usize, run: &[f64], scale: &Scale) {
    for (step, value) in run.iter().enumerate() {
        write!(path, "L{}.5 {}", from + step, scale.y(*value)).expect("a String takes everything");
    }
    write!(path, "H{}", from + run.len()).expect("a String takes everything");
}

/// Values without a gap between them, each run with the position of its first value.
fn runs(values: &[Option<f64>], width: usize) -> Vec<(usize, Vec<f64>)> {
    let newest = &values[values.len().saturating_sub(width)..];
    let left = width - newest.len();
    let mut runs: Vec<(usize, Vec<f64>)> = Vec::new();
    for (step, value) in newest.iter().enumerate() {
        let Some(value) = value else { continue };
        match runs.last_mut() {
            Some((from, run)) if *from + run.len() == left + step => run.push(*value),
            _ => runs.push((left + step, vec![*value])),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Scale = Scale { low: 0.0, high: 10.0, in_decades: false };

    #[test]
    fn a_line_is_drawn_where_there_are_values() {
        let cases: [(&[Option<f64>], &str); 6] = [
            (&[], ""),
            (&[None, None], ""),
            (&[Some(0.0)], "M179 39L179.5 39H180"),
            (&[Some(10.0), Some(10.0)], "M178 1L178.5 1L179.5 1H180"),
            (&[Some(0.0), None, Some(5.0)], "M177 39L177.5 39H178M179 20L179.5 20H180"),
            (&[None, Some(5.0), None], "M178 20L178.5 20H179"),
        ];
        for (values, path) in cases {
            assert_eq!(line(values, &TEN, STEPS), path, "{values:?}");
        }
    }

    #[test]
    fn a_picture_grows_with_what_there_is_to_show() {
        for (steps, width_of) in [(0, 12), (1, 12), (12, 12), (13, 36), (37, 72), (73, 180), (180, 180), (999, 180)] {
            assert_eq!(width(steps), width_of, "{steps}");
        }
        assert_eq!(line(&[Some(0.0), Some(10.0)], &TEN, 12), "M10 39L10.5 39L11.5 1H12");
    }

    #[test]
    fn an_area_is_closed_at_the_bottom() {
        assert_eq!(area(&[], &TEN, STEPS), "");
        assert_eq!(
            area(&[Some(10.0), None, Some(0.0)], &TEN, STEPS),
            "M177 40V1L177.5 1H178V40ZM179 40V39L179.5 39H180V40Z"
        );
    }

    #[test]
    fn a_whole_quarter_of_an_hour_is_as_wide_as_the_picture() {
        let values: Vec<_> = (0..180).map(|n| Some(f64::from(n % 10))).collect();
        let path = line(&values, &TEN, STEPS);
        assert!(path.starts_with("M0 39L0.5 39L1.5 35.2") && path.ends_with("L179.5 4.8H180"), "{path}");
        assert_eq!(path.matches('L').count(), 180);
        let more: Vec<_> = [Some(9.0); 20].into_iter().chain(values).collect();
        assert_eq!(line(&more, &TEN, STEPS), path, "what is older is not drawn");
    }

    #[test]
    fn a_scale_ends_at_a_round_number() {
        for (most, high) in
            [(None, 1.0), (Some(0.2), 1.0), (Some(1.0), 1.0), (Some(1.1), 1.5), (Some(51.0), 60.0), (Some(81.0), 100.0)]
        {
            assert_eq!(Scale::from_zero(&[most, None, Some(0.0)], 1.0).high, high, "{most:?}");
        }
        for (values, low, high) in [
            (&[None][..], 0.1, 100.0),
            (&[Some(0.0)], 0.1, 100.0),
            (&[Some(0.2)], 0.1, 1.0),
            (&[Some(1.0)], 1.0, 10.0),
            (&[Some(0.05), Some(330.0)], 0.01, 1000.0),
        ] {
            let scale = Scale::decades(values, (0.1, 100.0));
            assert!((scale.low - low).abs() < 1e-9 && (scale.high - high).abs() < 1e-9, "{values:?}: {scale:?}");
        }
    }

    #[test]
    fn values_lie_between_bottom_and_top() {
        let decades = Scale { low: 0.1, high: 1000.0, in_decades: true };
        for (scale, value, y) in [
            (TEN, -1.0, 39.0),
            (TEN, 2.5, 29.5),
            (TEN, 11.0, 1.0),
            (decades, 0.0, 39.0),
            (decades, 10.0, 20.0),
            (decades, 1000.0, 1.0),
        ] {
            assert_eq!(scale.y(value), y, "{value}");
        }
    }
}
