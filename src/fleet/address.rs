//! The tier's address in a file. It is looked into again and again, so that a password can be replaced without a restart.

use std::{fs::File, future, io, io::Read as _, path::Path, time::Duration};

use super::{Fleet, Inner};
use crate::shared::{Address, Invalid};

/// As often as the file of the API key (`key`).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// At most this much of the file is read.
const LONGEST: u64 = 16 * 1024;

/// Why there is no address in a file. Never says what stands in it, nor where it is: that may be the address in the wrong
/// place.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("what the file holds is no address: {0}")]
    Invalid(#[from] Invalid),
}

impl Fleet {
    /// The address in a file; blocks.
    ///
    /// # Errors
    /// When there is none.
    pub fn read_address(path: &Path) -> Result<Address, Unreadable> {
        let mut text = String::new();
        File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
        Ok(text.trim_end_matches(['\n', '\r']).parse()?)
    }
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
            let Ok(read) = tokio::task::spawn_blocking(move || Fleet::read_address(&path)).await else { continue };
            match read {
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
    fn move_to(&self, address: Address) {
        {
            let mut known = self.address();
            if *known == address {
                return;
            }
            *known = address;
        }
        tracing::info!("shared.url_file has another address; the shared tier is connected anew");
        self.realms().iter().for_each(|realm| realm.stop.cancel());
        self.realms();
    }
}
