//! Draws the status: one page without any outside resource, complete without JavaScript, refreshed by a few lines of it.

use super::Snapshot;

/// SECURITY: nothing is loaded from anywhere, whatever a field may contain.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn render(snapshot: &Snapshot<'_>) -> String {
    serde_json::to_string_pretty(snapshot).expect("numbers and texts serialise")
}
