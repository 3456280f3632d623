//! What the tier is told as soon as it answers again: that kie.ai wants to be left alone, files that are to be forgotten, links
//! that were minted meanwhile; and which files it was told to forget, which it may lose. Pure.

use std::{collections::HashMap, time::Duration};

use crate::{clock::Instant, link, shared::TOMBSTONE, source::Source, upstream::Minted};

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
    pause_until: Option<Instant>,
}

/// A file is to be forgotten.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) source: Source,
    /// When somebody wanted that.
    pub(super) since: Instant,
    heard: Heard,
}

/// Whether the tier has heard of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    No,
    Yes,
    /// It has, and may have lost it since: it was silent, or is another server, which has not the last writes.
    Lost,
}

/// What the tier has not heard, or has lost.
pub(super) struct Untold {
    pub(super) pause_until: Option<Instant>,
    pub(super) forgotten: Vec<Deletion>,
    /// Those that it has heard of, and may have lost.
    pub(super) doubted: Vec<Deletion>,
    /// Links to put, the oldest first.
    pub(super) links: Vec<(Source, Kept)>,
}

#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) minted: Minted,
    number: u64,
}

impl Later {
    /// Only the freshest are kept.
    pub(super) fn put(&mut self, source: &Source, minted: &Minted) {
        self.count += 1;
        self.links.insert(source.clone(), Kept { minted: minted.clone(), number: self.count });
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

    /// A file is to be forgotten, as somebody wanted at `since`, and so is what was to be put.
    pub(super) fn forget(&mut self, source: &Source, since: Instant, heard: Heard) {
        if self.links.get(source).is_some_and(|kept| kept.minted.sent_at <= since) {
            self.links.remove(source);
        }
        if self.forgotten.iter().any(|other| other.source == *source && other.since > since) {
            return;
        }
        self.forgotten.retain(|other| other.source != *source && since.since(other.since) < FORGOTTEN_FOR);
        if self.forgotten.len() == MOST_FORGOTTEN {
            // One that was told matters only if the tier loses it.
            let told = self.forgotten.iter().position(|other| other.heard != Heard::No);
            self.forgotten.remove(told.unwrap_or(0));
        }
        self.forgotten.push(Deletion { source: source.clone(), since, heard });
    }

    /// There is a newer one.
    pub(super) fn drop_link(&mut self, source: &Source) {
        self.links.remove(source);
    }

    /// They were forgotten. Returns whether there were any.
    pub(super) fn drop_links(&mut self, is_one: impl Fn(&Source) -> bool) -> bool {
        let before = self.links.len();
        self.links.retain(|source, _| !is_one(source));
        self.links.len() < before
    }

    /// The tier may have lost its last writes. A deletion that may still be on its way to other replicas, or to mints under way,
    /// is told again in any case.
    pub(super) fn doubt(&mut self, now: Instant) {
        for deletion in self.forgotten.iter_mut().filter(|deletion| deletion.heard == Heard::Yes) {
            deletion.heard = if now.since(deletion.since) < TOMBSTONE { Heard::No } else { Heard::Lost };
        }
    }

    /// kie.ai is to be asked nothing until then.
    pub(super) fn pause(&mut self, until: Instant) {
        self.pause_until = self.pause_until.max(Some(until));
    }

    /// All that the tier is to hear, once.
    pub(super) fn take(&mut self, now: Instant) -> Untold {
        // What comes too late goes, too.
        self.forgotten.retain(|deletion| now.since(deletion.since) < FORGOTTEN_FOR);
        self.links.retain(|_, kept| kept.minted.ends_at > now);
        let mut links: Vec<_> = self.links.drain().collect();
        links.sort_unstable_by_key(|(_, kept)| kept.number);
        Untold {
            pause_until: self.pause_until.take().filter(|until| *until > now),
            forgotten: self.forgotten.extract_if(.., |deletion| deletion.heard == Heard::No).collect(),
            doubted: self.forgotten.extract_if(.., |deletion| deletion.heard == Heard::Lost).collect(),
            links,
        }
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
        (0..MOST_LINKS + 2).for_each(|number| later.put(&source(number), &minted(number)));
        later.put(&source(7), &minted(9999));
        let Untold { links, .. } = later.take(at(200));
        assert_eq!(links.len(), MOST_LINKS);
        assert!(links.iter().all(|(known, _)| *known != source(0) && *known != source(1)), "the oldest went first");
        let last = links.last().unwrap();
        assert_eq!((&last.0, last.1.minted.link.as_str()), (&source(7), "https://h.example/9999"));
        assert!(later.take(at(200)).links.is_empty(), "once");
        later.put(&source(1), &minted(1));
        assert!(later.take(at(1300)).links.is_empty(), "it is dead");
        // What was not heard is told again, but for what a newer one has replaced.
        later.put(&source(4), &minted(5));
        later.put_again(&source(3), &links[0].1);
        later.put_again(&source(4), &links[0].1);
        let again: Vec<_> = later.take(at(200)).links.into_iter().map(|(_, kept)| kept.number).collect();
        assert_eq!(again, [links[0].1.number, later.count]);
    }

    #[test]
    fn what_is_forgotten_is_not_put_and_told_while_a_link_may_live_and_doubted_where_the_tier_may_have_lost_it() {
        let mut later = Later::default();
        let told = |later: &mut Later, now| {
            let Untold { forgotten, doubted, .. } = later.take(now);
            let [forgotten, doubted] = [forgotten, doubted].map(|deletions| {
                deletions.into_iter().map(|deletion| (deletion.source, deletion.since)).collect::<Vec<_>>()
            });
            (forgotten, doubted)
        };
        later.forget(&source(1), at(100), Heard::No);
        later.forget(&source(2), at(99), Heard::Yes);
        later.forget(&source(3), at(131), Heard::Yes);
        later.forget(&source(3), at(132), Heard::Yes);
        later.forget(&source(3), at(131), Heard::No);
        assert_eq!(told(&mut later, at(1299)), (vec![(source(1), at(100))], vec![]));
        assert_eq!(told(&mut later, at(1299)), (vec![], vec![]));
        later.doubt(at(132) + TOMBSTONE);
        assert_eq!(told(&mut later, at(1299)), (vec![], vec![(source(3), at(132))]));
        later.forget(&source(3), at(132), Heard::Yes);
        later.doubt(at(131) + TOMBSTONE);
        assert_eq!(told(&mut later, at(1299)), (vec![(source(3), at(132))], vec![]), "others may not have heard of it");
        later.forget(&source(1), at(100), Heard::No);
        assert_eq!(told(&mut later, at(1300)), (vec![], vec![]), "no link is left");
        later.forget(&source(0), at(1300), Heard::No);
        (1..=MOST_FORGOTTEN).for_each(|number| later.forget(&source(number), at(1300), Heard::Yes));
        assert_eq!(told(&mut later, at(1300)).0, [(source(0), at(1300))], "those that were told leave first");
        later.doubt(at(1300) + TOMBSTONE);
        assert_eq!(told(&mut later, at(1300)).1.len(), MOST_FORGOTTEN - 1);
        // Links are of 100 s.
        later.put(&source(1), &minted(1));
        later.put(&source(2), &minted(2));
        later.forget(&source(1), at(100), Heard::Yes);
        later.forget(&source(2), at(99), Heard::Yes);
        let links: Vec<_> = later.take(at(200)).links.into_iter().map(|(source, _)| source).collect();
        assert_eq!(links, [source(2)], "it was minted since");
    }

    #[test]
    fn a_pause_is_told_once_for_as_long_as_it_lasts() {
        let mut later = Later::default();
        later.pause(at(103));
        later.pause(at(101));
        assert_eq!(later.take(at(102)).pause_until, Some(at(103)), "the longer one holds");
        assert_eq!(later.take(at(102)).pause_until, None);
        later.pause(at(103));
        assert_eq!(later.take(at(103)).pause_until, None);
    }
}
