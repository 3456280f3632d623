//! What every integration test stands on: a real kielink in front of a real fake of kie.ai, both on 127.0.0.1:0.

pub(crate) mod eventually;
pub(crate) mod fake_kie;
pub(crate) mod sidecar;

pub(crate) use self::{
    eventually::eventually,
    fake_kie::{Answer, FakeKie},
    sidecar::{KEY, Reply, SOURCE, Sidecar, encode},
};
