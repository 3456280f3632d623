//! What the scripts promise, said a second time in other words: a tier's memory without Redis. Pure. A test holds it to
//! what a real server answers.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use redis::Value;

use crate::shared::Operation;

const HOUR: i64 = 3_600_000;
const BEACON: i64 = 30_000;
const LONGEST_PAUSE: i64 = 120_000;
const LONGEST_QUEUE_MICROS: i64 = 120_000_000;
const SET_BACK_MICROS: i64 = 1_000_000;
const TOLD: usize = 1000;
const TIMES_KEPT: usize = 1000;

/// Until when something is there, in milliseconds of the tier's clock.
#[derive(Debug, Clone)]
struct Until<T> {
    value: T,
    until: i64,
}

#[derive(Debug, Clone, PartialEq)]
enum Lease {
    Held(Vec<u8>),
    Failed(Vec<u8>),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    links: HashMap<String, Until<Vec<u8>>>,
    leases: HashMap<String, Until<Lease>>,
    tombstones: HashMap<String, Until<()>>,
    bucket: Option<Bucket>,
    /// When tokens of it were last taken.
    given_at: VecDeque<i64>,
    pause: Option<Until<()>>,
    beacon: Option<Until<Vec<u8>>>,
    fleet: Option<Until<Members>>,
    sequence: Option<Until<i64>>,
    /// Files and their numbers; the oldest first.
    forgotten: Option<Until<Files>>,
    /// Leases that ended otherwise than by their holders, since somebody last looked.
    lost: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it would be full, in microseconds.
    full_at: i64,
    /// Tokens that it has given.
    given: i64,
}

type Files = Vec<(i64, Vec<u8>)>;

#[derive(Debug, Clone, Default)]
struct Members {
    beats: i64,
    /// At which beat each has beaten last, and its record.
    of: HashMap<Vec<u8>, (i64, Vec<u8>)>,
}

impl Memory {
    /// What is answered to one question at `now`, in milliseconds of the tier's clock.
    pub(crate) fn answer(&mut self, operation: Operation, keys: &[String], arguments: &[Vec<u8>], now: i64) -> Value {
        self.expire(now);
        match operation {
            Operation::Look => {
                let files = keys[1..].chunks(2).zip(arguments[1..].chunks(2));
                Value::Array(files.map(|(keys, asked)| self.look(keys, asked, &arguments[0], now)).collect())
            }
            Operation::Peek => self.peek(keys),
            Operation::Poll => self.poll(keys, arguments),
            Operation::Renew => self.renew(keys, arguments, now),
            Operation::Release => self.release(keys, arguments, now),
            Operation::Steal => self.steal(keys, arguments, now),
            Operation::Put => self.put(keys, arguments, now),
            Operation::Drop => self.drop(keys, arguments, now),
            Operation::Take => self.take(arguments, now),
            Operation::Pay => self.pay(arguments, now),
            Operation::Pause => self.pause(arguments, now),
            Operation::Beat => self.beat(arguments, now),
            Operation::Trial => Value::Int(1),
        }
    }

    /// In which time the bucket would be full.
    pub(crate) fn full_in(&self, now: i64) -> Duration {
        let micros = self.bucket.map_or(0, |bucket| bucket.full_at - now * 1000);
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }

    pub(crate) fn given_since(&self, since: i64) -> usize {
        self.given_at.iter().take_while(|at| **at >= since).count()
    }

    /// The leases that ended otherwise than by their holders, since this was last asked.
    pub(crate) fn lost(&mut self, now: i64) -> Vec<String> {
        self.expire(now);
        std::mem::take(&mut self.lost)
    }

    /// All leases that are held.
    pub(crate) fn held(&self) -> Vec<String> {
        let held = self.leases.iter().filter(|(_, lease)| matches!(lease.value, Lease::Held(_)));
        held.map(|(name, _)| name.clone()).collect()
    }

    fn expire(&mut self, now: i64) {
        fn alive<T>(kept: &Until<T>, now: i64) -> bool {
            kept.until > now
        }
        self.links.retain(|_, kept| alive(kept, now));
        self.tombstones.retain(|_, kept| alive(kept, now));
        let lost = &mut self.lost;
        self.leases.retain(|name, lease| {
            let is_alive = alive(lease, now);
            if !is_alive && matches!(lease.value, Lease::Held(_)) {
                lost.push(name.clone());
            }
            is_alive
        });
        self.bucket.take_if(|bucket| bucket.full_at.div_euclid(1000) + HOUR <= now);
        self.pause.take_if(|kept| !alive(kept, now));
        self.beacon.take_if(|kept| !alive(kept, now));
        self.fleet.take_if(|kept| !alive(kept, now));
        self.sequence.take_if(|kept| !alive(kept, now));
        self.forgotten.take_if(|kept| !alive(kept, now));
    }

