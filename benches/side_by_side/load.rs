//! Load on a server, and what it costs the server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kielink::clock::Clock;
use tokio::task::JoinSet;

use crate::{
    client::{Ask, Connection},
    servers::Server,
};

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Microseconds of CPU time of the server, for each answer.
    pub(crate) micros: f64,
    /// The share of the time in which the server was at work, all its threads together.
    pub(crate) busy: f64,
}

/// Before this, connections are opened and memory is taken.
const WARM_UP: Duration = Duration::from_millis(250);

/// Asks over this many connections, each again as soon as it is answered.
pub(crate) async fn load(server: &Server, ask: &Ask, connections: usize, length: Duration) -> Cost {
    let clock = Clock::system();
    let ask = Arc::new(ask.clone());
    let answers = Arc::new(AtomicU64::new(0));
    let misses = Arc::new(AtomicU64::new(ask.files));
    let ends = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..connections as u64 {
        let (ask, answers, misses, ends) = (ask.clone(), answers.clone(), misses.clone(), ends.clone());
        let mut connection = Connection::to(server.address).await;
        callers.spawn(async move {
            let hit = ask.of_file(number % ask.files);
            let mut miss = hit.clone();
            for turn in number.. {
                if ends.load(Relaxed) {
                    break;
                }
                let is_miss = ask.miss_every.is_some_and(|every| turn % every == 0);
                let (request, says) = if is_miss {
                    ask.write_number(&mut miss, misses.fetch_add(1, Relaxed));
                    (&miss, "fwd=miss; stored")
                } else {
                    (&hit, ask.says)
                };
                let answer = connection.ask(request).await;
                assert!(ask.is_answered_with(&answer, says), "not {says}: {}", answer.text());
                answers.fetch_add(1, Relaxed);
            }
        });
    }
    tokio::time::sleep(WARM_UP).await;
    let (began, cpu, already) = (clock.now(), server.cpu(), answers.load(Relaxed));
    tokio::time::sleep(length).await;
    let (took, cpu, answers) = (clock.now().since(began), server.cpu().since(&cpu), answers.load(Relaxed) - already);
    ends.store(true, Relaxed);
    // A caller that was answered wrongly has panicked.
    callers.join_all().await;
    Cost { micros: cpu.as_secs_f64() * 1e6 / answers as f64, busy: cpu.as_secs_f64() / took.as_secs_f64() }
}
