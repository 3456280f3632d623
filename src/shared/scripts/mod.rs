//! What the shared tier is asked, and what it answers: one script each, atomic, in a file of its own.
//!
//! No script reads a clock of the tier: managed services forbid it, and a promoted replica's clock may be hours off. The
//! lives that are set are for waiting and for collecting rubbish, and those that are read are clamped. A wrong type in
//! an answer is an error, since answers may be misaligned or forged.

use std::{fmt, sync::LazyLock, time::Duration};

use jiff::Timestamp;
use redis::{Cmd, Value};
use ring::digest;

use super::{
    names::{FileNames, FleetNames, Holder, Replica},
    quota::{Level, Quota},
    seal,
};

/// For so long a file is kept for one replica that mints it, unless that renews the lease.
pub const LEASE: Duration = Duration::from_secs(2);

/// For so long those that wait for a mint are told why it failed.
const FAILURE: Duration = Duration::from_secs(1);

/// Outlives a mint that was under way when its file was forgotten: `server.request_timeout` is 20 s by default.
pub const TOMBSTONE: Duration = Duration::from_secs(20);

/// Deletions that are told to replicas which come back; the number stands in `beat.lua`, too.
const DELETIONS: u32 = 1000;

/// A sequence of deletions begins below this: hardly two begin alike, and Lua writes fourteen digits of a number.
const MOST_BEGUN: u64 = 1 << 46;

/// kie.ai's own pauses are obeyed as long (`upstream::LONGEST_RETRY_AFTER`); the number stands in the scripts, too.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// Nothing that a script tells to wait for is further away: what the tier says beyond this is not believed.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// No bucket lives to give so many tokens: 70 years at a thousand a second. More is read as this; `bucket.lua` keeps a little more.
const MOST_GIVEN: u64 = 1 << 41;

/// Files in one question (PEEK, POLL). So many links are 512 KiB at most, which holds nobody up for long.
pub const PEEK: usize = 64;

/// One question to the tier, and how its answer is read.
#[derive(Clone)]
pub struct Request<T> {
    pub(super) operation: Operation,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Vec<u8>>,
    pub(super) read: fn(Value) -> Option<T>,
}

/// What is asked; the label of its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Look,
    Peek,
    Poll,
    Renew,
    Release,
    Steal,
    Put,
    Drop,
    Take,
    Pay,
    Pause,
    Beat,
    Trial,
}

/// Which values found under a file's name will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Newer {
    Any,
    /// Minted later than this by kie.ai's clock.
    Than(Timestamp),
    /// None will: what was found before was rejected, or the caller wants one of its own.
    Never,
}

/// What LOOK found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// A link or refusal, sealed, and the sealed beacon.
    Hit { sealed: Vec<u8>, beacon: Option<Vec<u8>> },
    /// A mint failed a moment ago; the sealed failure. Told only to those who have no holder.
    Failed { sealed: Vec<u8> },
    /// Another holder mints it. It has the lease for so long, unless it renews it.
    Wait { left: Duration, holder: Holder },
    /// Nobody mints it. Told only to those who have no holder.
    Free,
    /// The lease is now this holder's, for `LEASE`.
    Mine,
}

/// What PEEK found: sealed values, in the order asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peek {
    pub beacon: Option<Vec<u8>>,
    pub links: Vec<Option<Vec<u8>>>,
}

/// What became of a value that was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Kept,
    /// The lease was lost, and a newer value is there: the file was minted twice.
    Older,
    /// The lease was lost, and the file was forgotten meanwhile.
    Forgotten,
}

/// What became of the wish for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// The request may go after this wait.
    Go { wait: Duration },
    /// There is no token within the wait; there would be one after this.
    Full { retry_after: Duration },
    /// kie.ai wants to be left alone.
    Paused { left: Duration },
}

/// TAKE's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub take: Take,
    /// How the bucket is then; `None` where it gave nothing.
    pub bucket: Option<Level>,
}

/// What a replica hears with its beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// The live replicas and their sealed records, this one included unless it said goodbye.
    pub live: Vec<(String, Option<Vec<u8>>)>,
    /// What to give the next BEAT as known.
    pub sequence: i64,
    /// The files (`FileNames::id`) that were forgotten since the known sequence.
    pub forgotten: Vec<String>,
    /// Some were missed: the replica was away for too long, or the tier has lost its memory.
    pub missed: bool,
    /// How long kie.ai wants to be left alone; zero where it does not.
    pub pause: Duration,
    /// The sealed beacon.
    pub beacon: Option<Vec<u8>>,
    pub bucket: Level,
    /// The replicas that have said something lately, of all that did within a minute, about, and have not said goodbye.
    pub present: u32,
    pub remembered: u32,
}

