//! The one integration binary. What belongs where is said at the head of each module.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "the support offers more than today's tests use")]

mod admin;
mod batch;
mod cache;
mod fleet;
mod interface;
mod kie_answers;
mod pressure;
mod process;
mod rotation;
mod support;
mod watching;
