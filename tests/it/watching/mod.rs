//! What operators see: metrics, status, traces, and that all of them tell the same story.

mod alike;
mod collector;
mod page;
mod traces;