    fn holds(&self, lease: &str, holder: &[u8]) -> bool {
        self.leases.get(lease).is_some_and(|lease| lease.value == Lease::Held(holder.to_vec()))
    }

    fn lease(&mut self, lease: &str, holder: &[u8], until: i64) {
        let before = self.leases.insert(lease.to_owned(), Until { value: Lease::Held(holder.to_vec()), until });
        if before.is_some_and(|before| matches!(before.value, Lease::Held(other) if other != holder)) {
            self.lost.push(lease.to_owned());
        }
    }

    /// LOOK finds a link that will do; else the failure or the holder of a mint; else the file is free, and leased to
    /// whoever gave a name.
    fn look(&mut self, keys: &[String], asked: &[Vec<u8>], life: &[u8], now: i64) -> Value {
        let [link, lease] = keys else { panic!("{keys:?}") };
        let [holder, newer] = asked else { panic!("{asked:?}") };
        if let Some(found) = self.links.get(link).filter(|found| is_newer(&found.value, newer)) {
            return answer("hit", [bulk(&found.value), self.told_beacon()]);
        }
        match self.leases.get(lease) {
            Some(Until { value: Lease::Failed(failure), .. }) if holder.is_empty() => {
                return answer("failed", [bulk(failure)]);
            }
            Some(Until { value: Lease::Held(other), until }) if other != holder && until - now <= 2 * number(life) => {
                return answer("wait", [Value::Int(until - now), bulk(other)]);
            }
            _ => {}
        }
        if holder.is_empty() {
            return answer("free", []);
        }
        self.lease(lease, holder, now + number(life));
        answer("mine", [])
    }

    fn peek(&self, keys: &[String]) -> Value {
        let links = keys[1..].iter().map(|key| self.links.get(key).map_or(Value::Nil, |found| bulk(&found.value)));
        Value::Array([self.told_beacon()].into_iter().chain(links).collect())
    }

    /// POLL finds what is new, and leases of others.
    fn poll(&self, keys: &[String], arguments: &[Vec<u8>]) -> Value {
        let files = keys.chunks(2).zip(arguments.chunks(2)).map(|(keys, arguments)| {
            let [link, lease] = keys else { panic!("{keys:?}") };
            let [newer, holder] = arguments else { panic!("{arguments:?}") };
            let found = self.links.get(link);
            let is_new = found.is_some_and(|found| is_newer(&found.value, newer));
            Value::Int((is_new || !self.holds(lease, holder)).into())
        });
        Value::Array(files.collect())
    }

    fn renew(&mut self, keys: &[String], arguments: &[Vec<u8>], now: i64) -> Value {
        let life = number(&arguments[0]);
        let renewed = keys.iter().zip(&arguments[1..]).map(|(lease, holder)| {
            let is_mine = self.holds(lease, holder);
            if let Some(lease) = self.leases.get_mut(lease).filter(|_| is_mine) {
                lease.until = now + life;
            }
            Value::Int(is_mine.into())
        });
        Value::Array(renewed.collect())
    }

    fn release(&mut self, keys: &[String], arguments: &[Vec<u8>], now: i64) -> Value {
        let [holder, failure, told] = arguments else { panic!("{arguments:?}") };
        if !self.holds(&keys[0], holder) {
            return Value::Int(0);
        }
        self.leases.remove(&keys[0]);
        if !failure.is_empty() {
            let value = Lease::Failed(failure.clone());
            self.leases.insert(keys[0].clone(), Until { value, until: now + number(told) });
        }
        Value::Int(1)
    }

    fn steal(&mut self, keys: &[String], arguments: &[Vec<u8>], now: i64) -> Value {
        let [holder, life, from] = arguments else { panic!("{arguments:?}") };
        let is_theirs = self.holds(&keys[0], from);
        if is_theirs {
            self.lease(&keys[0], holder, now + number(life));
        }
        Value::Int(is_theirs.into())
    }

    /// PUT by the holder is always kept; by anybody else, neither what was forgotten comes back nor is a newer one lost.
    fn put(&mut self, keys: &[String], arguments: &[Vec<u8>], now: i64) -> Value {
        let [link, lease, tombstone] = keys else { panic!("{keys:?}") };
        let [holder, sealed, life] = arguments else { panic!("{arguments:?}") };
        let is_mine = self.holds(lease, holder);
        if !is_mine && self.tombstones.contains_key(tombstone) {
            return word("forgotten");
        }
        if !is_mine && self.links.get(link).is_some_and(|found| time(&found.value) > time(sealed)) {
            return word("older");
        }
        self.links.insert(link.clone(), Until { value: sealed.clone(), until: now + number(life) });
        if is_mine {
            self.leases.remove(lease);
        }
        word("kept")
    }

