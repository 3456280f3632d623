//! What the shared tier is told as soon as it answers again: that kie.ai wants to be left alone, files that were forgotten, and
//! links that were minted meanwhile. Pure.

use std::{collections::HashMap, time::Duration};

use crate::{clock::Instant, source::Source, upstream::Minted};

/// At the default `upstream.rate`, two minutes of links; 2 MB at most.
const MOST_LINKS: usize = 1024;

/// By then, whoever had the file forgotten has found out that the others were not told.
const FORGOTTEN_FOR: Duration = Duration::from_secs(60);

const MOST_FORGOTTEN: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Later {
    links: HashMap<Source, Kept>,
    count: u64,
    /// And by the fingerprint of which key's fleet, since when.
    forgotten: Vec<(Source, String, Instant)>,
    /// Until when the fleet of which key is to pause, by its fingerprint.
    pauses: HashMap<String, Instant>,
}

/// What the fleet of one key has not heard.
pub(super) struct Untold {
    pub(super) pause_until: Option<Instant>,
    /// Files to forget, and since when.
    pub(super) forgotten: Vec<(Source, Instant)>,
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

    /// A file is to be forgotten by the fleet of this key, as somebody wanted at `since`, and so is what was to be put.
    pub(super) fn forget(&mut self, source: &Source, key: &str, since: Instant) {
        self.links.remove(source);
        self.forgotten.retain(|(known, of, at)| (known, &**of) != (source, key) && since.since(*at) < FORGOTTEN_FOR);
        if self.forgotten.len() < MOST_FORGOTTEN {
            self.forgotten.push((source.clone(), key.to_owned(), since));
        }
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

    /// All that the fleet of this key is to hear, once.
    pub(super) fn take(&mut self, key: &str, now: Instant) -> Untold {
        // What comes too late for any fleet goes, too.
        self.forgotten.retain(|(_, _, since)| now.since(*since) < FORGOTTEN_FOR);
        self.links.retain(|_, kept| kept.minted.ends_at > now);
        self.pauses.retain(|_, until| *until > now);
        let forgotten = self.forgotten.extract_if(.., |(_, of, _)| of == key);
        let forgotten = forgotten.map(|(source, _, since)| (source, since)).collect();
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
        let Untold { links, .. } = later.take("k", at(200));
        assert_eq!(links.len(), MOST_LINKS);
        assert!(links.iter().all(|(known, _)| *known != source(0) && *known != source(1)), "the oldest went first");
        let last = links.last().unwrap();
        assert_eq!((&last.0, last.1.minted.link.as_str()), (&source(7), "https://h.example/9999"));
        assert!(later.take("k", at(200)).links.is_empty(), "once");
        later.put(&source(1), &minted(1), "k");
        assert!(later.take("k", at(1300)).links.is_empty(), "it is dead");
    }

    #[test]
    fn what_is_forgotten_is_not_put_and_is_told_for_a_minute() {
        let mut later = Later::default();
        later.put(&source(1), &minted(1), "k");
        later.forget(&source(1), "k", at(100));
        later.forget(&source(2), "k", at(130));
        later.forget(&source(2), "k", at(131));
        later.forget(&source(2), "of another key", at(132));
        later.put(&source(3), &minted(3), "of another key");
        let Untold { forgotten, links, .. } = later.take("k", at(160));
        assert_eq!((forgotten, links.len()), (vec![(source(2), at(131))], 0));
        let Untold { forgotten, links, .. } = later.take("of another key", at(160));
        assert_eq!((forgotten, links.len()), (vec![(source(2), at(132))], 1));
        // What was not heard is told again, but for what a newer one has replaced.
        later.put(&source(4), &minted(5), "k");
        later.put_again(&source(3), &links[0].1);
        later.put_again(&source(4), &links[0].1);
        let again = |later: &mut Later, key| {
            later.take(key, at(161)).links.into_iter().map(|(source, _)| source).collect::<Vec<_>>()
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
        assert_eq!(later.take("k", at(102)).pause_until, Some(at(103)), "the longer one holds");
        assert_eq!(later.take("k", at(102)).pause_until, None);
        assert_eq!(later.take("of another key", at(103)).pause_until, None);
    }
}
