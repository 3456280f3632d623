//! The binary itself: command line, exit codes, signals, probes, the sandbox.
