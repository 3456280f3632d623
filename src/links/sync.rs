//! The lock of the flight table, named here so that the interleaving tests can put their own in its place.

pub(super) use std::sync::Mutex;
