//! The account: while kie.ai refuses all of it (the key, its credits, maintenance), nobody asks but one probe now and
//! then. Pure.

use std::time::Duration;

use super::{Concern, FileId};
use crate::{
    clock::Instant,
    upstream::error::{AccountTrouble, Error},
};

/// Between two probes: doubled each time, so that an account that is mended by hand is soon found mended, and one that
/// is not is hardly asked.
const FIRST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Whether the account serves, as far as the last answers tell.
#[derive(Debug, Default)]
pub(super) struct Account {
    refused: Option<Refused>,
    /// One file heard what may concern the account: a second one that hears the same decides it.
    suspicion: Option<(AccountTrouble, FileId)>,
}

#[derive(Debug)]
struct Refused {
    /// Probes that were refused again.
    probes: u32,
    since: Instant,
    until: Instant,
    probing: bool,
    /// What kie.ai said.
    error: Error,
    /// The key that it was said to, by its version.
    key: u64,
}

/// Whether a request may go, as far as the account is concerned.
#[derive(Debug, Clone)]
pub(super) enum Admission {
    Go,
    /// As the one that finds out whether it still holds.
    Probe,
    /// Not before this, and why.
    Told(Error, Instant),
}

impl Account {
    /// `key` is the version of the key that the request would carry: what kie.ai said to another one says nothing of it.
    pub(super) fn admission(&self, key: u64, now: Instant) -> Admission {
        match &self.refused {
            Some(refused) if refused.key == key => match refused.probing || now < refused.until {
                true => Admission::Told(refused.error.clone(), refused.until.max(now)),
                false => Admission::Probe,
            },
            Some(_) | None => Admission::Go,
        }
    }

    /// The probe sets out.
    pub(super) fn probing(&mut self) {
        if let Some(refused) = &mut self.refused {
            refused.probing = true;
        }
    }

    /// kie.ai has said `error` to a request. True when that began a pause.
    pub(super) fn heard(&mut self, error: &Error, concern: Concern, now: Instant) -> bool {
        let Some((trouble, by_code)) = error.account_trouble() else { return false };
        if !by_code {
            let is_second = self.suspicion.is_some_and(|(seen, file)| seen == trouble && file != concern.file);
            if !is_second {
                // The first to hear it stands for all that hear it.
                if self.suspicion.is_none_or(|(seen, _)| seen != trouble) {
                    self.suspicion = Some((trouble, concern.file));
                }
                // Or the probe has: whatever holds, holds on.
                if !(concern.account_probe && self.refused.is_some()) {
                    return false;
                }
            }
        }
        let probes = match &self.refused {
            // Sent before it was known: it tells nothing new.
            Some(refused) if refused.key == concern.key && concern.sent_at < refused.since => return false,
            Some(refused) if refused.key == concern.key => refused.probes + u32::from(concern.account_probe),
            Some(_) | None => 0,
        };
        let delay = FIRST_DELAY.saturating_mul(1 << probes.min(8)).min(LONGEST_DELAY);
        let until = now + error.retry_after().unwrap_or_default().max(delay);
        let begins = self.refused.is_none();
        let since = now;
        self.refused = Some(Refused { probes, since, until, probing: false, error: error.clone(), key: concern.key });
        begins
    }

    /// kie.ai made a link, or refused a file for its own sake. True when that ended a pause.
    pub(super) fn well(&mut self, sent_at: Instant) -> bool {
        // Sent before the pause began, it tells nothing about now.
        if self.refused.as_ref().is_some_and(|refused| sent_at < refused.since) {
            return false;
        }
        self.suspicion = None;
        self.refused.take().is_some()
    }

    /// The probe came to no end, or heard something else: another may try.
    pub(super) fn probe_lost(&mut self) {
        if let Some(refused) = &mut self.refused {
            refused.probing = false;
        }
    }

