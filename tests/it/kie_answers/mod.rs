//! What kie.ai may answer, and what callers get for it.

mod asks;
mod bad;
mod lives;
mod retries;
