//! What callers may send and what they are told.

mod callers;
mod credits;
mod description;
mod guard;
mod links;
mod outcomes;
mod problems;
mod requests;
mod routes;
mod sources;
mod tasks;

pub(crate) const COMPAT: &str = "/api/v1/common/download-url";
pub(crate) const COMPAT_4O: &str = "/api/v1/gpt4o-image/download-url";