    fn drop(&mut self, keys: &[String], arguments: &[Vec<u8>], now: i64) -> Value {
        let [link, lease, tombstone, ..] = keys else { panic!("{keys:?}") };
        let [file, life, _, base] = arguments else { panic!("{arguments:?}") };
        self.links.remove(link);
        if matches!(self.leases.remove(lease), Some(Until { value: Lease::Held(_), .. })) {
            self.lost.push(lease.clone());
        }
        self.tombstones.insert(tombstone.clone(), Until { value: (), until: now + number(life) });
        let mut forgotten = self.forgotten.take().map(|forgotten| forgotten.value).unwrap_or_default();
        let sequence = match self.sequence.take() {
            Some(sequence) => sequence.value + 1,
            None => {
                forgotten.clear();
                number(base) + 1
            }
        };
        self.sequence = Some(Until { value: sequence, until: now + 2 * HOUR });
        forgotten.retain(|(_, known)| known != file);
        forgotten.push((sequence, file.clone()));
        let too_many = forgotten.len().saturating_sub(TOLD);
        forgotten.drain(..too_many);
        self.forgotten = Some(Until { value: forgotten, until: now + HOUR });
        Value::Int(sequence)
    }

    /// How many microseconds the bucket is short of full, and what it has given. One that is new, or spoilt by a clock, is
    /// empty. Who knows that it has given more knows what it has lost.
    fn short(&mut self, window: i64, known: &[Vec<u8>], now: i64) -> (i64, i64) {
        let [known_given, known_short] = known else { panic!("{known:?}") };
        let longest = window + LONGEST_QUEUE_MICROS;
        let kept = self.bucket.map(|bucket| ((bucket.full_at - now * 1000).max(0), bucket.given));
        let (short, given) = match kept {
            Some(kept) if kept.0 <= longest => kept,
            _ => (window, 0),
        };
        let most = number(known_short).max(window);
        let now_so = match number(known_given) {
            known if known > given => (short.max(number(known_short).min(longest)), known),
            known if known == given && short > most + SET_BACK_MICROS => (most, given),
            _ => (short, given),
        };
        if kept != Some(now_so) {
            self.set_short(now_so.0, now_so.1, now);
        }
        now_so
    }

    fn gives(&mut self, tokens: i64, now: i64) {
        (0..tokens).for_each(|_| self.given_at.push_front(now));
        self.given_at.truncate(TIMES_KEPT);
    }

    fn set_short(&mut self, short: i64, given: i64, now: i64) {
        self.bucket = Some(Bucket { full_at: now * 1000 + short, given });
    }

    fn paused(&mut self, now: i64, is_mended: bool) -> i64 {
        let Some(pause) = &mut self.pause else { return 0 };
        let left = pause.until - now;
        if left <= LONGEST_PAUSE {
            return left;
        }
        if is_mended {
            pause.until = now + 10_000;
        }
        10_000
    }

    fn take(&mut self, arguments: &[Vec<u8>], now: i64) -> Value {
        let ([period, window, longest, keep], known) = arguments.split_at(4) else { panic!("{arguments:?}") };
        let (period, window) = (number(period), number(window));
        let pause = self.paused(now, true);
        if pause > 0 {
            return answer("paused", [Value::Int(pause)]);
        }
        let (short, given) = self.short(window, known, now);
        let wait = short + period * (1 + number(keep)) - window;
        if wait > number(longest) {
            return answer("full", [Value::Int(millis_up(wait))]);
        }
        self.set_short(short + period, given + 1, now);
        self.gives(1, now);
        let wait = Value::Int(millis_up((short + period - window).max(0)));
        answer("go", [wait, level(short + period, given + 1)])
    }

    fn pay(&mut self, arguments: &[Vec<u8>], now: i64) -> Value {
        let ([period, window, tokens, beyond], known) = arguments.split_at(4) else { panic!("{arguments:?}") };
        let [period, window, tokens, beyond] = [period, window, tokens, beyond].map(|argument| number(argument));
        let (short, given) = self.short(window, known, now);
        let paid = (short + period * tokens).min(window).max(short) + period * beyond;
        self.set_short(paid.min(window + LONGEST_QUEUE_MICROS), given + tokens + beyond, now);
        self.gives(tokens + beyond, now);
        Value::Int(1)
    }

    fn pause(&mut self, arguments: &[Vec<u8>], now: i64) -> Value {
        let asked = number(&arguments[0]).min(LONGEST_PAUSE);
        let left = self.pause.as_ref().map(|pause| pause.until - now);
        match left.filter(|left| *left <= LONGEST_PAUSE && *left >= asked) {
            Some(left) => Value::Int(left),
            None => {
                if asked > 0 {
                    self.pause = Some(Until { value: (), until: now + asked });
                }
                Value::Int(asked)
            }
        }
    }

