//! The one sentence at the top: what ails, what callers notice of it, and whether it is over. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::{
    history::Minute,
    numbers::{counted, percent_roughly, time_of_day},
};
use crate::{
    clock,
    upstream::{Calls, Condition, KeyState},
};

/// A link with less life than this beyond `cache.margin` is about to die unrefreshed, where refreshes fail. Where they
/// do not fail, it is only seldom asked for.
const LITTLE_LIFE_SECONDS: u64 = 60;

/// What was seen of kie.ai longer ago than this need not hold any more.
const LONG_AGO: Duration = Duration::from_secs(60);

/// A share of requests that nobody would call a hiccup.
const MANY_ERRORS: f64 = 0.05;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Headline {
    pub(super) level: Level,
    pub(super) text: String,
    /// What to do, where something is to be done.
    pub(super) advice: Option<&'static str>,
}

/// How well things go; the page shows the levels of its parts in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    Ok,
    /// Nobody asks.
    Idle,
    Warning,
    Problem,
}

impl Level {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Idle => "idle",
            Level::Warning => "warning",
            Level::Problem => "problem",
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) condition: Condition,
    pub(super) calls: &'a Calls,
    pub(super) key: KeyState,
    pub(super) is_out_of_credits: bool,
    /// The credits left, as last seen.
    pub(super) credits: Option<f64>,
    /// There is a shared tier, and it is not used.
    pub(super) is_tier_away: bool,
    /// Links asked for since the start.
    pub(super) asked: u64,
    pub(super) margin_seconds: u64,
    pub(super) last_minute: &'a Minute,
    pub(super) wall: Timestamp,
}

impl Facts<'_> {
    /// The time of day so long ago: unlike the length, it does not change with every look.
    fn at(&self, ago: Duration) -> String {
        let then = self.wall.checked_sub(ago).unwrap_or(self.wall);
        time_of_day(&clock::rfc3339(then), &clock::rfc3339(self.wall))
    }
}

impl Headline {
    /// Says the worst that is the case: its cause first, then what callers notice of it.
    pub(super) fn of(facts: &Facts<'_>) -> Headline {
        let say = |level, text: String, advice| Headline { level, text, advice };
        if facts.draining {
            let text = "kielink is stopping: it is not ready any more, and serves what it has accepted";
            return say(Level::Warning, text.to_owned(), None);
        }
        if !facts.ready {
            return say(Level::Problem, "kielink is not ready".to_owned(), Some("/readyz lists what is missing."));
        }
        let found = of_the_account(facts).or_else(|| of_kie(facts)).or_else(|| of_ours(facts));
        if let Some((level, cause, effect, advice)) = found {
            return say(level, format!("{cause}. {effect}"), Some(advice));
        }
        let Facts { asked, last_minute: minute, calls, key, .. } = facts;
        let untried = match (calls.calls, key) {
            (0, _) => Some("kie.ai was not asked yet: whether it can be reached and takes the key is not known."),
            (_, KeyState::Taken) => Some("kie.ai can be reached, and takes the key."),
            (_, KeyState::NotTried | KeyState::Refused) => None,
        };
        let (level, text, advice) = match (asked, minute.per_second > 0.0) {
            (1.., _) if minute.seconds == 0 => (Level::Idle, "Ready; the first figures come in a few seconds", None),
            (0, _) => (Level::Idle, "Ready; nobody has asked for a link yet", untried),
            (_, true) => (Level::Ok, "Links are flowing", None),
            (_, false) => (Level::Idle, "Ready; nobody has asked for a link in the last minute", None),
        };
        say(level, text.to_owned(), advice)
    }
}

