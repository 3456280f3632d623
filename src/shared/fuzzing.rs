//! What a tier may hold and answer, for `cargo fuzz` (see `crate::fuzzing`).

use std::{num::NonZeroU32, time::Duration};

use jiff::Timestamp;

use super::{
    Content, Kept, Level, Look, Names, Newer, Quota, Rejection, Replica, Request, Saying, Seals, Take, Taken, Withheld,
    judge,
    resolve::{master_of, owner_of},
    url::Endpoint,
};
use crate::{clock::Instant, key::ApiKey, link};

const KEY: &str = "Fixed-Key-0123456789";

/// `data` is taken for a sealed value; for a link's text, its first 16 bytes for the link's two times; and, three bytes
/// each, for changes to the sealed link: where (two bytes), and what to write there.
pub fn sealed(data: &[u8]) {
    let secret = ApiKey::new(KEY).expect("a key").fleet_secret();
    let (seals, names) = (Seals::new(&secret), Names::new(&secret));
    let [name, other, unsealed] =
        ["a", "b", "c"].map(|file| names.file(&format!("https://file.kie.ai/{file}.png")).link);
    // Under a name that nothing is sealed for: the fuzzer remembers the honest value that it sees compared below, and
    // gives it back, which is no forgery.
    assert!(seals.open(&unsealed, data).is_err(), "forged");

    let numbers = data.first_chunk::<16>().map_or([0; 2], |bytes| {
        let (first, second) = bytes.split_at(8);
        [first, second].map(|half| i64::from_be_bytes(half.try_into().expect("eight bytes")))
    });
    let [minted_at, ends_at] = numbers.map(|number| {
        // In the year 9999, as the latest are.
        Timestamp::from_millisecond(number.rem_euclid(253_402_200_000_000)).expect("before the latest")
    });
    let kept = Kept { minted_at, ends_at, text: String::from_utf8_lossy(data).into_owned() };
    let content = Content::Link(kept.clone());
    let honest = seals.seal(&name, &content);
    match seals.open(&name, &honest) {
        Ok(opened) => assert_eq!(opened, content),
        Err(why) => assert!(why == Rejection::Malformed && kept.text.len() > link::MAX_BYTES, "{why}"),
    }
    assert!(seals.open(&other, &honest).is_err(), "under another name");
    let mut changed = honest.clone();
    for change in data.chunks_exact(3) {
        let place = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[place] = change[2];
    }
    assert!(changed == honest || seals.open(&name, &changed).is_err(), "changed");
    assert!(seals.open(&name, &honest[..honest.len() - 1 - data.len() % honest.len()]).is_err(), "cut off");

    // Whatever a value says, it lives no longer than a link does, and not at all where its end may have come.
    let now = Instant::from_origin(Duration::from_secs(1));
    for kie_now in [minted_at, ends_at, Timestamp::UNIX_EPOCH, Timestamp::MAX] {
        match judge(&kept, Some(kie_now), Duration::from_secs(60), now) {
            Ok(alive) => {
                assert!(ends_at > kie_now && alive.deadline < alive.ends_at);
                assert!(alive.ends_at.since(now) <= link::LIFE, "{alive:?}");
            }
            Err(why) => assert_eq!(why, Withheld::Dead),
        }
    }
    assert_eq!(judge(&kept, None, Duration::ZERO, now), Err(Withheld::NoClock));
}

/// What a tier, a sentinel or a cluster's node answers, as on the wire, to whatever it may have been asked.
pub fn tier_reply(data: &[u8]) {
    let Ok(answer) = redis::parse_redis_value(data) else { return };
    let seed = Endpoint { host: "seed".to_owned(), port: 6379 };
    let said = |host: &str| data.windows(host.len()).any(|part| part == host.as_bytes());
    if let Some(Some(Endpoint { host, port })) = master_of(answer.clone()) {
        assert!(!host.is_empty() && port > 0 && said(&host), "{host}:{port}");
    }
    for slot in [0, 1, 8191, 16_383] {
        let Some(Some(Endpoint { host, port })) = owner_of(slot, answer.clone(), &seed) else { continue };
        assert!(!host.is_empty() && port > 0 && (host == "seed" || said(&host)), "{host}:{port}");
    }

    let names = Names::new(&ApiKey::new(KEY).expect("a key").fleet_secret());
    let (file, fleet, replica) = (names.file("https://file.kie.ai/a.png"), names.fleet(), Replica::random());
    let holder = replica.holder(1);
    let [one, rate] = [1, 3].map(|number| NonZeroU32::new(number).expect("more than none"));
    let quota = Quota { period: Duration::from_secs(1) / rate.get(), burst: one };
    // Nobody waits for ever because a tier says so, and nothing is done because of a pause that kie.ai would not ask for.
    let longest = Duration::from_secs(120);
    if let Some(Look::Wait { left, .. }) = (Request::look(&file, fleet, Some(&holder), Newer::Any).read)(answer.clone())
    {
        assert!(left <= Duration::from_secs(4), "{left:?}");
    }
    let known = Level::default();
    if let Some(Taken { take, bucket }) = (Request::take(fleet, quota, longest, 0, known).read)(answer.clone()) {
        let (Take::Go { wait } | Take::Full { retry_after: wait } | Take::Paused { left: wait }) = take;
        assert!(wait <= longest);
        assert!(bucket.is_none_or(|bucket| bucket.given <= 1 << 41), "{bucket:?}");
    }
    assert!((Request::pause(fleet, longest).read)(answer.clone()).is_none_or(|pause| pause <= longest));
    if let Some(peek) = (Request::peek([&file], fleet).read)(answer.clone()) {
        let texts = [peek.beacon].into_iter().chain(peek.links).flatten();
        texts.for_each(|text| assert!(data.windows(text.len().max(1)).any(|part| text.is_empty() || part == text)));
    }
    let saying =
        Saying { replica: &replica, record: Vec::new(), sequence: None, beacon: None, goodbye: false, bucket: known };
    if let Some(beat) = (Request::beat(fleet, quota, saying).read)(answer.clone()) {
        assert!(beat.sequence >= 0 && beat.pause <= longest, "{beat:?}");
        let tokens = quota.tokens(beat.bucket.ahead);
        assert!(tokens <= f64::from(quota.burst.get()), "{tokens} of {quota:?}");
    }
    let flag = (Request::release(&file, &holder, None).read)(answer.clone());
    assert!(flag.is_none() || matches!(answer, redis::Value::Int(0 | 1)), "{answer:?}");
}
