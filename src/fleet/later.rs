//! What the shared tier is told as soon as it answers again: that kie.ai wants to be left alone, files that were forgotten, and
//! links that were minted meanwhile. Pure.

use std::{collections::HashMap, time::Duration};

use crate::{clock::Instant, link, source::Source, upstream::Minted};

/// At the default `upstream.rate`, two minutes of links; 2 MB at most.
const MOST_LINKS: usize = 1024;

/// After that no link lives that was there before.
const FORGOTTEN_FOR: Duration = link::LIFE;

const MOST_FORGOTTEN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Later {
    links: HashMap<Source, Kept>,
    count: u64,
    forgotten: Vec<Deletion>,
    /// Until when the fleet of which key is to pause, by its fingerprint.
    pauses: HashMap<String, Instant>,
}

/// A file is to be forgotten by the fleet of one key.
#[derive(Debug, Clone)]
pub(super) struct Deletion {
    pub(super) source: Source,
    /// The key, by its fingerprint.
    key: String,
    /// When somebody wanted that.
    pub(super) since: Instant,
    /// The number of the invalidation; `None` where the tier has not heard of it.
    number: Option<i64>,
}

/// What the fleet of one key has not heard.
pub(super) struct Untold {
    pub(super) pause_until: Option<Instant>,
    pub(super) forgotten: Vec<Deletion>,
    /// Links to put, the oldest first.
    pub(super) links: Vec<(Source, Kept)>,
}

#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) minted: Minted,
    /// The key that minted it, by its fingerprint.
    pub(super) key: String,
    number: u64,
}

impl Later {
    /// Only the freshest are kept.
    pub(super) fn put(&mut self, source: &Source, minted: &Minted, key: &str) {
        self.count += 1;
        let kept = Kept { minted: minted.clone(), key: key.to_owned(), number: self.count };
        self.links.insert(source.clone(), kept);
        if self.links.len() > MOST_LINKS
            && let Some(oldest) =
                self.links.iter().min_by_key(|(_, kept)| kept.number).map(|(source, _)| source.clone())
        {
            self.links.remove(&oldest);
        }
    }

    /// It was not heard, and nothing newer is to be put.
    pub(super) fn put_again(&mut self, source: &Source, kept: &Kept) {
        self.links.entry(source.clone()).or_insert_with(|| kept.clone());
    }

    /// A file is to be forgotten by the fleet of this key, as somebody wanted at `since`, and has the tier's `number` where that
    /// has heard of it: a tier that loses its last writes has not.
    pub(super) fn forget(&mut self, source: &Source, key: &str, since: Instant, number: Option<i64>) {
        let is_same = |other: &Deletion| other.source == *source && other.key == key;
        if self.forgotten.iter().any(|other| is_same(other) && other.since > since) {
            return;
        }
        self.forgotten.retain(|other| !is_same(other) && since.since(other.since) < FORGOTTEN_FOR);
        if self.forgotten.len() == MOST_FORGOTTEN {
            // One that was told matters only if the tier forgets it.
            let told = self.forgotten.iter().position(|other| other.number.is_some());
            self.forgotten.remove(told.unwrap_or(0));
        }
        self.forgotten.push(Deletion { source: source.clone(), key: key.to_owned(), since, number });
    }

    /// Its link need not be put any more: it was forgotten, or there is a newer one.
    pub(super) fn drop_link(&mut self, source: &Source) {
        self.links.remove(source);
    }

    /// The same of many.
    pub(super) fn drop_links(&mut self, is_one: impl Fn(&Source) -> bool) {
        self.links.retain(|source, _| !is_one(source));
    }

    /// The fleet of this key is to ask kie.ai nothing until then.
    pub(super) fn pause(&mut self, key: &str, until: Instant) {
        let known = self.pauses.entry(key.to_owned()).or_insert(until);
        *known = until.max(*known);
    }

    /// All that the fleet of this key is to hear, once, whose tier knows of invalidations up to `sequence`.
    pub(super) fn take(&mut self, key: &str, sequence: i64, now: Instant) -> Untold {
        // What comes too late for any fleet goes, too.
        self.forgotten.retain(|deletion| now.since(deletion.since) < FORGOTTEN_FOR);
        self.links.retain(|_, kept| kept.minted.ends_at > now);
        self.pauses.retain(|_, until| *until > now);
        let is_untold = |one: &mut Deletion| one.key == key && one.number.is_none_or(|number| number > sequence);
        let forgotten = self.forgotten.extract_if(.., is_untold).collect();
        let mut links: Vec<_> = self.links.extract_if(|_, kept| kept.key == key).collect();
        links.sort_unstable_by_key(|(_, kept)| kept.number);
        Untold { pause_until: self.pauses.remove(key), forgotten, links }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::KieClock,
        link::{self, Link, Policy},
        upstream::Via,
    };

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn source(number: usize) -> Source {
        Source::parse(&format!("https://h.kie.ai/{number}")).unwrap()
    }

