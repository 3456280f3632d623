//! Waiting for something that another task or thread brings about, without guessing how long it takes.

use std::time::Duration;

/// Long enough for a loaded two-core machine; a test that needs it all is a failing one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Short enough not to be felt, long enough not to take the processor from what is waited for.
const INTERVAL: Duration = Duration::from_millis(5);

/// Returns as soon as `condition` holds; panics with `what` where it does not within 10 s.
///
/// `what` completes the sentence "it did not come true that …".
pub(crate) async fn eventually<F, Fut>(what: &str, condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    within(PATIENCE, what, condition).await;
}

/// As `eventually`, for what has a bound of its own.
#[expect(clippy::disallowed_types, reason = "patience is real time, whatever a test does to tokio's clock")]
pub(crate) async fn within<F, Fut>(patience: Duration, what: &str, mut condition: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let began = std::time::Instant::now();
    while !condition().await {
        assert!(began.elapsed() < patience, "it did not come true that {what}, in {patience:?}");
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::eventually;

    #[tokio::test]
    async fn it_asks_until_the_condition_holds() {
        let mut asked = 0;
        eventually("three questions are asked", || {
            asked += 1;
            let enough = asked == 3;
            async move { enough }
        })
        .await;
        assert_eq!(asked, 3);
    }
}
