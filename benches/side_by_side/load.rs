//! Load on a server, and what it costs the server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use kielink::clock::Clock;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    client::{Ask, Connection},
    servers::{PAUSE, Server},
};

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Microseconds of CPU time of the server, for each answer.
    pub(crate) micros: f64,
    /// The share of the time in which the server was at work, all its threads together.
    pub(crate) busy: f64,
}

/// So long all ask before anything is measured: connections are opened, and memory and caches are filled.
pub(crate) const WARM_UP: Duration = Duration::from_millis(250);

/// Callers of a server, each with a connection, who ask while they are let, each again as soon as it is answered.
pub(crate) struct Load<'a> {
    server: &'a Server,
    callers: JoinSet<()>,
    asked: Arc<AtomicU64>,
    answers: Arc<AtomicU64>,
    may_ask: watch::Sender<bool>,
}

impl<'a> Load<'a> {
    /// Connected; nobody asks yet.
    pub(crate) async fn of(server: &'a Server, ask: &Ask, connections: usize) -> Load<'a> {
        let ask = Arc::new(ask.clone());
        let (asked, answers) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let misses = Arc::new(AtomicU64::new(ask.files));
        let may_ask = watch::Sender::new(false);
        let mut callers = JoinSet::new();
        for number in 0..connections as u64 {
            let (ask, asked, answers, misses) = (ask.clone(), asked.clone(), answers.clone(), misses.clone());
            let mut may_ask = may_ask.subscribe();
            let mut connection = Connection::to(server.address).await;
            callers.spawn(async move {
                let hit = ask.of_file(number % ask.files);
                let mut miss = hit.clone();
                for turn in number.. {
                    // An error: this is over.
                    if may_ask.wait_for(|may_ask| *may_ask).await.is_err() {
                        break;
                    }
                    let is_miss = ask.miss_every.is_some_and(|every| turn % every == 0);
                    let (request, says) = if is_miss {
                        ask.write_number(&mut miss, misses.fetch_add(1, Relaxed));
                        (&miss, "fwd=miss; stored")
                    } else {
                        (&hit, ask.says)
                    };
                    asked.fetch_add(1, Relaxed);
                    let answer = connection.ask(request).await;
                    assert!(ask.is_answered_with(&answer, says), "not {says}: {}", answer.text());
                    answers.fetch_add(1, Relaxed);
                }
            });
        }
        Load { server, callers, asked, answers, may_ask }
    }

    /// Lets them ask, and measures after `warm_up` for `length`. At its end all are answered, and nobody asks any more. A caller
    /// that was answered wrongly has panicked, and so does this.
    pub(crate) async fn cost(&mut self, warm_up: Duration, length: Duration) -> Cost {
        let clock = Clock::system();
        self.may_ask.send_replace(true);
        tokio::time::sleep(warm_up).await;
        let (began, cpu, already) = (clock.now(), self.server.cpu(), self.answers.load(Relaxed));
        tokio::time::sleep(length).await;
        let (took, cpu) = (clock.now().since(began), self.server.cpu().since(&cpu));
        let answers = self.answers.load(Relaxed) - already;
        self.may_ask.send_replace(false);
        while self.answers.load(Relaxed) < self.asked.load(Relaxed) {
            if let Some(ended) = self.callers.try_join_next() {
                ended.expect("it is answered rightly");
            }
            tokio::time::sleep(PAUSE).await;
        }
        Cost { micros: cpu.as_secs_f64() * 1e6 / answers as f64, busy: cpu.as_secs_f64() / took.as_secs_f64() }
    }

    pub(crate) async fn end(self) {
        drop(self.may_ask);
        self.callers.join_all().await;
    }
}
