use proptest::prelude::*;

use super::*;
use crate::shared::{Holder, Level, Names, Newer, Quota, Replica, Request, Saying, testing::Server};

/// What somebody does, or what happens.
#[derive(Debug, Clone)]
enum Step {
    Look {
        file: usize,
        holder: Option<usize>,
        newer: Option<i64>,
    },
    Peek,
    Poll {
        holder: usize,
        newer: Option<i64>,
    },
    Renew {
        file: usize,
        holder: usize,
    },
    Release {
        file: usize,
        holder: usize,
        has_failed: bool,
    },
    Steal {
        file: usize,
        holder: usize,
        from: usize,
    },
    Put {
        file: usize,
        holder: usize,
        minted_at: i64,
        life: u64,
    },
    Drop {
        file: usize,
    },
    Take {
        longest_wait: u64,
        keep: u32,
        bucket: Level,
    },
    Pay {
        tokens: u32,
        beyond: u32,
        bucket: Level,
    },
    Pause {
        millis: u64,
    },
    Beat {
        replica: usize,
        sequence: Option<i64>,
        beacon: Option<i64>,
        goodbye: bool,
        bucket: Level,
    },
    /// So many milliseconds pass by the tier's clock; less than none where it is set back.
    Pass(i64),
    Flush,
}

const FILES: usize = 2;
const HOLDERS: usize = 3;

/// What somebody knows of the bucket, right or wrong.
fn level() -> impl Strategy<Value = Level> {
    let ahead = prop::sample::select(vec![0, 1_500, 9_000, 70_000, 300_000]).prop_map(Duration::from_millis);
    (prop_oneof![3 => Just(0), 2 => 0..9u64, 1 => Just(2_000_000_000_000)], ahead)
        .prop_map(|(given, ahead)| Level { given, ahead })
}

fn step() -> impl Strategy<Value = Step> {
    let (file, holder) = (0..FILES, 0..HOLDERS);
    prop_oneof![
        6 => (file.clone(), prop::option::of(holder.clone()), prop::option::of(-2..8i64))
            .prop_map(|(file, holder, newer)| Step::Look { file, holder, newer }),
        1 => Just(Step::Peek),
        3 => (holder.clone(), prop::option::of(-2..8i64)).prop_map(|(holder, newer)| Step::Poll { holder, newer }),
        2 => (file.clone(), holder.clone()).prop_map(|(file, holder)| Step::Renew { file, holder }),
        3 => (file.clone(), holder.clone(), any::<bool>())
            .prop_map(|(file, holder, has_failed)| Step::Release { file, holder, has_failed }),
        2 => (file.clone(), holder.clone(), holder.clone())
            .prop_map(|(file, holder, from)| Step::Steal { file, holder, from }),
        4 => (file.clone(), holder.clone(), 0..8i64, prop::sample::select(vec![1_500, 70_000, 1_200_000]))
            .prop_map(|(file, holder, minted_at, life)| Step::Put { file, holder, minted_at, life }),
        2 => file.clone().prop_map(|file| Step::Drop { file }),
        6 => (prop::sample::select(vec![0, 700, 3_000, 60_000]), 0..4u32, level())
            .prop_map(|(longest_wait, keep, bucket)| Step::Take { longest_wait, keep, bucket }),
        1 => (0..9u32, 0..9u32, level()).prop_map(|(tokens, beyond, bucket)| Step::Pay { tokens, beyond, bucket }),
        1 => prop::sample::select(vec![0, 1_500, 30_000, 500_000]).prop_map(|millis| Step::Pause { millis }),
        4 => (holder, prop::option::of(0..9i64), prop::option::of(0..9i64), prop::bool::weighted(0.2), level()).prop_map(
            |(replica, sequence, beacon, goodbye, bucket)| Step::Beat { replica, sequence, beacon, goodbye, bucket }
        ),
        5 => prop::sample::select(vec![300, 1_100, 2_300, 11_000, 40_000, 3_700_000, -11_000, -8_000_000])
            .prop_map(Step::Pass),
        1 => Just(Step::Flush),
    ]
}

