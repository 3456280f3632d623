//! What both interfaces share and neither owns: the layers around them, who may ask, ids, problems, probes, the table
//! of routes, and what is told of each request.

pub(crate) mod cache_status;
pub(crate) mod date;
pub(crate) mod edge;
pub(crate) mod guard;
pub(crate) mod headers;
mod latencies;
pub mod metrics;
pub mod outcome;
pub(crate) mod policy;
pub(crate) mod probes;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod record;
pub(crate) mod request_id;
pub mod route;
mod unserved;

pub use self::latencies::{Recent, Spread};
pub(crate) use self::unserved::refuse;
