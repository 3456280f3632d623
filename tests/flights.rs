//! The flight table under every interleaving that a random and a PCT scheduler find: joining, leaving, landing,
//! being lost. The source itself is included, with the explorer's lock in the place of the standard one.
//!
//! A failure prints its schedule; `shuttle::replay` runs that one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use shuttle::{
    future::block_on,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use self::flight::{Flights, Role};

#[allow(dead_code, reason = "the product uses all of it, this test what it explores")]
#[path = "../src/links/flight.rs"]
mod flight;

/// What `flight` calls its lock.
mod sync {
    pub(super) use shuttle::sync::Mutex;
}

const RANDOM: usize = 4000;
const PCT: usize = 4000;
/// Bugs that need at most this many ill-timed switches are found with a known probability.
const SWITCHES: usize = 3;

/// How a flight ends.
#[derive(Clone, Copy)]
enum End {
    Land,
    /// Its task is cancelled or panics: either way the lead is dropped. Unwinding itself cannot be explored: all
    /// threads are one to the standard library, so one's panic would poison the locks that others hold.
    Lost,
}

/// What happens in one schedule, over all its callers.
struct World {
    flights: Flights<&'static str, usize, ()>,
    /// Leads in the air, by file.
    in_the_air: [AtomicUsize; 2],
    led: AtomicUsize,
    /// The cache: what a newcomer finds without joining.
    landed: [Mutex<Option<usize>>; 2],
}

const FILES: [&str; 2] = ["a", "b"];

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            flights: Flights::new(),
            in_the_air: Default::default(),
            led: AtomicUsize::new(0),
            landed: Default::default(),
        })
    }

    /// Joins; mints where it leads. Returns what the waiter got, unless it leaves before.
    fn caller(&self, file: usize, end: End, leaves: bool) -> Option<Option<usize>> {
        let (waiter, lead) = match self.flights.join(&FILES[file], &()) {
            Role::Lead(lead) => (lead.waiter(), Some(lead)),
            Role::Join(waiter, ()) => (waiter, None),
        };
        let led = lead.is_some();
        let mut expected = None;
        if let Some(lead) = lead {
            let before = self.in_the_air[file].fetch_add(1, Ordering::SeqCst);
            assert_eq!(before, 0, "two flights for one file");
            let number = self.led.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            // In the air no longer, since the next may lead as soon as the table entry goes.
            let over = || self.in_the_air[file].fetch_sub(1, Ordering::SeqCst);
            match end {
                End::Land => {
                    expected = Some(number);
                    *self.landed[file].lock().unwrap() = Some(number);
                    over();
                    lead.land(number);
                }
                End::Lost => {
                    over();
                    drop(lead);
                }
            }
        }
        if leaves {
            return None;
        }
        // Whoever waits for ever is a deadlock, which the explorer reports.
        let got = block_on(waiter.wait());
        if led {
            assert_eq!(got, expected, "the one who leads gets what it landed");
        }
        if let Some(number) = got {
            // In the cache first, landed second.
            let cached = self.landed[file].lock().unwrap().expect("what landed is in the cache");
            assert!(cached >= number, "a result older than the cache's");
        }
        Some(got)
    }

    fn end(&self) {
        assert_eq!(self.flights.len(), 0, "the table is empty at the end");
        assert!(self.in_the_air.iter().all(|leads| leads.load(Ordering::SeqCst) == 0));
    }
}

fn explore(schedule: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(schedule.clone(), RANDOM);
    shuttle::check_pct(schedule, PCT, SWITCHES);
}

/// Runs these callers at once, and tells what those got who stayed.
fn callers(world: &Arc<World>, each: &[(usize, End, bool)]) -> Vec<Option<usize>> {
    let run = |&(file, end, leaves): &(usize, End, bool)| {
        let world = Arc::clone(world);
        thread::spawn(move || world.caller(file, end, leaves))
    };
    let callers: Vec<_> = each.iter().map(run).collect();
    callers.into_iter().filter_map(|caller| caller.join().unwrap()).collect()
}

#[test]
fn everybody_gets_a_result_of_a_flight_that_lands() {
    explore(|| {
        let world = World::new();
        let got = callers(&world, &[(0, End::Land, false); 4]);
        let led = world.led.load(Ordering::SeqCst);
        assert!(got.iter().all(|got| got.is_some_and(|number| number < led)), "{got:?}");
        world.end();
    });
}

#[test]
fn a_flight_that_is_lost_frees_its_callers_and_the_next_leads() {
    explore(|| {
        let world = World::new();
        let got = callers(&world, &[(0, End::Lost, false), (0, End::Land, false), (0, End::Land, false)]);
        // Only those who sat in a lost one get nothing: at most all three, where the one that is lost led first.
        assert_eq!(got.len(), 3);
        world.end();
        assert!(matches!(world.flights.join(&FILES[0], &()), Role::Lead(_)));
        world.end();
    });
}

#[test]
fn a_caller_who_leaves_disturbs_nobody() {
    explore(|| {
        let world = World::new();
        let got = callers(&world, &[(0, End::Land, true), (0, End::Land, false), (0, End::Land, true)]);
        assert!(got.iter().all(Option::is_some), "{got:?}");
        assert_eq!(got.len(), 1);
        world.end();
    });
}

#[test]
fn files_do_not_touch_each_other() {
    explore(|| {
        let world = World::new();
        let got = callers(
            &world,
            &[(0, End::Lost, false), (1, End::Land, false), (0, End::Lost, true), (1, End::Land, false)],
        );
        assert!(got.iter().filter(|got| got.is_some()).count() >= 2, "{got:?}");
        world.end();
    });
}

#[test]
fn a_flight_goes_on_in_a_task_of_its_own_while_callers_come_and_go() {
    explore(|| {
        let world = World::new();
        let Role::Lead(lead) = world.flights.join(&FILES[0], &()) else { panic!("the table was empty") };
        let first = lead.waiter();
        let pilot = thread::spawn(move || {
            thread::yield_now();
            lead.land(7);
        });
        let joins = |leaves: bool| {
            let world = Arc::clone(&world);
            thread::spawn(move || match world.flights.join(&FILES[0], &()) {
                Role::Join(waiter, ()) if leaves => drop(waiter),
                Role::Join(waiter, ()) => assert_eq!(block_on(waiter.wait()), Some(7)),
                // It came after the landing.
                Role::Lead(lead) => lead.land(7),
            })
        };
        let others = [joins(false), joins(true), joins(false)];
        // Cancelled in the middle of its wait.
        let waits = thread::spawn(move || {
            block_on(async {
                let mut wait = std::pin::pin!(first.wait());
                let once = std::future::poll_fn(|context| std::task::Poll::Ready(wait.as_mut().poll(context)));
                if let std::task::Poll::Ready(got) = once.await {
                    assert_eq!(got, Some(7));
                }
            });
        });
        for thread in others.into_iter().chain([pilot, waits]) {
            thread.join().unwrap();
        }
        world.end();
    });
}