impl Operation {
    pub const ALL: [Operation; 13] = [
        Operation::Look,
        Operation::Peek,
        Operation::Poll,
        Operation::Renew,
        Operation::Release,
        Operation::Steal,
        Operation::Put,
        Operation::Drop,
        Operation::Take,
        Operation::Pay,
        Operation::Pause,
        Operation::Beat,
        Operation::Trial,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Look => "look",
            Operation::Peek => "peek",
            Operation::Poll => "poll",
            Operation::Renew => "renew",
            Operation::Release => "release",
            Operation::Steal => "steal",
            Operation::Put => "put",
            Operation::Drop => "drop",
            Operation::Take => "take",
            Operation::Pay => "pay",
            Operation::Pause => "pause",
            Operation::Beat => "beat",
            Operation::Trial => "trial",
        }
    }

    /// What its script is put together from: several begin alike, and the binary has each text once.
    fn parts(self) -> &'static [&'static str] {
        const VALUES: &str = include_str!("values.lua");
        const BUCKET: &str = include_str!("bucket.lua");
        match self {
            Operation::Look => &[VALUES, include_str!("look.lua")],
            Operation::Peek => &[VALUES, include_str!("peek.lua")],
            Operation::Poll => &[VALUES, include_str!("poll.lua")],
            Operation::Renew => &[VALUES, include_str!("renew.lua")],
            Operation::Release => &[VALUES, include_str!("release.lua")],
            Operation::Steal => &[VALUES, include_str!("steal.lua")],
            Operation::Put => &[VALUES, include_str!("put.lua")],
            Operation::Drop => &[VALUES, include_str!("drop.lua")],
            Operation::Take => &[VALUES, BUCKET, include_str!("take.lua")],
            Operation::Pay => &[VALUES, BUCKET, include_str!("pay.lua")],
            Operation::Pause => &[include_str!("pause.lua")],
            Operation::Beat => &[VALUES, BUCKET, include_str!("beat.lua")],
            Operation::Trial => &[include_str!("trial.lua")],
        }
    }

    /// The script, and its name. Made once, as each question has it.
    fn made(self) -> (&'static str, &'static str) {
        static MADE: LazyLock<Vec<(Operation, String, String)>> = LazyLock::new(|| {
            let made = |operation: Operation| {
                let parts = operation.parts().concat();
                let text = format!("local function answer()\n{parts}end\nreturn {{ARGV[#ARGV], answer()}}\n");
                let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
                let hash = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                (operation, text, hash)
            };
            Operation::ALL.into_iter().map(made).collect()
        });
        let made = MADE.iter().find(|(operation, ..)| *operation == self);
        made.map_or(("", ""), |(_, text, hash)| (text, hash))
    }

    pub(super) fn script(self) -> &'static str {
        self.made().0
    }

    /// The name under which a tier knows the script once it has run.
    pub(super) fn hash(self) -> &'static str {
        self.made().1
    }
}

/// The commands that a script uses.
#[cfg(test)]
pub(super) fn commands_of(operation: Operation) -> std::collections::BTreeSet<&'static str> {
    operation.script().split("call('").skip(1).filter_map(|rest| Some(rest.split_once('\'')?.0)).collect()
}

/// The commands of one trip: of one request, or of several LOOKs. Each carries a number, which its answer repeats.
pub(super) struct Commands {
    operation: Operation,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Vec<u8>>,
}

impl Commands {
    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    /// Whether both may go in one trip.
    pub(super) fn goes_with(&self, next: &Commands) -> bool {
        let is_look = |commands: &Commands| commands.operation == Operation::Look;
        // A beacon, and two keys of each file.
        let has_room = self.keys.len() < 1 + 2 * PEEK;
        is_look(self) && is_look(next) && self.keys.first() == next.keys.first() && has_room
    }

    /// Asks both in one trip; the answer has a part for each, in this order (`parts`).
    pub(super) fn and(&mut self, next: Commands) {
        // The first key and the first argument are the same for all files.
        self.keys.extend(next.keys.into_iter().skip(1));
        self.arguments.extend(next.arguments.into_iter().skip(1));
    }

    /// By the script's name, which is short.
    pub(super) fn by_name(&self, number: u64) -> Cmd {
        self.command("EVALSHA", self.operation.hash(), number)
    }

    /// By the script's text, for a tier that does not know it yet.
    pub(super) fn by_text(&self, number: u64) -> Cmd {
        self.command("EVAL", self.operation.script(), number)
    }

