//! The credits that are left: one call of kie.ai's besides the mint. It costs nothing, shows whether the key is taken, and
//! takes a token of the gate's after everybody who waits for a link.

use std::{fmt, future::Future, hash::BuildHasher as _, pin::Pin};

use serde_json::Number;

use super::{
    Ask, CREDIT, Error, Inner, Kie, Party, Patience, Reason, Refused, Verdict, Wanted, gate::Priority, refused,
};

pub type CreditsFuture<'a> = Pin<Box<dyn Future<Output = Result<Amount, Error>> + Send + 'a>>;

/// An amount of credits, in kie.ai's own digits.
#[derive(Debug, Clone, PartialEq)]
pub struct Amount(Number);

impl Amount {
    pub fn as_f64(&self) -> f64 {
        self.0.as_f64().unwrap_or_default()
    }

    /// As another replica wrote it.
    pub fn read(text: &str) -> Option<Amount> {
        text.parse().ok().map(Amount)
    }
}

impl From<Number> for Amount {
    fn from(number: Number) -> Amount {
        Amount(number)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Each key is refused but once, and costs one call (`retry`).
const MOST_KEYS: u32 = 6;

impl Kie {
    /// Asks once, if the rules let it pass at once. A 429 pauses nobody else: it is the caller's affair.
    ///
    /// # Errors
    /// Why the credits are not known: our own rules, or kie.ai's answer.
    pub async fn credits(&self) -> Result<Amount, Error> {
        let mut left = MOST_KEYS;
        loop {
            match self.0.credits().await {
                Err(Error::KeyReplaced(_)) if left > 0 => left -= 1,
                Err(Error::KeyReplaced(answer)) => return Err(Error::KeyRefused(answer)),
                result => return result,
            }
        }
    }
}

impl Inner {
    async fn credits(&self) -> Result<Amount, Error> {
        let party = Party { request: fastrand::u64(..), ..Party::default() };
        let key = self.wire.key_version();
        let wanted = Wanted {
            priority: Priority::Aside,
            party,
            file: self.file_hash.hash_one(CREDIT),
            seen_to_fail: false,
            key,
        };
        let patience = Patience::until(self.clock.now() + self.attempt_timeout, party);
        let permit = self.gate.pass(wanted, &patience).await.map_err(refused)?;
        if let Some(quota) = &self.quota {
            match quota.take(&Ask::without_a_file(Reason::Refresh, party, patience)).await {
                Ok(()) => {}
                Err(Refused::Full(retry_after)) => return Err(Error::NoBudget { retry_after }),
                Err(Refused::Paused(left)) => {
                    self.gate.pause(left);
                    return Err(Error::Paused { retry_after: left });
                }
            }
        }
        let result = self.wire.credits(self.attempt_timeout).await;
        self.saw_aside(result.as_ref().err(), key);
        // Mints find out for themselves how kie.ai is to them, or whoever asks for credits could stop them.
        permit.report(if result.is_ok() { Verdict::KeyTaken } else { Verdict::Unknown });
        result
    }
}
