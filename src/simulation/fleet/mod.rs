//! Random schedules of everything that can happen to a fleet and its tier: replicas that are killed, paused, cut off, with
//! clocks that are hours off, that step and drift; a tier whose calls are lost, late, or done without an answer, that goes
//! and comes, forgets, fails over without its last writes, and whose clock is set; a kie.ai that is slow, limits and fails.
//! After every step the promises are checked:
//!
//! - P1: as for one kielink (a replica that was paused unseen is excused for as much of the pause as no sign has shown it);
//! - P2: one replica has one request for a file on its way; so has the whole fleet, while all see the tier, and one more
//!   for each lease that was lost since;
//! - P3: kie.ai never sees more than the budget, whether all see the tier, or none does, or each finds it again in turn;
//!   besides what the tier has given within the last second when it loses its memory, and, for an outage, as much and
//!   two seconds' rate;
//! - a forgotten file's link is handed out by no replica a second and a half later;
//! - every caller gets exactly one answer, within its deadline;
//! - whoever has a link where there is no tier has one where there is, whatever the tier does;
//! - and whatever has happened, links flow again two minutes after all is well.
//!
//! What runs is the real `Links`, `Fleet`, `Tier` with its connection, and `upstream::Kie`. Models are the wire to kie.ai,
//! and the tier (`shared::model`), which a test compares with a real server.

mod kie;
mod oracle;
mod replica;
mod schedule;
mod world;

use self::oracle::Totals;
use super::{Events, run_part};

/// Of these, a schedule costs twenty times what one of a single kielink does.
const SCHEDULES: u64 = 400;

impl Events for Totals {
    fn add(&mut self, other: &Totals) {
        self.add(other);
    }

    fn assert_eventful(&self, schedules: u64) {
        self.assert_eventful(schedules);
    }
}

#[test]
fn a_fleet_keeps_the_promises_part_1() {
    run_part(0, SCHEDULES, schedule::run);
}

#[test]
fn a_fleet_keeps_the_promises_part_2() {
    run_part(1, SCHEDULES, schedule::run);
}

#[test]
fn a_fleet_keeps_the_promises_part_3() {
    run_part(2, SCHEDULES, schedule::run);
}

#[test]
fn a_fleet_keeps_the_promises_part_4() {
    run_part(3, SCHEDULES, schedule::run);
}