    fn command(&self, name: &str, script: &str, number: u64) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys);
        for argument in &self.arguments {
            command.arg(argument.as_slice());
        }
        command.arg(number);
        command
    }
}

/// What was answered to the question of this number; `None` where it is another question's answer. Answers come in the
/// order of their questions, and a proxy or client that loses or doubles one would hand each caller another's.
pub(super) fn answer_to(number: u64, answer: Value) -> Option<Value> {
    let [repeated, answer] = <[Value; 2]>::try_from(array(answer)?).ok()?;
    (word(repeated)? == number.to_string()).then_some(answer)
}

/// The parts of an answer to `count` questions that went together, in their order; `None` where it has more or fewer.
pub(super) fn parts(operation: Operation, answer: Value, count: usize) -> Option<Vec<Value>> {
    let parts = if operation == Operation::Look { array(answer)? } else { vec![answer] };
    (parts.len() == count).then_some(parts)
}

impl<T> Request<T> {
    pub fn operation(&self) -> Operation {
        self.operation
    }

    pub(super) fn commands(self) -> Commands {
        let Request { operation, keys, arguments, read: _ } = self;
        Commands { operation, keys, arguments }
    }
}

impl<T> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({})", self.operation.as_str())
    }
}

impl Newer {
    fn text(self) -> Vec<u8> {
        text(&match self {
            // What is no sealed value counts as minted at 0.
            Newer::Any => "-1".to_owned(),
            Newer::Than(minted_at) => seal::millis(minted_at).to_string(),
            // No value has room for so much.
            Newer::Never => i64::MAX.to_string(),
        })
    }
}

impl Request<Look> {
    /// LOOK: the file's value, if one is there that will do; else who mints it. With a holder, a file that nobody mints
    /// is leased to it.
    pub fn look(file: &FileNames, fleet: &FleetNames, holder: Option<&Holder>, newer: Newer) -> Request<Look> {
        Request {
            operation: Operation::Look,
            keys: vec![fleet.beacon.clone(), file.link.clone(), file.lease.clone()],
            arguments: vec![millis(LEASE), text(holder.map_or("", Holder::as_str)), newer.text()],
            read: |value| {
                let mut answer = array(value)?.into_iter();
                let look = match word(answer.next()?)?.as_str() {
                    "hit" => Look::Hit { sealed: bytes(answer.next()?)?, beacon: optional(answer.next()?)? },
                    "failed" => Look::Failed { sealed: bytes(answer.next()?)? },
                    "wait" => Look::Wait {
                        left: duration(answer.next()?)?.min(2 * LEASE),
                        holder: Holder::heard(word(answer.next()?)?),
                    },
                    "free" => Look::Free,
                    "mine" => Look::Mine,
                    _ => return None,
                };
                answer.next().is_none().then_some(look)
            },
        }
    }
}

impl Request<Peek> {
    /// PEEK: the values of many files, of which at most `PEEK` are asked for at once.
    pub fn peek<'a>(files: impl IntoIterator<Item = &'a FileNames>, fleet: &FleetNames) -> Request<Peek> {
        let links = files.into_iter().map(|file| file.link.clone());
        Request {
            operation: Operation::Peek,
            keys: [fleet.beacon.clone()].into_iter().chain(links.take(PEEK)).collect(),
            arguments: Vec::new(),
            read: |value| {
                let mut found = array(value)?.into_iter().map(optional);
                Some(Peek { beacon: found.next()??, links: found.collect::<Option<_>>()? })
            },
        }
    }
}

impl Request<Vec<bool>> {
    /// POLL: of many mints of others, `PEEK` at most, which are over: a value is there that will do, or another lease or none.
    /// In the order asked. A lease that lasts too long counts as held; only LOOK tells.
    pub fn poll<'a>(files: impl IntoIterator<Item = (&'a FileNames, Newer, &'a Holder)>) -> Request<Vec<bool>> {
        let (mut keys, mut arguments) = (Vec::new(), Vec::new());
        for (file, newer, holder) in files.into_iter().take(PEEK) {
            keys.extend([file.link.clone(), file.lease.clone()]);
            arguments.extend([newer.text(), text(holder.as_str())]);
        }
        Request { operation: Operation::Poll, keys, arguments, read: flags }
    }

    /// RENEW: keeps leases for another `LEASE`. The answer tells, in the order asked, which are still the holder's.
    pub fn renew<'a>(leases: impl IntoIterator<Item = (&'a FileNames, &'a Holder)>) -> Request<Vec<bool>> {
        let (mut keys, mut arguments) = (Vec::new(), vec![millis(LEASE)]);
        for (file, holder) in leases {
            keys.push(file.lease.clone());
            arguments.push(text(holder.as_str()));
        }
        Request { operation: Operation::Renew, keys, arguments, read: flags }
    }
}