    fn told_beacon(&self) -> Value {
        self.beacon.as_ref().map_or(Value::Nil, |beacon| bulk(&beacon.value))
    }

    fn beat(&mut self, arguments: &[Vec<u8>], now: i64) -> Value {
        let ([replica, record, known, beacon, goodbye, window], bucket) = arguments.split_at(6) else {
            panic!("{arguments:?}")
        };
        let mut members = self.fleet.take().map(|fleet| fleet.value).unwrap_or_default();
        members.beats += 1;
        let beat = members.beats;
        match &goodbye[..] {
            b"1" => drop(members.of.remove(replica)),
            _ => drop(members.of.insert(replica.clone(), (beat, record.clone()))),
        }
        members.of.retain(|_, (at, _)| *at <= beat);
        let since = |members: &Members, least: i64| members.of.values().filter(|(at, _)| *at >= least).count();
        let as_beats = |count: usize| i64::try_from(count).unwrap().max(1);
        let mut beats_a_second = as_beats(members.of.len());
        loop {
            let counted = as_beats(since(&members, beat - 4 * beats_a_second));
            if counted == beats_a_second {
                break;
            }
            beats_a_second = counted;
        }
        members.of.retain(|_, (at, _)| *at >= beat - 60 * beats_a_second);
        let remembered = i64::try_from(members.of.len()).unwrap();
        let present = since(&members, beat - 3 * beats_a_second);
        let mut live: Vec<_> = members.of.iter().filter(|(_, (at, _))| *at >= beat - 4 * beats_a_second).collect();
        live.sort_unstable_by_key(|(id, (at, _))| (*at, (*id).clone()));
        let live = live.into_iter().map(|(id, (_, record))| Value::Array(vec![bulk(id), bulk(record)])).collect();
        self.fleet = Some(Until { value: members, until: now + HOUR });

        let (known, sequence) = (number(known), self.sequence.as_ref().map_or(0, |sequence| sequence.value));
        if let Some(sequence) = &mut self.sequence {
            sequence.until = now + 2 * HOUR;
        }
        let (mut told, mut missed) = (Vec::new(), false);
        if known != sequence {
            let list = self.forgotten.as_ref().map_or(&[][..], |forgotten| &forgotten.value);
            let has_gap = list.len() >= TOLD && list.first().is_some_and(|(oldest, _)| *oldest > known + 1);
            let is_another = sequence < known || (known > 0 && sequence > known + (1 << 32));
            missed = is_another || list.is_empty() || has_gap;
            let known = if sequence < known { 0 } else { known };
            told = list.iter().filter(|(number, _)| *number > known).map(|(_, file)| bulk(file)).collect();
        }
        match &mut self.beacon {
            Some(other) if beacon.is_empty() || time(&other.value) >= time(beacon) => {
                other.until = other.until.min(now + BEACON);
            }
            _ if beacon.is_empty() => {}
            other => *other = Some(Until { value: beacon.clone(), until: now + BEACON }),
        }
        let pause = self.paused(now, false);
        let (short, given) = self.short(number(window), bucket, now);
        if short == 0 {
            self.set_short(0, given, now);
        }
        Value::Array(vec![
            Value::Array(live),
            Value::Int(sequence),
            Value::Array(told),
            Value::Int(missed.into()),
            Value::Int(pause),
            self.told_beacon(),
            level(short, given),
            Value::Int(i64::try_from(present).unwrap()),
            Value::Int(remembered),
        ])
    }
}

fn word(text: &str) -> Value {
    bulk(text.as_bytes())
}

fn bulk(bytes: &[u8]) -> Value {
    Value::BulkString(bytes.to_vec())
}

fn answer<const N: usize>(what: &str, more: [Value; N]) -> Value {
    Value::Array([word(what)].into_iter().chain(more).collect())
}

fn level(short: i64, given: i64) -> Value {
    Value::Array(vec![Value::Int(millis_up(short)), word(&given.to_string())])
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

fn millis_up(micros: i64) -> i64 {
    (micros + 999).div_euclid(1000)
}

/// The time in the head of a sealed value, in ms since 1970; 0 where there is none.
pub(super) fn time(sealed: &[u8]) -> i64 {
    match sealed {
        [version, kind, b'0', b'0', b'0', b'0', rest @ ..]
            if version.is_ascii_digit() && kind.is_ascii_uppercase() && rest.len() >= 12 =>
        {
            let digits = rest[..12]
                .iter()
                .try_fold(0, |time, digit| Some(time << 4 | i64::from(char::from(*digit).to_digit(16)?)));
            digits.unwrap_or(0)
        }
        _ => 0,
    }
}

fn is_newer(sealed: &[u8], than: &[u8]) -> bool {
    time(sealed) > number(than)
}
