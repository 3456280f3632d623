//! What it costs to record one hit: counter, latency histogram, life left, and the figures for people.
//!
//! `cargo bench --bench recording`

use std::{hint::black_box, time::Duration};

use criterion::Criterion;
use kielink::{
    links::Found,
    web::{
        metrics::{Answered, Endpoint, Label, Requests},
        outcome::Outcome,
    },
};

fn main() {
    let requests = Requests::default();
    let hit = Answered {
        endpoint: Endpoint::of(Some("/v1/link")),
        outcome: Label::Of(Outcome::Found(Found::Hit)),
        status: 200,
        took: Duration::from_micros(37),
        life_left: Some(Duration::from_secs(814)),
        trace_id: None,
    };
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("record a hit", |bencher| {
        bencher.iter(|| {
            let endpoint = Endpoint::of(black_box(Some("/v1/link")));
            requests.answered(black_box(&Answered { endpoint, ..hit }));
        });
    });
    criterion.final_summary();
}
