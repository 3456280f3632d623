//! The binary itself: command line, exit codes, signals, probes, the sandbox.

mod check_key;
pub(crate) mod child;
mod command_line;
mod connections;
mod hostile;
mod inherited;
mod key_file;
mod logs;
mod probes;
mod sandbox;
mod settings;
mod shutdown;
mod systemd;
mod tls;
mod unread;
mod wire;
