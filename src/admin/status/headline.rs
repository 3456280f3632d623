//! The one sentence at the top: are links flowing, and if not, what to look at. Pure.

use serde::Serialize;

use super::history::Minute;
use crate::upstream::Condition;

/// A link with less life than this beyond `cache.margin` is about to die unrefreshed, where refreshes fail. Where they
/// do not fail, it is only seldom asked for.
const LITTLE_LIFE_SECONDS: u64 = 60;

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
    /// Links asked for since the start.
    pub(super) asked: u64,
    pub(super) margin_seconds: u64,
    pub(super) last_minute: &'a Minute,
}

impl Headline {
    /// Says the worst that is the case.
    pub(super) fn of(facts: &Facts<'_>) -> Headline {
        let minute = facts.last_minute;
        let say = |level, text: &str, advice| Headline { level, text: text.to_owned(), advice };
        if facts.draining {
            return say(
                Level::Warning,
                "kielink is stopping: it is not ready any more, and serves what it has accepted",
                None,
            );
        }
        if !facts.ready {
            return say(Level::Problem, "kielink is not ready", Some("/readyz lists what is missing."));
        }
        if minute.key_refused > 0 {
            let advice = "A good key in the key file is taken within seconds, one in KIE_API_KEY at a restart. \
                          Links in memory are served meanwhile.";
            return say(Level::Problem, "kie.ai refuses the API key", Some(advice));
        }
        if facts.condition == Condition::Unwell {
            let advice = "Links in memory are served until their deadline; kielink tries again by itself. See the failures below.";
            return say(Level::Problem, "kie.ai is failing and is not asked for the moment", Some(advice));
        }
        if facts.condition == Condition::Refusing {
            let advice = "kielink asks now and then whether it still does. Links in memory are served until their deadline. \
                          The failures below tell what it says.";
            return say(Level::Problem, "kie.ai refuses the account", Some(advice));
        }
        let many = |ratio: Option<f64>| ratio.is_some_and(|ratio| ratio >= MANY_ERRORS);
        if facts.condition == Condition::Limiting {
            let suffers = many(minute.error_ratio) || many(minute.turned_away_ratio);
            let advice = "Nothing is minted for a while. If it lasts: lower upstream.rate, or run fewer kielinks.";
            return say(if suffers { Level::Problem } else { Level::Warning }, "kie.ai limits the rate", Some(advice));
        }
        if many(minute.error_ratio) {
            let share = minute.error_ratio.unwrap_or_default() * 100.0;
            let text = format!("{share:.0} % of the requests of the last minute got no link");
            return Headline { level: Level::Problem, text, advice: Some("The failures below tell why.") };
        }
        if many(minute.turned_away_ratio) {
            let share = minute.turned_away_ratio.unwrap_or_default() * 100.0;
            let text = format!("{share:.0} % of the requests of the last minute were turned away");
            if minute.withheld_for_a_while * 2 > minute.mints_withheld {
                let advice = "kie.ai was failing, or had limited the rate, and was not asked. It is asked again.";
                return Headline { level: Level::Warning, text, advice: Some(advice) };
            }
            let advice = "More is wanted than upstream.rate or limits.in_flight allow. Raise them if kie.ai's quota and the \
                          memory have room, or find out who asks for so much.";
            return Headline { level: Level::Problem, text, advice: Some(advice) };
        }
        let little_life = facts.margin_seconds + LITTLE_LIFE_SECONDS;
        let unrefreshed = minute.mints_failed + minute.mints_withheld > 0;
        if unrefreshed && minute.least_life_left_seconds.is_some_and(|life| life < little_life) {
            let advice = "They could not be renewed in time. The failures below tell why.";
            return say(Level::Warning, "Links are handed out that are about to end", Some(advice));
        }
        if minute.mints_failed > 0 {
            return say(Level::Warning, "Links flow, but some mints failed", Some("The failures below tell why."));
        }
        match (facts.asked, minute.per_second > 0.0) {
            (1.., _) if minute.seconds == 0 => say(Level::Idle, "Ready; the first figures come in a few seconds", None),
            (0, _) => say(Level::Idle, "Ready; nobody has asked for a link yet", None),
            (_, true) => say(Level::Ok, "Links are flowing", None),
            (_, false) => say(Level::Idle, "Ready; nobody has asked for a link in the last minute", None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Minute = Minute {
        seconds: 60,
        per_second: 3.0,
        hit_ratio: Some(0.9),
        error_ratio: Some(0.0),
        turned_away_ratio: Some(0.0),
        latency_ms: None,
        least_life_left_seconds: Some(600),
        minted: 5,
        mints_failed: 0,
        mints_withheld: 0,
        withheld_for_a_while: 0,
        key_refused: 0,
    };

    fn headline(minute: &Minute, change: impl FnOnce(&mut Facts<'_>)) -> (Level, String) {
        let mut facts = Facts {
            ready: true,
            draining: false,
            condition: Condition::Well,
            asked: 100,
            margin_seconds: 60,
            last_minute: minute,
        };
        change(&mut facts);
        let headline = Headline::of(&facts);
        (headline.level, headline.text)
    }

    #[test]
    fn the_worst_that_is_the_case_is_said() {
        let (level, text) = headline(&MINUTE, |_| {});
        assert_eq!((level, text.as_str()), (Level::Ok, "Links are flowing"));
        let quiet = Minute { per_second: 0.0, hit_ratio: None, error_ratio: None, ..MINUTE };
        assert_eq!(headline(&quiet, |_| {}).0, Level::Idle);
        assert_eq!(headline(&quiet, |facts| facts.asked = 0).0, Level::Idle);
        let none_yet = Minute { seconds: 0, ..quiet };
        assert!(headline(&none_yet, |_| {}).1.contains("first figures"));
        assert!(headline(&none_yet, |facts| facts.asked = 0).1.contains("nobody"));
        let few = Minute { error_ratio: Some(0.04), mints_failed: 1, ..MINUTE };
        assert_eq!(headline(&few, |_| {}).0, Level::Warning);
        let many = Minute { error_ratio: Some(0.05), ..few };
        assert!(headline(&many, |_| {}).1.contains("5 %"));
        let turned_away = Minute { turned_away_ratio: Some(0.9), ..MINUTE };
        assert!(headline(&turned_away, |_| {}).1.contains("90 %"));
        let limited = |facts: &mut Facts<'_>| facts.condition = Condition::Limiting;
        assert_eq!(headline(&turned_away, limited), (Level::Problem, "kie.ai limits the rate".to_owned()));
        let over = Minute { mints_withheld: 10, withheld_for_a_while: 8, ..turned_away };
        assert_eq!(headline(&over, |_| {}).0, Level::Warning, "what withheld them is over");
        assert_eq!(headline(&Minute { turned_away_ratio: Some(0.04), ..MINUTE }, |_| {}).0, Level::Ok);
        let refused = Minute { key_refused: 1, ..many };
        assert!(headline(&refused, |facts| facts.condition = Condition::Unwell).1.contains("API key"));
        assert_eq!(headline(&MINUTE, |facts| facts.condition = Condition::Unwell).0, Level::Problem);
        assert_eq!(headline(&MINUTE, |facts| facts.condition = Condition::Refusing).0, Level::Problem);
        assert_eq!(headline(&MINUTE, |facts| facts.condition = Condition::Limiting).0, Level::Warning);
        assert_eq!(headline(&MINUTE, |facts| facts.ready = false).0, Level::Problem);
        assert!(headline(&refused, |facts| facts.draining = true).1.contains("stopping"));
    }

    #[test]
    fn links_that_are_about_to_end_are_worth_a_warning_where_they_are_not_renewed() {
        for (life, withheld, text) in [
            (119, 1, "Links are handed out that are about to end"),
            (120, 1, "Links are flowing"),
            (61, 0, "Links are flowing"),
        ] {
            let minute = Minute { least_life_left_seconds: Some(life), mints_withheld: withheld, ..MINUTE };
            assert_eq!(headline(&minute, |_| {}).1, text, "{life}");
        }
    }
}
