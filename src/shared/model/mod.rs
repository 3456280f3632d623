//! A tier for simulations, on the other end of a replica's connection: speaks Redis' protocol, has a clock of its own,
//! and fails in the ways that networks and servers do.

mod memory;

use std::{
    collections::{HashMap, HashSet},
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;
use redis::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::memory::Memory;
use super::{Address, Operation};

/// What the tier does with those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Answers,
    /// Nobody gets a connection.
    Away,
    /// Nothing is answered, and what was asked is done later.
    Silent,
    /// It was demoted.
    ReadOnly,
}

pub(crate) struct Model {
    /// Milliseconds by the tier's clock.
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
    state: Mutex<State>,
    manner: watch::Sender<Manner>,
}

struct State {
    rng: Rng,
    memory: Memory,
    /// What the replica of this tier has: a moment old.
    copy: Memory,
    /// The scripts that it knows by name.
    scripts: HashMap<&'static str, Operation>,
    latency: Duration,
    /// The share of calls that go wrong.
    trouble: f64,
    connections: Vec<(usize, CancellationToken)>,
    /// Those who do not get through.
    cut_off: HashSet<usize>,
    /// When leases ended otherwise than by their holders.
    lost: HashMap<String, Vec<i64>>,
    heard: Vec<(usize, Vec<u8>)>,
    /// The one in the last answer.
    beacon: Option<Vec<u8>>,
    faults: u64,
    calls: u64,
}

/// One replica's way to the tier.
pub(crate) struct Port {
    model: Arc<Model>,
    replica: usize,
}

/// What becomes of one call.
enum Fate {
    Prompt,
    LostBefore,
    LostAfter,
    LateBefore(Duration),
    LateAfter(Duration),
}

/// Milliseconds; less than what a caller spends on the tier.
const PROMPT: Range<i64> = 0..6;

impl Model {
    /// `clock` shows milliseconds.
    pub(crate) fn new(seed: u64, clock: impl Fn() -> i64 + Send + Sync + 'static) -> Arc<Model> {
        let state = State {
            rng: Rng::with_seed(seed),
            memory: Memory::default(),
            copy: Memory::default(),
            scripts: HashMap::new(),
            latency: Duration::from_micros(300),
            trouble: 0.0,
            connections: Vec::new(),
            cut_off: HashSet::new(),
            lost: HashMap::new(),
            heard: Vec::new(),
            beacon: None,
            faults: 0,
            calls: 0,
        };
        Arc::new(Model {
            clock: Box::new(clock),
            state: Mutex::new(state),
            manner: watch::Sender::new(Manner::Answers),
        })
    }

    /// Where this replica finds it.
    pub(crate) fn address(self: &Arc<Model>, replica: usize) -> Address {
        let mut address: Address = format!("redis://way-{replica}.example").parse().unwrap();
        address.stand_in = Some(Arc::new(Port { model: Arc::clone(self), replica }));
        address
    }