    /// What is refused, if anything is.
    pub(super) fn trouble(&self) -> Option<AccountTrouble> {
        self.refused.as_ref()?.error.account_trouble().map(|(trouble, _)| trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::error::Answer;

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(seconds))
    }

    fn key_refused(code: Option<i64>) -> Error {
        Error::KeyRefused(Answer { http_status: 401, code, message: None })
    }

    fn unavailable(seconds: u64) -> Error {
        let answer = Answer { http_status: 503, code: None, message: None };
        Error::Unavailable { answer, retry_after: Duration::from_secs(seconds) }
    }

    fn concern(file: u64, sent_at: u64) -> Concern {
        Concern { file, key: 1, sent_at: at(sent_at), account_probe: false }
    }

    fn probe(file: u64, sent_at: u64) -> Concern {
        Concern { account_probe: true, ..concern(file, sent_at) }
    }

    /// `None` where a request may go, else the seconds until when it may not.
    fn told(account: &Account, now: u64) -> Option<u64> {
        match account.admission(1, at(now)) {
            Admission::Told(_, until) => Some(at(now).until(until).as_secs()),
            Admission::Go | Admission::Probe => None,
        }
    }

    #[test]
    fn what_kie_ai_says_by_its_code_holds_at_once_and_is_probed_less_and_less() {
        let mut account = Account::default();
        let mut now = 100;
        assert!(account.heard(&key_refused(Some(401)), concern(1, now), at(now)));
        for delay in [5, 10, 20, 40, 60, 60] {
            assert_eq!(told(&account, now), Some(delay));
            assert_eq!(told(&account, now + delay - 1), Some(1));
            now += delay;
            assert!(matches!(account.admission(1, at(now)), Admission::Probe));
            account.probing();
            assert_eq!(told(&account, now), Some(0), "one at a time");
            assert!(!account.heard(&key_refused(Some(401)), probe(2, now), at(now)));
        }
        account.probing();
        assert!(account.well(at(now)));
        assert!(matches!(account.admission(1, at(now)), Admission::Go));
    }

    #[test]
    fn a_new_key_is_tried_at_once() {
        let mut account = Account::default();
        account.heard(&key_refused(Some(401)), concern(1, 100), at(100));
        assert!(matches!(account.admission(2, at(101)), Admission::Go));
        account.heard(&key_refused(Some(401)), Concern { key: 2, ..concern(1, 101) }, at(101));
        assert!(matches!(account.admission(2, at(101)), Admission::Told(..)));
    }

    #[test]
    fn what_a_gateway_says_counts_when_a_second_file_hears_it() {
        let mut account = Account::default();
        for _ in 0..5 {
            assert!(!account.heard(&key_refused(None), concern(1, 100), at(100)), "one file's WAF");
            assert_eq!(told(&account, 100), None);
        }
        assert!(!account.heard(&unavailable(9), concern(2, 100), at(100)), "another trouble");
        assert!(!account.well(at(100)));
        assert!(!account.heard(&unavailable(9), concern(3, 100), at(100)), "a good answer came between");
        assert!(account.heard(&unavailable(90), concern(4, 100), at(100)));
        assert_eq!(told(&account, 100), Some(90), "as long as it says");
        account.probing();
        account.heard(&unavailable(90), probe(4, 190), at(190));
        assert_eq!(told(&account, 190), Some(90), "the probe hears it again");
    }

    #[test]
    fn stragglers_neither_prolong_nor_end_it_and_a_lost_probe_lets_another_try() {
        let mut account = Account::default();
        account.heard(&key_refused(Some(401)), concern(1, 100), at(101));
        account.heard(&key_refused(Some(401)), concern(2, 100), at(103));
        assert_eq!(told(&account, 103), Some(3));
        assert!(!account.well(at(100)));
        assert_eq!(told(&account, 103), Some(3));
        account.probing();
        account.probe_lost();
        assert!(matches!(account.admission(1, at(106)), Admission::Probe));
    }
}
