//! The fake is what other tests believe, so it has tests of its own.

mod answers;
mod behaviour;
mod client;

const SOURCE: &str = "https://tempfile.aiquickdraw.com/r/1.png";