    pub(crate) fn is_slow(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    pub(crate) fn is_troubled(&self, trouble: f64) {
        self.lock().trouble = trouble;
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
        if manner == Manner::Away {
            self.lock().disconnect(|_| true);
        }
    }

    /// Whether this replica gets no connection.
    pub(crate) fn cut_off(&self, replica: usize, is_cut_off: bool) {
        let mut state = self.lock();
        if is_cut_off {
            state.cut_off.insert(replica);
            state.disconnect(|other| other == replica);
        } else {
            state.cut_off.remove(&replica);
        }
    }

    /// FLUSHALL.
    pub(crate) fn flush(&self) {
        self.lock().becomes(Memory::default(), (self.clock)());
    }

    /// It has forgotten the last writes.
    pub(crate) fn fall_back(&self) {
        let mut state = self.lock();
        let copy = state.copy.clone();
        state.becomes(copy, (self.clock)());
    }

    /// Its replica takes over, without the last writes.
    pub(crate) fn fail_over(&self) {
        self.fall_back();
        let mut state = self.lock();
        state.scripts.clear();
        state.disconnect(|_| true);
    }

    /// Its replica has caught up.
    pub(crate) fn replicate(&self) {
        let mut state = self.lock();
        state.copy = state.memory.clone();
    }

    /// How often a lease of this name ended otherwise than by its holder, in the last so many milliseconds.
    pub(crate) fn lost(&self, lease: &str, within: i64) -> usize {
        let now = (self.clock)();
        let mut state = self.lock();
        state.note_lost(now);
        state.lost.get(lease).map_or(0, |lost| lost.iter().filter(|at| **at > now - within).count())
    }

    /// The beacons that were told since this was last asked, and whom: milliseconds by kie.ai's clock.
    pub(crate) fn beacons(&self) -> Vec<(usize, i64)> {
        let heard = std::mem::take(&mut self.lock().heard);
        heard.into_iter().map(|(replica, beacon)| (replica, memory::time(&beacon))).collect()
    }

    /// In which time the fleet's bucket would be full.
    pub(crate) fn full_in(&self) -> Duration {
        let now = (self.clock)();
        self.lock().memory.full_in(now)
    }

    /// How many tokens it has given within a second or so: since then each replica has beaten.
    pub(crate) fn given_lately(&self) -> usize {
        let now = (self.clock)();
        self.lock().memory.given_since(now - 1100)
    }

    /// Calls so far, and those that went wrong.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.calls, state.faults)
    }

