//! kielink is a sidecar that holds one kie.ai API key so that no app has to. An app asks it over plain internal HTTP
//! for a download link to a file that kie.ai generated; it answers with a signed link that works now and for at least
//! a minute more: out of memory when it can, from kie.ai when it must.
//!
//! This page is the architecture. Every other cache takes "stale" for "a bit old but usable"; a signed link past its
//! end is dead, and fails later in somebody else's process. Most of what is unusual here follows from that.
//!
//! # A request's way
//!
//! 1. [`server`] accepts the connection: bounded in number, in header bytes, in time (`server::watch`). The longest
//!    idle connection, or one that sent half a request, gives way to a new one (`server::crowd`). A request that two
//!    readers could cut in two places is marked on its way in (`server::framing`).
//! 2. A plain request for a link that memory has is answered at once (`http::hit`), by the functions that the steps below
//!    call, too; where one of them says no, the request goes on as if nothing had been tried.
//! 3. `web::edge` gives it an id and checks who may ask (`web::guard`).
//! 4. A handler (`http::handlers`, `http::batch`) reads the source URL (`web::query`, [`source`]: normalised, allowed?)
//!    and the caller's wish (`http::directives`).
//! 5. [`links`] looks into memory. `freshness` judges the entry at `now`: *fresh* is served; *due* is served and
//!    renewed behind; *too old* for this caller's wish, and *dead*, need a mint, and the request needs a place among
//!    the waiters (`http::places`).
//! 6. A mint is a flight (`links::flight`): one per file, a task of its own, with any number of callers waiting.
//! 7. With a shared tier, the flight asks that first ([`fleet`]): another replica may have the link, or be minting it.
//!    Else it asks [`upstream`]: `Kie` decides when and how often, `gate` gives leave for each request (breaker,
//!    account, pause after 429, window, budget; callers in turn, before refreshes), `Wire` sends it with the key and
//!    checks the answer, [`link`] the link.
//! 8. The link enters the cache, the flight lands, every waiter reads the clock again and is served, unless the link
//!    died on its way.
//! 9. Back through `web::edge`: problems are rendered in the form of the path, the headers that every answer has are
//!    set; it is counted, traced and logged.
//!
//! # The life of a link
//!
//! ```text
//!  sent_at            refresh point           deadline    the link's own end
//!     |------ fresh ------|--------- due ---------|---- margin ----|
//!     0                  12m                     19m              20m
//! ```
//!
//! Life counts from the moment *before* the request to kie.ai was sent, on a clock that runs while the machine sleeps
//! ([`clock`]). It ends after 20 minutes or when the link itself says so, whichever is earlier, read against kie.ai's
//! own clock. Where that clock shows later that more time has passed there than here, so much of the life is gone
//! (`clock::KieClock`).
//!
//! # Where things are
//!
//! From the top down. A part knows only parts below its own line of the table; `floors.rs`, a test, reads the sources
//! and holds them to it.
//!
//! | part | what |
//! |---|---|
//! | `main.rs` | the process: exit codes; signals (`signals.rs`), what systemd hears (`systemd.rs`), how much memory there is (`cgroup.rs`) |
//! | [`sandbox`] | `kielink sandbox`: puts `kie_sim` behind a real kielink |
//! | [`cli`], [`config`], [`kie_sim`] | the command line. Layers of settings -> one valid [`app::Config`], all problems at once; defaults that fit into the memory (`memory`). The simulated kie.ai and its file host, behind the sandbox and the integration tests |
//! | [`app`] | the composition root: the sum of the parts' settings; builds the parts and runs them |
//! | [`drain`] | the end, in order |
//! | [`http`], [`admin`] | the two interfaces, which do not know each other. For callers: `hit` (memory answers), `handlers` and `batch`, places for those that wait (`places`), bodies that are still coming (`bodies`), the interface's description (`openapi`, and `docs` made of it). For probes and people: metrics, status, explain, on a thread of its own |
//! | [`web`] | what both interfaces share: the layers (`edge`), who may ask (`guard`), the one table of routes (`route`), source URLs out of queries and bodies (`query`), ids (`request_id`) and `headers`, what became of a request (`outcome`, `cache_status`, `problem`), probes, what is told of it (`record`, `metrics`), answers where there is no request (`unserved`) |
//! | [`links`] | the heart: cache, freshness, flights (`flight`, and what one does: `mint`), files that failed (`failures`), links that are given again (`first_ends`), places that addresses share (`shares`) |
//! | [`server`], [`upstream`] | the way in and the way out. Listeners (bound, or handed over) and connections (`serving`): how requests are told apart (`framing`, `heads`), what is answered before hyper has heard of it (`at_once`), what hyper hands to the router (`service`), what each connection is at (`activity`, `account`), its task's turns (`turn`), who gives way (`crowd`, `watch`), what is said where there is no request (`unserved`). kie.ai: `Kie` (when), `gate` (how often), `retry`, `wire` (one request), `connections`, `envelope`, `message` and `retry_after` (its answers), `error` (what they mean) |
//! | [`shared`] | the tier that a fleet shares: what rests there (`seal`, `names`), what is asked of it (`scripts`), the one connection and whether it is used (`connection`, `dial`, `resolve`, `state`, `url`), the fleet's quota while it is away (`quota`), life across machines (`life`) |
//! | [`credits`] | the credits left at kie.ai: what was seen last, and when to ask anew |
//! | [`fleet`] | many replicas as one: stands between `links` and `upstream` where there is a shared tier. A mint that asks the tier first (`mint`, `seek`), waiting for other replicas' mints, all in one question (`poll`), files that this replica mints for all (`leases`), the common quota (`quota`, its own part of it: `bucket`, and who else has found a tier that is back: `others`), what replicas tell each other every second (`beat`), what the tier is told when it is back (`later`), one connection for each API key (`realm`) |
//! | [`key`], [`telemetry`] | the API key: one way out; found in any spelling in other people's text (`spelling`); read from a file (`file`, `looks`), replaced without an event (`rotation`). Logs; lines that repeat (`limiter`); what failed of late, noted where it happens (`failures`); what the parts need to count (`metrics`) and to trace themselves (`trace`). |
//! | [`clock`] | the one place that reads clocks; what kie.ai's shows (`kie`) |
//! | [`link`], [`source`] | links and source URLs, parsed and checked; pure |
//! | `host`, [`kind`], `readiness`, `roots` | which hosts both may have; the problem types; whether this process should be sent requests; whose TLS certificates are believed |
//!
//! `simulation` (tests) checks random schedules against the promises, of one process and of a fleet with a model of its
//! tier; `fuzzing` (tests, `fuzz/`) checks hostile input against what its parsers promise. They, and each part's tests,
//! may know all.
//!
//! # Invariants
//!
//! In particular, and deliberately absent elsewhere:
//!
//! - `server` does not know what is served. It tells `web` by a request's extensions what it found while reading it,
//!   and is given what to say where there is no request.
//! - Only `config` knows the config crate, only `links` moka, only `shared` Redis. Only `upstream::wire` sends with reqwest (and
//!   `telemetry::trace`, spans to their collector). Only `http`, `admin`, `web`, `server` and `cli`'s probes know axum
//!   (`floors.rs` holds this, too).
//! - `shared` does not know what a mint is, nor who waits for one. `shared::seal`, `names`, `url`, `state`, `quota` and
//!   `life` are pure.
//! - Each part counts for itself and registers what it counted. Only `telemetry::trace` knows OpenTelemetry, whose
//!   libraries read `OTEL_*` for `main`, and clocks for spans.
//! - Only `main` reads the environment (clippy holds this; `server::inherited`, `systemd.rs` and, for `SSL_CERT_*`,
//!   `upstream::connections` have it read by their crates).
//! - `kie_sim` knows nothing of kielink but its clock.
//! - `links` does not know HTTP. `upstream` does not know that there is a cache. The mint is something that `links` is
//!   given, and the transport something that `Kie` is given, so that tests and the simulation put their own there.
//! - `source`, `link`, `host`, `freshness`, `envelope`, `message`, `retry_after`, `key::spelling` and the rules of the
//!   gate do no I/O and read no clock: `now` is an argument. (`retry` does the same but for the retry budget, whose
//!   crate reads tokio's clock.)
//! - The API key leaves in one function, which writes one header marked sensitive; inside `key` it is compared, hashed
//!   and looked for in texts.
//! - No statics with state, but for a text in `web::date` that follows from the second: two kielinks can live in one process,
//!   and tests do that.
//! - No lock is held across an `.await`. Every task is on a tracker that shutdown waits for, but for the sending of
//!   spans, which shutdown gives a second. What may never end (reading a key file or root certificates, writing the
//!   log) has a thread of its own.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod credits;
pub mod drain;
pub mod fleet;
#[cfg(test)]
mod floors;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod host;
pub mod http;
pub mod key;
pub mod kie_sim;
pub mod kind;
pub mod link;
pub mod links;
mod readiness;
mod roots;
pub mod sandbox;
pub mod server;
pub mod shared;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod telemetry;
pub mod upstream;
pub mod web;
