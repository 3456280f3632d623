pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod key;
pub mod link;
pub mod links;
pub mod sandbox;
pub mod server;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod telemetry;
pub mod upstream;