    async fn serve(self: Arc<Model>, replica: usize, mut stream: DuplexStream) -> io::Result<()> {
        let mut manner = self.manner.subscribe();
        let mut bytes = Vec::new();
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            let asked_at = (self.clock)();
            let latency = {
                let mut state = self.lock();
                let share = state.rng.f64();
                state.latency.mul_f64(share)
            };
            tokio::time::sleep(latency).await;
            while let Some(command) = command(&mut bytes) {
                let fate = self.lock().fate();
                if let Fate::LateBefore(late) = fate {
                    tokio::time::sleep(late).await;
                }
                let _ = manner.wait_for(|manner| *manner != Manner::Silent).await;
                if matches!(fate, Fate::LostBefore) {
                    return Ok(());
                }
                let (answer, beacon) = {
                    let mut state = self.lock();
                    let answer = state.answer(&command, (self.clock)(), *self.manner.borrow());
                    (answer, state.beacon.take())
                };
                match fate {
                    Fate::LostAfter => return Ok(()),
                    Fate::LateAfter(late) => tokio::time::sleep(late).await,
                    Fate::Prompt | Fate::LostBefore | Fate::LateBefore(_) => {}
                }
                let _ = manner.wait_for(|manner| *manner != Manner::Silent).await;
                stream.write_all(&answer).await?;
                // What comes later is thrown away where a caller has asked.
                if let Some(beacon) = beacon.filter(|_| PROMPT.contains(&((self.clock)() - asked_at))) {
                    self.lock().heard.push((replica, beacon));
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Port {
    pub(super) fn connect(&self) -> io::Result<DuplexStream> {
        let mut state = self.model.lock();
        if *self.model.manner.borrow() == Manner::Away || state.cut_off.contains(&self.replica) {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
        }
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let broken = CancellationToken::new();
        state.connections.push((self.replica, broken.clone()));
        let (model, replica) = (Arc::clone(&self.model), self.replica);
        TaskTracker::new().spawn(async move { broken.run_until_cancelled(model.serve(replica, theirs)).await });
        Ok(ours)
    }
}

impl State {
    fn disconnect(&mut self, is_meant: impl Fn(usize) -> bool) {
        self.connections.retain(|(replica, broken)| {
            if is_meant(*replica) {
                broken.cancel();
            }
            !broken.is_cancelled()
        });
    }

    fn becomes(&mut self, memory: Memory, now: i64) {
        self.note_lost(now);
        for lease in std::mem::replace(&mut self.memory, memory).held() {
            self.lost.entry(lease).or_default().push(now);
        }
    }

    fn note_lost(&mut self, now: i64) {
        for lease in self.memory.lost(now) {
            self.lost.entry(lease).or_default().push(now);
        }
    }

    fn fate(&mut self) -> Fate {
        self.calls += 1;
        if self.rng.f64() >= self.trouble {
            return Fate::Prompt;
        }
        self.faults += 1;
        // From what nobody notices to what nobody waits for.
        let late = Duration::from_millis(2).mul_f64(300f64.powf(self.rng.f64()));
        match self.rng.u8(..4) {
            0 => Fate::LostBefore,
            1 => Fate::LostAfter,
            2 => Fate::LateBefore(late),
            _ => Fate::LateAfter(late),
        }
    }

    fn answer(&mut self, command: &[Vec<u8>], now: i64, manner: Manner) -> Vec<u8> {
        let by_name = match &command[0][..] {
            b"ROLE" => return encoded(&Value::Array(vec![Value::BulkString(b"master".to_vec())])),
            b"EVALSHA" => true,
            b"EVAL" => false,
            _ => return b"-ERR unknown command\r\n".to_vec(),
        };
        let script = std::str::from_utf8(&command[1]).unwrap();
        let operation = if by_name {
            self.scripts.get(script).copied()
        } else {
            Operation::ALL.into_iter().find(|operation| operation.script() == script)
        };
        let Some(operation) = operation else {
            return b"-NOSCRIPT No matching script.\r\n".to_vec();
        };
        if manner == Manner::ReadOnly {
            return b"-READONLY You can't write against a read only replica.\r\n".to_vec();
        }
        if !by_name {
            self.scripts.insert(operation.hash(), operation);
        }
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        let count: usize = text(&command[2]).parse().unwrap();
        let keys: Vec<_> = command[3..3 + count].iter().map(text).collect();
        let (number, arguments) = command[3 + count..].split_last().unwrap();
        let answer = self.memory.answer(operation, &keys, arguments, now);
        self.note_lost(now);
        if let Some(Value::BulkString(beacon)) = beacon_in(operation, &answer) {
            self.beacon = Some(beacon.clone());
        }
        encoded(&Value::Array(vec![Value::BulkString(number.clone()), answer]))
    }
}

fn beacon_in(operation: Operation, answer: &Value) -> Option<&Value> {
    let Value::Array(parts) = answer else { return None };
    match operation {
        Operation::Look => parts.iter().find_map(|look| match look {
            Value::Array(look) => look.get(2).filter(|_| look[0] == Value::BulkString(b"hit".to_vec())),
            _ => None,
        }),
        Operation::Peek => parts.first(),
        Operation::Beat => parts.get(5),
        _ => None,
    }
}

/// Takes the first whole command out of what has come.
fn command(bytes: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    let line = |at: usize| {
        let end = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")? + at;
        let number = std::str::from_utf8(&bytes[at + 1..end]).unwrap().parse::<usize>().unwrap();
        Some((number, end + 2))
    };
    let (count, mut at) = line(0)?;
    let mut parts = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, begin) = line(at)?;
        parts.push(bytes.get(begin..begin + length)?.to_vec());
        at = begin + length + 2;
    }
    (at <= bytes.len()).then(|| drop(bytes.drain(..at)))?;
    Some(parts)
}

fn encoded(value: &Value) -> Vec<u8> {
    match value {
        Value::Nil => b"$-1\r\n".to_vec(),
        Value::Int(number) => format!(":{number}\r\n").into_bytes(),
        Value::BulkString(bytes) => [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
        Value::Array(values) => {
            let mut encoded = format!("*{}\r\n", values.len()).into_bytes();
            values.iter().for_each(|value| encoded.extend(self::encoded(value)));
            encoded
        }
        other => panic!("scripts answer nothing of the kind: {other:?}"),
    }
}

#[cfg(test)]
mod tests;
