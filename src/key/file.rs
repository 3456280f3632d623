//! A key in a file, read with suspicion: whoever mounts it may get it wrong.

use std::{fs::File, io, io::Read as _, path::Path};

use secrecy::{ExposeSecret, SecretString};

use super::{ApiKey, Invalid};

/// A key file larger than this is not a key file.
const MAX_BYTES: u64 = 8 * 1024;

/// Why a file gives no key. Never says what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("cannot read {path}: {error}")]
    Io { path: String, error: io::Error },
    #[error("{0} is a directory")]
    Directory(String),
    #[error("{0} is larger than {MAX_BYTES} bytes")]
    TooLarge(String),
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Reads at most `MAX_BYTES`, whatever `path` is: a pipe or a device has no length before it is read, and perhaps no
/// end. Blocks.
///
/// # Errors
/// Whenever there is no valid key in it.
pub fn read(path: &Path) -> Result<ApiKey, Unreadable> {
    let shown = || path.display().to_string();
    let io = |error| Unreadable::Io { path: shown(), error };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return Err(Unreadable::Directory(shown()));
    }
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    let text = SecretString::from(text);
    read.map_err(io)?;
    if text.expose_secret().len() as u64 > MAX_BYTES {
        return Err(Unreadable::TooLarge(shown()));
    }
    Ok(ApiKey::new(text.expose_secret())?)
}