/// Replicas of one fleet, and what they ask.
struct Askers {
    names: Names,
    replicas: Vec<Replica>,
}

impl Askers {
    fn new() -> Askers {
        let names = Names::new(&crate::key::ApiKey::new("first-key").unwrap().fleet_secret());
        Askers { names, replicas: (0..HOLDERS).map(|_| Replica::random()).collect() }
    }

    fn holder(&self, number: usize) -> Holder {
        self.replicas[number].holder(7)
    }

    /// The script, its keys and its arguments.
    fn question(&self, step: &Step) -> Option<(Operation, Vec<String>, Vec<Vec<u8>>)> {
        fn parts<T>(request: Request<T>) -> Option<(Operation, Vec<String>, Vec<Vec<u8>>)> {
            Some((request.operation, request.keys, request.arguments))
        }
        let at = |second: i64| jiff::Timestamp::from_second(1_780_000_000 + second).unwrap();
        let sealed = |second: i64| format!("1L{}text", crate::shared::seal::time(at(second))).into_bytes();
        let file = |number: &usize| self.names.file(&number.to_string());
        let quota = Quota { period: Duration::from_micros(400_900), burst: 5.try_into().unwrap() };
        let fleet = self.names.fleet();
        let than = |newer: &Option<i64>| match newer {
            None => Newer::Any,
            Some(-2..0) => Newer::Never,
            Some(second) => Newer::Than(at(*second)),
        };
        match step {
            Step::Look { file: number, holder, newer } => {
                let holder = holder.map(|holder| self.holder(holder));
                let mut both = Request::look(&file(number), fleet, holder.as_ref(), than(newer)).commands();
                // Somebody else's: each file has a holder and a time of its own.
                both.and(Request::look(&file(&0), fleet, Some(&self.holder(0)), Newer::Any).commands());
                Some((both.operation(), both.keys, both.arguments))
            }
            Step::Poll { holder, newer } => {
                let holder = self.holder(*holder);
                parts(Request::poll([(&file(&0), than(newer), &holder), (&file(&1), than(newer), &holder)]))
            }
            Step::Peek => parts(Request::peek(&[file(&0), file(&1)], fleet)),
            Step::Renew { file: number, holder } => {
                parts(Request::renew([(&file(number), &self.holder(*holder)), (&file(&0), &self.holder(0))]))
            }
            Step::Release { file: number, holder, has_failed } => {
                parts(Request::release(&file(number), &self.holder(*holder), has_failed.then(|| sealed(0))))
            }
            Step::Steal { file: number, holder, from } => {
                parts(Request::steal(&file(number), &self.holder(*holder), &self.holder(*from)))
            }
            Step::Put { file: number, holder, minted_at, life } => {
                let life = Duration::from_millis(*life);
                parts(Request::put(&file(number), &self.holder(*holder), sealed(*minted_at), life))
            }
            Step::Drop { file: number } => {
                let mut request = Request::drop(&file(number), fleet);
                // Near what beats know, or far from it.
                let base: u64 = if *number == 0 { 0 } else { 1 << 40 };
                request.arguments[3] = base.to_string().into_bytes();
                parts(request)
            }
            Step::Take { longest_wait, keep, bucket } => {
                parts(Request::take(fleet, quota, Duration::from_millis(*longest_wait), *keep, *bucket))
            }
            Step::Pay { tokens, beyond, bucket } => parts(Request::pay(fleet, quota, *tokens, *beyond, *bucket)),
            Step::Pause { millis: 0 } => parts(Request::pause_left(fleet)),
            Step::Pause { millis } => parts(Request::pause(fleet, Duration::from_millis(*millis))),
            Step::Beat { replica, sequence, beacon, goodbye, bucket } => {
                let beacon = beacon.map(sealed);
                let (replica, record) = (&self.replicas[*replica], format!("record of {replica}").into_bytes());
                let (sequence, goodbye, bucket) = (*sequence, *goodbye, *bucket);
                let saying = Saying { replica, record, sequence, beacon, goodbye, bucket };
                parts(Request::beat(fleet, quota, saying))
            }
            Step::Pass(_) | Step::Flush => None,
        }
    }
}