    fn minted(number: usize) -> Minted {
        let heard = KieClock::default().heard(None, None, at(100), at(100));
        let link = Link::parse(&format!("https://h.example/{number}"), &Policy::default()).unwrap();
        Minted { link, sent_at: at(100), ends_at: at(100) + link::LIFE, heard, says_its_end: false, via: Via::Kie }
    }

    #[test]
    fn the_freshest_are_kept_the_newest_of_each_file_and_the_living_are_told() {
        let mut later = Later::default();
        (0..MOST_LINKS + 2).for_each(|number| later.put(&source(number), &minted(number), "k"));
        later.put(&source(7), &minted(9999), "k");
        let Untold { links, .. } = later.take("k", 0, at(200));
        assert_eq!(links.len(), MOST_LINKS);
        assert!(links.iter().all(|(known, _)| *known != source(0) && *known != source(1)), "the oldest went first");
        let last = links.last().unwrap();
        assert_eq!((&last.0, last.1.minted.link.as_str()), (&source(7), "https://h.example/9999"));
        assert!(later.take("k", 0, at(200)).links.is_empty(), "once");
        later.put(&source(1), &minted(1), "k");
        assert!(later.take("k", 0, at(1300)).links.is_empty(), "it is dead");
    }

    #[test]
    fn what_is_forgotten_is_told_for_as_long_as_a_link_may_live_and_again_where_the_tier_forgets_it() {
        let mut later = Later::default();
        let told = |later: &mut Later, sequence, now| {
            let forgotten = later.take("k", sequence, now).forgotten.into_iter();
            forgotten.map(|deletion| (deletion.source, deletion.since)).collect::<Vec<_>>()
        };
        later.forget(&source(1), "k", at(100), None);
        later.forget(&source(2), "k", at(130), Some(7));
        later.forget(&source(3), "k", at(131), Some(8));
        later.forget(&source(3), "k", at(132), Some(9));
        later.forget(&source(3), "k", at(131), None);
        assert_eq!(told(&mut later, 9, at(1299)), [(source(1), at(100))]);
        assert_eq!(told(&mut later, 9, at(1299)), []);
        assert_eq!(told(&mut later, 8, at(1299)), [(source(3), at(132))], "it has lost its last write");
        later.forget(&source(1), "k", at(100), None);
        assert_eq!(told(&mut later, 9, at(1300)), [], "no link is left");
        later.forget(&source(0), "k", at(1300), None);
        (1..=MOST_FORGOTTEN).for_each(|number| later.forget(&source(number), "k", at(1300), Some(1)));
        assert_eq!(told(&mut later, 1, at(1300)), [(source(0), at(1300))], "those that were told leave first");
        assert_eq!(told(&mut later, 0, at(1300)).len(), MOST_FORGOTTEN - 1);
    }

    #[test]
    fn each_fleet_is_told_its_own_and_again_what_it_did_not_hear() {
        let mut later = Later::default();
        later.forget(&source(2), "k", at(131), None);
        later.forget(&source(2), "of another key", at(132), None);
        later.put(&source(3), &minted(3), "of another key");
        let Untold { forgotten, links, .. } = later.take("k", 0, at(160));
        assert_eq!((forgotten[0].since, forgotten.len(), links.len()), (at(131), 1, 0));
        let Untold { forgotten, links, .. } = later.take("of another key", 0, at(160));
        assert_eq!((forgotten[0].since, forgotten.len(), links.len()), (at(132), 1, 1));
        // What was not heard is told again, but for what a newer one has replaced.
        later.put(&source(4), &minted(5), "k");
        later.put_again(&source(3), &links[0].1);
        later.put_again(&source(4), &links[0].1);
        let again = |later: &mut Later, key| {
            later.take(key, 0, at(161)).links.into_iter().map(|(source, _)| source).collect::<Vec<_>>()
        };
        assert_eq!(again(&mut later, "of another key"), [source(3)]);
        assert_eq!(again(&mut later, "k"), [source(4)]);
    }
    #[test]
    fn a_pause_is_told_to_each_fleet_once_for_as_long_as_it_lasts() {
        let mut later = Later::default();
        later.pause("k", at(103));
        later.pause("k", at(101));
        later.pause("of another key", at(103));
        assert_eq!(later.take("k", 0, at(102)).pause_until, Some(at(103)), "the longer one holds");
        assert_eq!(later.take("k", 0, at(102)).pause_until, None);
        assert_eq!(later.take("of another key", 0, at(103)).pause_until, None);
    }
}