impl Request<bool> {
    /// RELEASE: lets a file go. `failure`, sealed for the lease's name, is told to those who waited for it. False where
    /// the lease was lost before.
    pub fn release(file: &FileNames, holder: &Holder, failure: Option<Vec<u8>>) -> Request<bool> {
        Request {
            operation: Operation::Release,
            keys: vec![file.lease.clone()],
            arguments: vec![text(holder.as_str()), failure.unwrap_or_default(), millis(FAILURE)],
            read: flag,
        }
    }

    /// STEAL: takes the lease from another holder. False where that one does not have it any more.
    pub fn steal(file: &FileNames, holder: &Holder, from: &Holder) -> Request<bool> {
        Request {
            operation: Operation::Steal,
            keys: vec![file.lease.clone()],
            arguments: vec![text(holder.as_str()), millis(LEASE), text(from.as_str())],
            read: flag,
        }
    }

    /// PAY: takes tokens that the bucket was not asked for: some until it is empty at most, and some also `beyond` that.
    pub fn pay(fleet: &FleetNames, quota: Quota, tokens: u32, beyond: u32, known: Level) -> Request<bool> {
        let [given, ahead] = known.arguments();
        Request {
            operation: Operation::Pay,
            keys: vec![fleet.bucket.clone()],
            arguments: vec![
                micros(quota.period),
                micros(quota.window()),
                text(&tokens.to_string()),
                text(&beyond.to_string()),
                given,
                ahead,
            ],
            read: flag,
        }
    }

    /// Whether scripts may write here, and all that they do.
    pub(super) fn trial(fleet: &FleetNames) -> Request<bool> {
        Request { operation: Operation::Trial, keys: vec![fleet.trial.clone()], arguments: Vec::new(), read: flag }
    }
}

impl Request<Put> {
    /// PUT: keeps a value that was sealed for the link's name, and ends the lease. It is collected after `life`, which
    /// is no judgement of it.
    pub fn put(file: &FileNames, holder: &Holder, sealed: Vec<u8>, life: Duration) -> Request<Put> {
        Request {
            operation: Operation::Put,
            keys: vec![file.link.clone(), file.lease.clone(), file.tombstone.clone()],
            arguments: vec![text(holder.as_str()), sealed, millis(life)],
            read: |value| match word(value)?.as_str() {
                "kept" => Some(Put::Kept),
                "older" => Some(Put::Older),
                "forgotten" => Some(Put::Forgotten),
                _ => None,
            },
        }
    }
}

impl Request<i64> {
    /// DROP: forgets a file everywhere. The answer is the number of this deletion.
    pub fn drop(file: &FileNames, fleet: &FleetNames) -> Request<i64> {
        Request {
            operation: Operation::Drop,
            keys: vec![
                file.link.clone(),
                file.lease.clone(),
                file.tombstone.clone(),
                fleet.deletions.clone(),
                fleet.sequence.clone(),
            ],
            arguments: vec![
                text(&file.id),
                millis(TOMBSTONE),
                text(&DELETIONS.to_string()),
                text(&fastrand::u64(..MOST_BEGUN).to_string()),
            ],
            read: integer,
        }
    }
}

impl Request<Taken> {
    /// TAKE: a token for one request to kie.ai, within `longest_wait`, which leaves `keep` tokens for others.
    pub fn take(fleet: &FleetNames, quota: Quota, longest_wait: Duration, keep: u32, known: Level) -> Request<Taken> {
        let longest_wait = longest_wait.min(LONGEST_WAIT);
        let [given, ahead] = known.arguments();
        Request {
            operation: Operation::Take,
            keys: vec![fleet.bucket.clone(), fleet.pause.clone()],
            arguments: vec![
                micros(quota.period),
                micros(quota.window()),
                micros(longest_wait),
                text(&keep.to_string()),
                given,
                ahead,
            ],
            read: |value| {
                let mut answer = array(value)?.into_iter();
                let (what, time) = (word(answer.next()?)?, duration(answer.next()?)?);
                let (take, bucket) = match what.as_str() {
                    "go" => (Take::Go { wait: time.min(LONGEST_WAIT) }, Some(level(answer.next()?)?)),
                    "full" => (Take::Full { retry_after: time.min(LONGEST_WAIT) }, None),
                    "paused" => (Take::Paused { left: time.min(LONGEST_PAUSE) }, None),
                    _ => return None,
                };
                answer.next().is_none().then_some(Taken { take, bucket })
            },
        }
    }
}