/// How bad it is, its cause, its effect, and what to do.
type Found = (Level, String, String, &'static str);

/// kie.ai refuses all that the key stands for.
fn of_the_account(facts: &Facts<'_>) -> Option<Found> {
    let effect = effect(facts.last_minute);
    if facts.key == KeyState::Refused {
        let advice = "A good key in the key file is taken within seconds, one in KIE_API_KEY at a restart. \
                      Links in memory are served meanwhile.";
        return Some((Level::Problem, "kie.ai refuses the API key".to_owned(), effect, advice));
    }
    if facts.is_out_of_credits {
        let advice = "Top up the account, or put the key of another one into the key file; nothing needs a restart. \
                      Links in memory are served meanwhile.";
        return Some((Level::Problem, "The kie.ai account has no credits left".to_owned(), effect, advice));
    }
    if facts.condition == Condition::Refusing {
        let why = facts.calls.last_failure.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        let advice = "kielink asks now and then whether it still does. Links in memory are served until their deadline. \
                      The failures below tell what it says.";
        return Some((Level::Problem, format!("kie.ai refuses the account{why}"), effect, advice));
    }
    None
}

/// kie.ai fails, or did a moment ago.
fn of_kie(facts: &Facts<'_>) -> Option<Found> {
    let Facts { condition, calls, last_minute: minute, .. } = facts;
    let Calls { calls: all, failed, last_was_good, age, alike_for, turns, .. } = calls;
    let suffers = many(minute.no_link_ratio);
    let worse = if suffers { Level::Problem } else { Level::Warning };
    if *condition == Condition::Limiting {
        let advice = "Nothing is minted for a while. If it lasts: lower upstream.rate, or run fewer kielinks.";
        return Some((worse, "kie.ai limits the rate".to_owned(), effect(minute), advice));
    }
    let is_failing = *condition == Condition::Unwell || (*failed > 0 && !last_was_good);
    if is_failing {
        let why = calls.last_failure.as_deref().map(|why| format!(", {why}")).unwrap_or_default();
        let counted = match all {
            0 => String::new(),
            1 => format!(": the last call did not work{why}"),
            _ => format!(": {} of {all} calls worked{why}", all - failed),
        };
        if *age >= LONG_AGO && minute.mints_failed == 0 {
            let cause = format!("kie.ai failed when it was asked last, at {}{counted}", facts.at(*age));
            let advice = "It is asked again with the next caller whose link is not in memory.";
            return Some((worse, cause, effect(minute), advice));
        }
        let advice =
            "Links in memory are served until their deadline; kielink tries again by itself. See the failures below.";
        let level = if *condition == Condition::Unwell { Level::Problem } else { worse };
        return Some((level, format!("kie.ai fails{counted}"), effect(minute), advice));
    }
    let suffered = minute.no_link_ratio.is_some_and(|ratio| ratio > 0.0);
    let was_withheld = minute.withheld_for_a_while * 2 > minute.mints_withheld;
    if minute.mints_failed == 0 && !(suffered && was_withheld) {
        return None;
    }
    if *failed > 0 && *turns > 1 {
        let cause = format!("kie.ai fails now and then: {} of {all} calls worked", all - failed);
        return Some((worse, cause, effect(minute), "What failed is tried again. The failures below tell why."));
    }
    let cause = format!("It has been over since {}: kie.ai answers again", facts.at(*alike_for));
    let effect = match minute.no_link_ratio {
        Some(ratio) if ratio > 0.0 => format!("{} of the last minute's callers got no link", percent_roughly(ratio)),
        Some(_) | None => "No caller has noticed".to_owned(),
    };
    Some((Level::Warning, cause, effect, "Nothing needs to be done. The failures below tell what it was."))
}

/// kie.ai is well, as far as was seen.
fn of_ours(facts: &Facts<'_>) -> Option<Found> {
    let minute = facts.last_minute;
    if many(minute.no_link_ratio) {
        let advice = "Raise upstream.rate or limits.in_flight if kie.ai's quota and the memory have room, or find out who \
                      asks for so much. The failures below tell more.";
        let cause = "More is wanted than kielink may ask kie.ai for".to_owned();
        return Some((Level::Problem, cause, effect(minute), advice));
    }
    let little_life = facts.margin_seconds + LITTLE_LIFE_SECONDS;
    if minute.mints_withheld > 0 && minute.least_life_left_seconds.is_some_and(|life| life < little_life) {
        let cause = format!("{} had no room in upstream.rate", counted(minute.mints_withheld, "renewal", "renewals"));
        let advice = "They could not be renewed in time. Raise upstream.rate if kie.ai's quota has room.";
        return Some((Level::Warning, cause, "Links are handed out that are about to end".to_owned(), advice));
    }
    if facts.credits.is_some_and(|left| left <= 0.0) {
        let advice = "Links cost none. What the apps have kie.ai generate does: top up the account.";
        return Some((Level::Warning, "The kie.ai account has no credits left".to_owned(), effect(minute), advice));
    }
    if facts.is_tier_away {
        let advice = "It mints for itself, within its part of upstream.rate, until the tier is back.";
        return Some((Level::Warning, "The shared tier is away".to_owned(), effect(minute), advice));
    }
    None
}

fn many(ratio: Option<f64>) -> bool {
    ratio.is_some_and(|ratio| ratio >= MANY_ERRORS)
}

/// What callers notice.
fn effect(minute: &Minute) -> String {
    match minute.no_link_ratio {
        Some(ratio) if ratio > 0.0 => format!("{} of callers got no link", percent_roughly(ratio)),
        Some(_) => "No caller has noticed".to_owned(),
        None => "Nobody has asked for a link in the last minute".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Minute = Minute {
        seconds: 60,
        per_second: 3.0,
        hit_ratio: Some(0.9),
        no_link_ratio: Some(0.0),
        latency_ms: None,
        least_life_left_seconds: Some(600),
        minted: 5,
        mints_failed: 0,
        mints_withheld: 0,
        withheld_for_a_while: 0,
    };

    fn wall() -> Timestamp {
        "2026-11-23T00:02:00Z".parse().unwrap()
    }

    /// The last one 1 s ago, and alike for 12 s.
    fn calls(calls: usize, failed: usize, last_was_good: bool) -> Calls {
        Calls {
            calls,
            failed,
            last_failure: (failed > 0).then(|| "HTTP 502".to_owned()),
            last_was_good,
            age: Duration::from_secs(1),
            alike_for: Duration::from_secs(12),
            turns: usize::from(failed > 0 && failed < calls),
        }
    }

    fn headline(minute: &Minute, calls: &Calls, change: impl FnOnce(&mut Facts<'_>)) -> (Level, String) {
        let mut facts = Facts {
            ready: true,
            draining: false,
            condition: Condition::Well,
            calls,
            key: KeyState::Taken,
            is_out_of_credits: false,
            credits: Some(100.0),
            is_tier_away: false,
            asked: 100,
            margin_seconds: 60,
            last_minute: minute,
            wall: wall(),
        };
        change(&mut facts);
        let headline = Headline::of(&facts);
        (headline.level, headline.text.replace('\u{a0}', " "))
    }

    #[test]
    fn what_is_well_or_idle_is_said_in_few_words() {
        let good = calls(6, 0, true);
        let quiet = Minute { per_second: 0.0, hit_ratio: None, no_link_ratio: None, ..MINUTE };
        let none_yet = Minute { seconds: 0, ..quiet };
        for (minute, asked, level, text) in [
            (MINUTE, 100, Level::Ok, "Links are flowing"),
            (quiet, 100, Level::Idle, "Ready; nobody has asked for a link in the last minute"),
            (quiet, 0, Level::Idle, "Ready; nobody has asked for a link yet"),
            (none_yet, 1, Level::Idle, "Ready; the first figures come in a few seconds"),
            (none_yet, 0, Level::Idle, "Ready; nobody has asked for a link yet"),
        ] {
            assert_eq!(headline(&minute, &good, |facts| facts.asked = asked), (level, text.to_owned()));
        }
        let fresh = Calls::default();
        let facts = |calls| Facts {
            ready: true,
            draining: false,
            condition: Condition::Well,
            calls,
            key: if calls == &fresh { KeyState::NotTried } else { KeyState::Taken },
            is_out_of_credits: false,
            credits: None,
            is_tier_away: false,
            asked: 0,
            margin_seconds: 60,
            last_minute: &none_yet,
            wall: wall(),
        };
        assert!(Headline::of(&facts(&fresh)).advice.unwrap().contains("not asked yet"));
        assert!(Headline::of(&facts(&good)).advice.unwrap().contains("takes the key"));
    }

    #[test]
    fn the_cause_comes_first_then_what_callers_notice() {
        let hurt = Minute { no_link_ratio: Some(0.451), mints_failed: 6, ..MINUTE };
        let unnoticed = Minute { mints_failed: 6, ..MINUTE };
        let quiet = Minute { no_link_ratio: None, ..MINUTE };
        let unwell = |facts: &mut Facts<'_>| facts.condition = Condition::Unwell;
        let bad = calls(6, 6, false);
        let some = calls(6, 2, false);
        for (minute, calls, change, level, text) in [
            (
                hurt,
                &bad,
                unwell as fn(&mut Facts<'_>),
                Level::Problem,
                "kie.ai fails: 0 of 6 calls worked, HTTP 502. 45 % of callers got no link",
            ),
            (
                unnoticed,
                &bad,
                unwell,
                Level::Problem,
                "kie.ai fails: 0 of 6 calls worked, HTTP 502. No caller has noticed",
            ),
            (
                hurt,
                &some,
                |_| {},
                Level::Problem,
                "kie.ai fails: 4 of 6 calls worked, HTTP 502. 45 % of callers got no link",
            ),
            (
                unnoticed,
                &some,
                |_| {},
                Level::Warning,
                "kie.ai fails: 4 of 6 calls worked, HTTP 502. No caller has noticed",
            ),
            (
                quiet,
                &calls_of_one(),
                |_| {},
                Level::Warning,
                "kie.ai fails: the last call did not work, HTTP 502. Nobody has asked for a link in the last minute",
            ),
            (
                hurt,
                &bad,
                |facts| facts.key = KeyState::Refused,
                Level::Problem,
                "kie.ai refuses the API key. 45 % of callers got no link",
            ),
            (
                quiet,
                &bad,
                |facts| facts.is_out_of_credits = true,
                Level::Problem,
                "The kie.ai account has no credits left. Nobody has asked for a link in the last minute",
            ),
            (
                hurt,
                &bad,
                |facts| facts.condition = Condition::Refusing,
                Level::Problem,
                "kie.ai refuses the account: HTTP 502. 45 % of callers got no link",
            ),
            (
                hurt,
                &bad,
                |facts| facts.condition = Condition::Limiting,
                Level::Problem,
                "kie.ai limits the rate. 45 % of callers got no link",
            ),
            (
                unnoticed,
                &bad,
                |facts| facts.condition = Condition::Limiting,
                Level::Warning,
                "kie.ai limits the rate. No caller has noticed",
            ),
        ] {
            assert_eq!(headline(&minute, calls, change), (level, text.to_owned()));
        }
        let hurt_and = |change: fn(&mut Facts<'_>)| headline(&hurt, &bad, change);
        assert!(hurt_and(|facts| facts.draining = true).1.contains("stopping"));
        assert_eq!(hurt_and(|facts| facts.ready = false), (Level::Problem, "kielink is not ready".to_owned()));
    }

    fn calls_of_one() -> Calls {
        calls(1, 1, false)
    }

    #[test]
    fn it_says_when_it_is_over_and_what_only_was() {
        let was = Minute { no_link_ratio: Some(0.12), mints_failed: 4, ..MINUTE };
        let unnoticed = Minute { no_link_ratio: Some(0.0), ..was };
        let told_at_once = Minute { no_link_ratio: Some(0.12), mints_withheld: 10, withheld_for_a_while: 8, ..MINUTE };
        let flapping = Calls { turns: 3, ..calls(6, 2, true) };
        for (minute, calls, text) in [
            (
                was,
                calls(6, 2, true),
                "It has been over since 00:01:48: kie.ai answers again. 12 % of the last minute's callers got no link",
            ),
            (
                was,
                calls(6, 0, true),
                "It has been over since 00:01:48: kie.ai answers again. 12 % of the last minute's callers got no link",
            ),
            (
                told_at_once,
                calls(6, 0, true),
                "It has been over since 00:01:48: kie.ai answers again. 12 % of the last minute's callers got no link",
            ),
            (
                unnoticed,
                calls(6, 2, true),
                "It has been over since 00:01:48: kie.ai answers again. No caller has noticed",
            ),
            (MINUTE, calls(6, 2, true), "Links are flowing"),
            (was, flapping.clone(), "kie.ai fails now and then: 4 of 6 calls worked. 12 % of callers got no link"),
            (MINUTE, flapping, "Links are flowing"),
        ] {
            assert_eq!(headline(&minute, &calls, |_| {}).1, text);
        }
        let long_ago = Calls { age: Duration::from_secs(750), ..calls(6, 6, false) };
        let text = "kie.ai failed when it was asked last, at 2026-11-22 23:49:30: 0 of 6 calls worked, HTTP 502. No caller has noticed";
        assert_eq!(headline(&MINUTE, &long_ago, |_| {}), (Level::Warning, text.to_owned()));
    }

    #[test]
    fn what_is_our_own_is_said_where_kie_ai_is_well() {
        let good = calls(6, 0, true);
        let crowded = Minute { no_link_ratio: Some(0.9), mints_withheld: 10, ..MINUTE };
        let text = "More is wanted than kielink may ask kie.ai for. 90 % of callers got no link";
        assert_eq!(headline(&crowded, &good, |_| {}), (Level::Problem, text.to_owned()));
        assert_eq!(headline(&Minute { no_link_ratio: Some(0.04), ..MINUTE }, &good, |_| {}).0, Level::Ok);
        for (life, withheld, text) in [
            (119, 1, "1 renewal had no room in upstream.rate. Links are handed out that are about to end"),
            (120, 1, "Links are flowing"),
            (61, 0, "Links are flowing"),
        ] {
            let minute = Minute { least_life_left_seconds: Some(life), mints_withheld: withheld, ..MINUTE };
            assert_eq!(headline(&minute, &good, |_| {}).1, text, "{life}");
        }
        let spent = headline(&MINUTE, &good, |facts| facts.credits = Some(0.0));
        assert_eq!(spent, (Level::Warning, "The kie.ai account has no credits left. No caller has noticed".to_owned()));
        let away = headline(&MINUTE, &good, |facts| facts.is_tier_away = true);
        assert_eq!(away, (Level::Warning, "The shared tier is away. No caller has noticed".to_owned()));
    }
}
