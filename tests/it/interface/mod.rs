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

pub(crate) const COMPAT: &str = "/api/v1/common/download-url";