/// Moves all that a server has by so much of its time: as if that had passed.
const PASS: &str = "
for _, key in ipairs(redis.call('KEYS', '*')) do
  redis.call('PEXPIRE', key, redis.call('PTTL', key) - ARGV[1])
end
return 1";

/// Whether both answer the same, but for some milliseconds of times.
fn agree(real: &Value, model: &Value, apart: i64) -> bool {
    match (real, model) {
        (Value::Array(real), Value::Array(model)) => match (&real[..], &model[..]) {
            // A word, and how long it holds.
            (
                [real_word @ Value::BulkString(_), Value::Int(real), real_rest @ ..],
                [word, Value::Int(model), rest @ ..],
            ) => {
                let is_like = real_word == word && real.abs_diff(*model) <= apart.unsigned_abs();
                is_like
                    && real_rest.len() == rest.len()
                    && real_rest.iter().zip(rest).all(|(real, model)| agree(real, model, apart))
            }
            // How the bucket is.
            ([Value::Int(real), real_given @ Value::BulkString(_)], [Value::Int(model), given]) => {
                real_given == given && real.abs_diff(*model) <= apart.unsigned_abs()
            }
            _ => real.len() == model.len() && real.iter().zip(model).all(|(real, model)| agree(real, model, apart)),
        },
        // Up to 4 it is a count or a yes or no, which both know exactly. What is more is a time, or the number of a forgotten
        // file in BEAT.
        (Value::Int(real), Value::Int(model)) if *real.max(model) > 4 => real.abs_diff(*model) <= apart.unsigned_abs(),
        (real, model) => real == model,
    }
}

/// The model answers as a real server does, whatever is asked, and whatever the server's clock does.
#[test]
fn the_model_answers_as_a_real_server_does() {
    let Some(server) = Server::start(&[]) else { return };
    let askers = Askers::new();
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).unwrap();
    let connection = std::cell::RefCell::new(client.get_connection().unwrap());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let steps = prop::collection::vec(step(), 1..60);
    let clock = crate::clock::Clock::system();
    let checked = runner.run(&steps, |steps| {
        let mut connection = connection.borrow_mut();
        redis::cmd("FLUSHALL").exec(&mut *connection).unwrap();
        let (mut memory, mut passed, began) = (Memory::default(), 0, clock.now());
        for step in &steps {
            match step {
                Step::Pass(millis) => {
                    passed += millis;
                    // What has had its time is gone for good.
                    memory.lost(100_000_000 + passed);
                    redis::cmd("EVAL").arg(PASS).arg(0).arg(*millis).exec(&mut *connection).unwrap();
                }
                Step::Flush => {
                    redis::cmd("FLUSHALL").exec(&mut *connection).unwrap();
                    memory = Memory::default();
                }
                _ => {}
            }
            let Some((operation, keys, arguments)) = askers.question(step) else { continue };
            let mut asked = redis::cmd("EVAL");
            asked.arg(operation.script()).arg(keys.len()).arg(&keys);
            arguments.iter().for_each(|argument| {
                asked.arg(argument.as_slice());
            });
            let (_, real): (Value, Value) = asked.arg(0).query(&mut *connection).unwrap();
            let apart = i64::try_from(began.until(clock.now()).as_millis()).unwrap() + 1;
            // A machine that stood still in between has let times pass that the model knows nothing of.
            prop_assume!(apart < 90);
            // What is decided in these very milliseconds may be decided either way.
            let answers = [0, apart].map(|late| {
                let mut memory = memory.clone();
                let answer = memory.answer(operation, &keys, &arguments, 100_000_000 + passed + late);
                (answer, memory)
            });
            let apart_at_most = if operation == Operation::Drop { 0 } else { 2 * apart };
            let right = answers.iter().find(|(answer, _)| agree(&real, answer, apart_at_most));
            prop_assert!(right.is_some(), "{:?}: {:?}, and the model {:?}", step, real, answers[0].0);
            memory = right.unwrap().1.clone();
        }
        Ok(())
    });
    checked.unwrap_or_else(|failure| panic!("{failure}"));
}
