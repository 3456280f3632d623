//! The account: while kie.ai refuses all of it (the key, its credits, maintenance), nobody asks but one probe now and
//! then. Pure.

use std::time::Duration;

use super::Concern;
use crate::{
    clock::Instant,
    upstream::{
        error::{AccountTrouble, Error},
        suspicion::Suspicion,
    },
};

/// The pause between two probes, doubled each time: an account that is mended by hand is soon found mended, and kie.ai
/// is hardly asked about an account that is not.
const FIRST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// The same for files that were never seen to fail, while the refusal is no more than a suspicion; up to a fifth of the
/// longest pause.
const OTHERS_DELAY: Duration = Duration::from_secs(1);

/// Whether the account serves, as far as the last answers tell.
#[derive(Debug, Default)]
pub(super) struct Account {
    refused: Option<Refused>,
    suspicion: Suspicion<AccountTrouble>,
}

#[derive(Debug)]
struct Refused {
    /// Whether kie.ai has refused the account by its own code. Otherwise two files were refused by a gateway, perhaps
    /// for their own sake: files that were never seen to fail go on, until one of them is refused, too.
    by_code: bool,
    /// How many such files were refused, and when the next one may ask.
    others: u32,
    others_at: Instant,
    /// Probes that were refused again.
    probes: u32,
    since: Instant,
    until: Instant,
    probing: bool,
    /// What kie.ai said.
    error: Error,
    /// The version of the key that kie.ai said it to.
    key: u64,
}

/// Whether a request may go, as far as the account is concerned.
#[derive(Debug, Clone)]
pub(super) enum Admission {
    Go,
    /// Go as the probe that finds out whether the refusal still holds.
    Probe,
    /// Not before this, and why.
    Told(Error, Instant),
}

impl Account {
    /// `key` is the version of the key that the request would carry: what kie.ai said to another key says nothing of
    /// this one.
    pub(super) fn admission(&self, key: u64, seen_to_fail: bool, now: Instant) -> Admission {
        match &self.refused {
            Some(refused) if refused.key == key && !refused.by_code && !seen_to_fail => match refused.others {
                0 => Admission::Go,
                _ if refused.probing || now < refused.others_at => {
                    Admission::Told(refused.error.clone(), refused.others_at.max(now))
                }
                _ => Admission::Probe,
            },
            Some(refused) if refused.key == key => match refused.probing || now < refused.until {
                true => Admission::Told(refused.error.clone(), refused.until.max(now)),
                false => Admission::Probe,
            },
            Some(_) | None => Admission::Go,
        }
    }

    /// The same for a request that mints nothing, and is nobody's probe: it waits as long as the account does.
    pub(super) fn admission_aside(&self, key: u64, now: Instant) -> Admission {
        let refused = self.refused.as_ref().filter(|refused| refused.key == key);
        match (refused, self.trouble()) {
            (Some(refused), Some(AccountTrouble::Key | AccountTrouble::Unavailable)) if now < refused.until => {
                Admission::Told(refused.error.clone(), refused.until)
            }
            // No credits, or a call that is disabled: this call may be served all the same.
            (Some(_) | None, _) => Admission::Go,
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
            let is_second = self.suspicion.is_shared(trouble, concern.file);
            // A known refusal needs no second file: its probe confirms it, and so does a file that was never seen to
            // fail.
            if !is_second && (self.refused.is_none() || (concern.seen_to_fail && !concern.account_probe)) {
                return false;
            }
        }
        let known = self.refused.as_ref().filter(|refused| refused.key == concern.key);
        // A request that was sent before the refusal was known tells nothing new.
        if known.is_some_and(|refused| concern.sent_at < refused.since) {
            return false;
        }
        let probes = known.map_or(0, |refused| refused.probes + u32::from(concern.account_probe));
        let is_other = known.is_some() && !concern.seen_to_fail;
        let others = known.map_or(0, |refused| refused.others + u32::from(is_other));
        let others_at = now + OTHERS_DELAY.saturating_mul(1 << others.saturating_sub(1).min(8)).min(LONGEST_DELAY / 5);
        let by_code = by_code || known.is_some_and(|refused| refused.by_code);
        let delay = FIRST_DELAY.saturating_mul(1 << probes.min(8)).min(LONGEST_DELAY);
        let until = now + error.retry_after().unwrap_or_default().max(delay);
        let begins = self.refused.is_none();
        let since = now;
        self.refused = Some(Refused {
            by_code,
            others,
            others_at,
            probes,
            since,
            until,
            probing: false,
            error: error.clone(),
            key: concern.key,
        });
        begins
    }

    /// kie.ai made a link, or refused a file for its own sake. True when that ended a pause.
    pub(super) fn well(&mut self, sent_at: Instant) -> bool {
        // A request that was sent before the pause began tells nothing about now.
        if self.refused.as_ref().is_some_and(|refused| sent_at < refused.since) {
            return false;
        }
        self.suspicion = Suspicion::default();
        self.refused.take().is_some()
    }

