//! What every integration test stands on: a real kielink in front of a real fake of kie.ai, both on 127.0.0.1:0.

mod description;
pub(crate) mod eventually;
pub(crate) mod fake_kie;
pub(crate) mod problem;
pub(crate) mod sidecar;
mod wire;

pub(crate) use self::{
    description::{assert_described, document},
    eventually::{eventually, within},
    fake_kie::{Answer, FakeKie},
    problem::Problem,
    sidecar::{KEY, Reply, SOURCE, Sidecar, encode},
};
