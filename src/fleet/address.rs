//! The tier's address in a file. It is looked into again and again, so that a password can be replaced without a restart.

use std::{future, io, path::Path, time::Duration};

use secrecy::zeroize::Zeroizing;

use super::{Fleet, Inner};
use crate::{
    key::file,
    shared::{Address, Invalid},
};

/// As often as the file of the API key (`key`).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why there is no address in a file. Never says what stands in it, nor where it is: that may be the address in the wrong
/// place.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("the file cannot be read: {0}")]
    Io(io::Error),
    #[error("the file cannot be read in time: a pipe without a writer, or a mount that does not answer")]
    TooSlow,
    #[error("what it names is a folder, or a file too large for an address")]
    NoFile,
    #[error("what the file holds is no address: {0}")]
    Invalid(#[from] Invalid),
}

impl Fleet {
    /// The address in a file, for the start, which does not wait for a pipe or a dead mount. Blocks.
    ///
    /// # Errors
    /// When there is none, or not in time.
    pub fn read_address(path: &Path) -> Result<Address, Unreadable> {
        address_in(file::read_text_in_time(path, file::START_PATIENCE))
    }
}

fn address_in(text: Result<Zeroizing<String>, file::Unreadable>) -> Result<Address, Unreadable> {
    let text = text.map_err(|why| match why {
        file::Unreadable::Io { error, .. } => Unreadable::Io(error),
        file::Unreadable::TooSlow => Unreadable::TooSlow,
        _ => Unreadable::NoFile,
    })?;
    Ok(text.trim_end_matches(['\n', '\r']).parse()?)
}

impl Inner {
    /// For ever, whether or not there is a file.
    pub(super) async fn watch_address(&self) {
        let Some(path) = self.config.address_file.clone() else { return future::pending().await };
        let mut is_known_bad = false;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let path = path.clone();
            // One at a time, which may hang on a dead mount.
            let Ok(text) = tokio::task::spawn_blocking(move || file::read_text(&path)).await else { continue };
            match address_in(text) {
                Ok(address) => {
                    is_known_bad = false;
                    self.move_to(address);
                }
                Err(why) if !std::mem::replace(&mut is_known_bad, true) => {
                    tracing::warn!(%why, "shared.url_file has no address; the one that it had is kept");
                }
                Err(_) => {}
            }
        }
    }

    /// Connects to the tier anew where its address is another one. What is asked just now is done without it.
    pub(super) fn move_to(&self, address: Address) {
        {
            let mut known = self.address();
            if *known == address {
                return;
            }
            *known = address;
        }
        tracing::info!("shared.url_file has another address; the shared tier is connected anew");
        for realm in self.realms() {
            realm.reconnect(self.connect(&realm.names, Some(&realm.tier())));
        }
    }
}