    /// kie.ai took the key, and says nothing of mints. True when that ended a pause.
    pub(super) fn key_taken(&mut self, sent_at: Instant) -> bool {
        self.trouble() == Some(AccountTrouble::Key) && self.well(sent_at)
    }

    /// Whether the key of this version is refused.
    pub(super) fn refuses_key(&self, key: u64) -> bool {
        self.trouble() == Some(AccountTrouble::Key) && self.refused.as_ref().is_some_and(|refused| refused.key == key)
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

    #[test]
    fn a_call_that_mints_nothing_finds_out_whether_the_key_is_taken_and_nothing_else() {
        let answer = |code| Answer { http_status: 200, code: Some(code), message: None };
        let maintenance = Error::Maintenance { answer: answer(455), retry_after: None };
        for (error, now, after) in [
            // What is refused; what the call hears at once, and when the pause is over.
            (key_refused(Some(401)), "told", "go"),
            (maintenance, "told", "go"),
            (Error::CreditsExhausted(answer(402)), "go", "go"),
            (Error::Failed(answer(505)), "go", "go"),
        ] {
            let mut account = Account::default();
            let of = |account: &Account, at: Instant| match account.admission_aside(1, at) {
                Admission::Go => "go",
                Admission::Probe => "probe",
                Admission::Told(..) => "told",
            };
            assert_eq!(of(&account, at(100)), "go");
            assert!(account.heard(&error, concern(1, 100), at(100)));
            assert_eq!((of(&account, at(101)), of(&account, at(105))), (now, after), "{error}");
            assert!(matches!(account.admission_aside(2, at(101)), Admission::Go), "another key");
            let was_the_key = matches!(error, Error::KeyRefused(_));
            assert_eq!((account.refuses_key(1), account.refuses_key(2)), (was_the_key, false));
            assert!(!account.key_taken(at(99)), "it was sent before");
            assert_eq!(account.key_taken(at(106)), was_the_key, "{error}");
            assert_eq!(account.trouble().is_none(), was_the_key, "{error}");
        }
    }

    fn unavailable(seconds: u64) -> Error {
        let answer = Answer { http_status: 503, code: None, message: None };
        Error::Unavailable { answer, retry_after: Duration::from_secs(seconds) }
    }

    fn concern(file: u64, sent_at: u64) -> Concern {
        Concern { file, key: 1, sent_at: at(sent_at), seen_to_fail: true, account_probe: false }
    }

    fn probe(file: u64, sent_at: u64) -> Concern {
        Concern { account_probe: true, ..concern(file, sent_at) }
    }

    /// `None` where a request may go, else the seconds until it may.
    fn told(account: &Account, now: u64) -> Option<u64> {
        match account.admission(1, true, at(now)) {
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
            assert!(matches!(account.admission(1, true, at(now)), Admission::Probe));
            account.probing();
            assert_eq!(told(&account, now), Some(0), "one at a time");
            assert!(!account.heard(&key_refused(Some(401)), probe(2, now), at(now)));
        }
        account.probing();
        assert!(account.well(at(now)));
        assert!(matches!(account.admission(1, true, at(now)), Admission::Go));
    }

    #[test]
    fn a_new_key_is_tried_at_once() {
        let mut account = Account::default();
        account.heard(&key_refused(Some(401)), concern(1, 100), at(100));
        assert!(matches!(account.admission(2, true, at(101)), Admission::Go));
        account.heard(&key_refused(Some(401)), Concern { key: 2, ..concern(1, 101) }, at(101));
        assert!(matches!(account.admission(2, true, at(101)), Admission::Told(..)));
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
    fn what_two_files_heard_from_a_gateway_stops_others_only_when_one_of_them_hears_it_too() {
        let mut account = Account::default();
        account.heard(&key_refused(None), concern(1, 100), at(100));
        assert!(account.heard(&key_refused(None), concern(2, 100), at(100)));
        assert_eq!(told(&account, 100), Some(5));
        for _ in 0..9 {
            assert!(matches!(account.admission(1, false, at(101)), Admission::Go));
        }
        let other = Concern { seen_to_fail: false, ..concern(3, 101) };
        for delay in [1, 2, 4, 8, 12, 12] {
            account.heard(&key_refused(None), other, at(101));
            let Admission::Told(_, until) = account.admission(1, false, at(101)) else { panic!("it heard it, too") };
            assert_eq!(at(101).until(until).as_secs(), delay);
            assert!(matches!(account.admission(1, false, until), Admission::Probe));
        }
        assert!(account.well(at(200)));
        assert!(matches!(account.admission(1, true, at(200)), Admission::Go));
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
        assert!(matches!(account.admission(1, true, at(106)), Admission::Probe));
    }
}