impl Request<Duration> {
    /// PAUSE of nothing: for how long kie.ai is still to be left alone.
    pub fn pause_left(fleet: &FleetNames) -> Request<Duration> {
        Request { arguments: vec![text("0")], ..Request::pause(fleet, Duration::ZERO) }
    }

    /// PAUSE: kie.ai has asked one replica for a pause, and means them all. The answer is the pause that holds.
    pub fn pause(fleet: &FleetNames, pause: Duration) -> Request<Duration> {
        Request {
            operation: Operation::Pause,
            keys: vec![fleet.pause.clone()],
            arguments: vec![millis(pause)],
            read: |value| Some(duration(value)?.min(LONGEST_PAUSE)),
        }
    }
}

/// What a replica says with its beat.
#[derive(Debug, Clone)]
pub struct Saying<'a> {
    pub replica: &'a Replica,
    /// Sealed for the name of the records.
    pub record: Vec<u8>,
    /// From the last beat; `None` at first: then all that is known is told, since this replica may have minted before.
    pub sequence: Option<i64>,
    /// Sealed for the beacon's name, where this replica knows what kie.ai's clock shows.
    pub beacon: Option<Vec<u8>>,
    /// It says goodbye.
    pub goodbye: bool,
    /// As it knows it.
    pub bucket: Level,
}

impl Request<Beat> {
    /// BEAT: this replica is alive; once a second.
    pub fn beat(fleet: &FleetNames, quota: Quota, saying: Saying<'_>) -> Request<Beat> {
        let Saying { replica, record, sequence, beacon, goodbye, bucket } = saying;
        let [given, ahead] = bucket.arguments();
        Request {
            operation: Operation::Beat,
            keys: vec![
                fleet.beats.clone(),
                fleet.members.clone(),
                fleet.deletions.clone(),
                fleet.sequence.clone(),
                fleet.pause.clone(),
                fleet.records.clone(),
                fleet.beacon.clone(),
                fleet.bucket.clone(),
            ],
            arguments: vec![
                text(replica.as_str()),
                record,
                text(&sequence.unwrap_or(0).to_string()),
                beacon.unwrap_or_default(),
                text(if goodbye { "1" } else { "0" }),
                micros(quota.window()),
                given,
                ahead,
            ],
            read: |value| {
                let [records, sequence, forgotten, missed, pause, beacon, bucket, present, remembered] =
                    <[Value; 9]>::try_from(array(value)?).ok()?;
                let count = |value| u32::try_from(integer(value)?).ok();
                let record = |value| {
                    let [replica, record] = <[Value; 2]>::try_from(array(value)?).ok()?;
                    Some((word(replica)?, optional(record)?))
                };
                // What is no name was put there by somebody else; the rest is as good as before.
                Some(Beat {
                    live: array(records)?.into_iter().filter_map(record).collect(),
                    sequence: integer(sequence).filter(|sequence| *sequence >= 0)?,
                    forgotten: array(forgotten)?.into_iter().filter_map(word).collect(),
                    missed: flag(missed)?,
                    pause: duration(pause)?.min(LONGEST_PAUSE),
                    beacon: optional(beacon)?,
                    bucket: level(bucket)?,
                    present: count(present)?,
                    remembered: count(remembered)?,
                })
            },
        }
    }
}

impl Level {
    fn arguments(self) -> [Vec<u8>; 2] {
        [text(&self.given.to_string()), micros(self.ahead)]
    }
}

fn level(value: Value) -> Option<Level> {
    let [ahead, given] = <[Value; 2]>::try_from(array(value)?).ok()?;
    let given: u64 = word(given)?.parse().ok()?;
    Some(Level { given: given.min(MOST_GIVEN), ahead: duration(ahead)? })
}

fn text(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn millis(duration: Duration) -> Vec<u8> {
    text(&duration.as_millis().max(1).to_string())
}

fn micros(duration: Duration) -> Vec<u8> {
    text(&duration.as_micros().to_string())
}

fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

fn optional(value: Value) -> Option<Option<Vec<u8>>> {
    match value {
        Value::Nil => Some(None),
        value => bytes(value).map(Some),
    }
}

fn word(value: Value) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

fn integer(value: Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(number),
        _ => None,
    }
}

fn flag(value: Value) -> Option<bool> {
    match integer(value)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn flags(value: Value) -> Option<Vec<bool>> {
    array(value)?.into_iter().map(flag).collect()
}

fn duration(value: Value) -> Option<Duration> {
    u64::try_from(integer(value)?).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests;
