//! `POST /v1/links`: many links in one request; one bad item harms no other.
//!
//! An item is some twenty bytes to its caller, and there are hundreds of items in a request and hundreds of requests:
//! what is kept of an item is small, and charged. Memory is asked for all items first; of the items that must wait, a
//! few are under way at a time.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Extension,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, Stream},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    answer::{self, Named},
    bodies::{Taken, USUAL_BODY, read_body},
    directives,
    handlers::Endpoints,
    places::Place,
};
use crate::{
    clock::{self, Instant},
    links::{self, Entry, Found, Links, Lookup, Times, Wish},
    source::{Normal, Source},
    upstream,
    web::{
        cache_status::{CACHE_STATUS, CacheStatus},
        edge::Call,
        outcome::Outcome,
        problem::{Document, Kind, Problem},
        query::{self, Fields},
        record::ServedBatch,
    },
};

const NDJSON: &str = "application/x-ndjson";

/// Bounds how many items of a stream are taken at a time.
const LINES_AT_ONCE: usize = 64;

/// Bytes that an item takes beside its text: what has become of it, and its error, where no other item has the same.
pub(crate) const ITEM_BYTES: usize = 128;

/// Bytes that a link which a batch keeps takes beside its own.
const ENTRY_BYTES: usize = 256;

/// Up to this size, an answer whose links all come out of memory is given at once.
const SMALL: usize = 16 * 1024;

/// How many of the links that were minted for it a batch keeps in any case, however little of the budget is left.
const OWN_LINKS: usize = 4;

#[derive(Deserialize)]
struct Ask {
    urls: Asked,
}

/// What a batch asks for, as it was asked, in one piece of memory: a text of its own for each source URL would take ten
/// times the bytes of a short one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Source URLs, each with its task behind it, where it has one.
    texts: String,
    ends: Vec<Ends>,
}

/// Where the texts of an item end.
#[derive(Debug, PartialEq, Eq)]
struct Ends {
    url: u32,
    /// Beyond the URL, by a byte at least, where there is a task.
    item: u32,
}

/// A batch under way.
struct Batch {
    endpoints: Arc<Endpoints>,
    call: Call,
    wish: Wish,
    asked: Asked,
    /// What is left of `OWN_LINKS`.
    own_links: AtomicUsize,
    /// Why no more of the batch is minted: a rule that holds for every file.
    refused: OnceLock<links::Error>,
}

/// The answer to an item that got no link.
#[derive(Serialize)]
struct NoLinkView<'a> {
    source_url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a str>,
    error: Document<'a>,
}

/// The pieces of a JSON answer.
enum Part {
    Head,
    Item(Item),
    Tail,
}

/// What became of one item.
struct Item {
    index: usize,
    /// `None` where the item's text is nothing that a link can be asked for with. Why, is found out again when the
    /// answer is written.
    result: Option<Result<Link, links::Error>>,
}

struct Link {
    kept: Kept,
    found: Found,
    /// It was found by the item's own text, which is the source's then. Otherwise the text is parsed again to be written.
    by_its_text: bool,
}

/// Who keeps the link until it is written.
enum Kept {
    /// The cache alone: a batch that nobody reads must not hold on to what the cache gives up.
    ByCache(Weak<Entry>),
    /// The batch: a small cache may have given the link up before the batch's last link is minted. The link's bytes are
    /// charged to the budget that batches share, unless it is one of `OWN_LINKS`.
    ByBatch(Arc<Entry>, Option<OwnedSemaphorePermit>),
}

pub(crate) async fn links(
    State(endpoints): State<Arc<Endpoints>>,
    Extension(call): Extension<Call>,
    request: Request,
) -> Result<Response, Problem> {
    let wish = directives::wish(request.headers());
    let as_lines = wants_lines(request.headers());
    let mut taken = Taken::of(&endpoints.batch_budget, USUAL_BODY, &call.party);
    let body = read_body(request, endpoints.config.batch_body, endpoints.config.body_timeout, &mut taken).await?;
    let asked = parse(&body, endpoints.config.batch)?;
    drop(body);
    taken.take(asked.len() * ITEM_BYTES).await?;
    // A batch that is surely large needs a place before anything else is done for it.
    let place = if asked.len() * ITEM_BYTES > SMALL { Some(endpoints.places.take(&call.party)?) } else { None };
    let own_links = AtomicUsize::new(OWN_LINKS);
    let batch = Arc::new(Batch { endpoints, call, wish, asked, own_links, refused: OnceLock::new() });
    let mut known = Vec::with_capacity(batch.asked.len());
    let waiting = batch.look((0..batch.asked.len()).collect(), &mut known);
    let waiting = batch.find_shared(waiting, &mut known).await;
    let content_type = if as_lines { NDJSON } else { "application/json" };
    if place.is_none() && waiting.is_empty() && batch.is_small(&known) {
        let mut whole = Vec::new();
        if as_lines {
            known.into_iter().for_each(|item| batch.write_line(item, &mut whole));
        } else {
            json_parts(known).for_each(|part| batch.write_json(part, &mut whole));
        }
        let whole = exactly(whole);
        return Ok(answer(content_type, Body::from(whole)));
    }
    let place = place.map_or_else(|| batch.endpoints.places.take(&batch.call.party), Ok)?;
    // The answer is written as it is read: for a peer that does not read, a few items are in memory, not four
    // megabytes, and the peer keeps its place and its bytes until the last item.
    let body = if as_lines {
        let items = as_minted(&batch, known, waiting, place.clone()).ready_chunks(LINES_AT_ONCE);
        let lines = items.flat_map(move |items| {
            let batch = Arc::clone(&batch);
            stream::iter(pieces(items.into_iter(), move |item, lines| batch.write_line(item, lines)))
        });
        Body::from_stream(lines.map(move |piece| {
            let _ = &taken;
            Ok::<_, Infallible>(piece)
        }))
    } else {
        let all = place.hold(all_items(&batch, known, waiting)).await?;
        place.keep()?;
        let json = pieces(json_parts(all), move |part, json| batch.write_json(part, json));
        Body::from_stream(stream::iter(json.map(move |piece| {
            let _ = &taken;
            Ok::<_, Infallible>(piece)
        })))
    };
    let mut answer = answer(content_type, body);
    answer.extensions_mut().insert(place);
    Ok(answer)
}

fn answer(content_type: &'static str, body: Body) -> Response {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    // The links come from the cache or not, each for itself; the batch as a whole never does.
    headers.insert(CACHE_STATUS.clone(), CacheStatus::Batch.header());
    answer.extensions_mut().insert(ServedBatch);
    answer
}

/// Writes the parts as they are asked for, a piece of about `SMALL` bytes at a time: over HTTP/1 a piece that waits for its peer is
/// charged to nobody.
fn pieces<T>(mut parts: impl Iterator<Item = T>, write: impl Fn(T, &mut Vec<u8>)) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        // With room for the part that goes beyond `SMALL`.
        let mut piece = Vec::with_capacity(SMALL + SMALL / 8);
        while piece.len() < SMALL
            && let Some(part) = parts.next()
        {
            write(part, &mut piece);
        }
        (!piece.is_empty()).then(|| exactly(piece))
    })
}

fn json_parts(all: Vec<Item>) -> impl Iterator<Item = Part> {
    std::iter::once(Part::Head).chain(all.into_iter().map(Part::Item)).chain([Part::Tail])
}

/// All items' answers, in order. The first links have waited for the last one: a link that has reached its deadline
/// meanwhile is looked up again. The loop ends, since no item waits beyond the call's deadline.
async fn all_items(batch: &Arc<Batch>, mut all: Vec<Item>, mut waiting: Vec<usize>) -> Vec<Item> {
    loop {
        let mut minted = std::pin::pin!(batch.wait_for(waiting));
        while let Some(item) = minted.next().await {
            all.push(item);
        }
        let now = batch.endpoints.clock.now();
        let dead = all.extract_if(.., |item| item.is_dead(&batch.endpoints.links, now)).map(|item| item.index);
        let wanted: Vec<_> = dead.collect();
        if wanted.is_empty() {
            break;
        }
        waiting = batch.look(wanted, &mut all);
    }
    all.sort_unstable_by_key(|item| item.index);
    all
}

/// Every item's answer, as soon as it is known. When the stream is dropped, its flights go on for the cache. Where
/// another request takes the place, the items that still wait are told so, each in its line.
fn as_minted(
    batch: &Arc<Batch>,
    known: Vec<Item>,
    waiting: Vec<usize>,
    place: Place,
) -> impl Stream<Item = Item> + Send + use<> {
    // On a task of its own: mints go on, and the places for waiting are given back, though the caller does not read its lines.
    let (sender, mut receiver) = mpsc::channel(waiting.len().max(1));
    let served = Arc::clone(batch);
    batch.endpoints.tasks.spawn(async move {
        let mut left: BTreeSet<usize> = waiting.iter().copied().collect();
        let mut minted = std::pin::pin!(served.wait_for(waiting));
        let all = async {
            while let Some(item) = minted.next().await {
                left.remove(&item.index);
                // The channel has room for all items.
                let _ = sender.try_send(item);
            }
        };
        let held = tokio::select! {
            held = place.hold(all) => held.and_then(|()| place.keep()),
            () = sender.closed() => return,
        };
        if held.is_err() {
            for index in left {
                let _ = sender.try_send(Item { index, result: Some(Err(links::Error::Crowded)) });
            }
        }
    });
    stream::iter(known).chain(stream::poll_fn(move |context| receiver.poll_recv(context)))
}

impl Batch {
    /// Adds to `known` what is known at once; returns the items of `wanted` that must wait.
    fn look(&self, wanted: Vec<usize>, known: &mut Vec<Item>) -> Vec<usize> {
        let must_wait = |index: &usize| match self.known(*index) {
            Some(item) => {
                known.push(item);
                false
            }
            None => true,
        };
        wanted.into_iter().filter(must_wait).collect()
    }

    /// Adds to `known` what other replicas have minted, all in one trip; returns the items that must wait.
    async fn find_shared(&self, waiting: Vec<usize>, known: &mut Vec<Item>) -> Vec<usize> {
        let links = &self.endpoints.links;
        if waiting.is_empty() || self.wish.only_if_cached || !links.may_find_shared() {
            return waiting;
        }
        let (places, sources): (Vec<_>, Vec<_>) =
            waiting.iter().filter_map(|index| Some((*index, self.source(*index).ok()?))).unzip();
        let found = links.find_shared(&sources, &self.wish).await;
        let mut left: BTreeSet<_> = waiting.into_iter().collect();
        for (index, lookup) in places.into_iter().zip(found) {
            if let Some(lookup) = lookup {
                left.remove(&index);
                known.push(Item { index, result: Some(Ok(self.keep(lookup, false))) });
            }
        }
        known.sort_unstable_by_key(|item| item.index);
        left.into_iter().collect()
    }

    /// What is known of an item without a mint; `None` where it takes one.
    fn known(&self, index: usize) -> Option<Item> {
        let Endpoints { links, clock, .. } = &*self.endpoints;
        // The usual item needs no text of its own to be looked for.
        if let Some(source) = self.usual(index)
            && let Some(lookup) = links.remembered(source.as_str(), &self.wish, clock.now())
        {
            return Some(Item { index, result: Some(Ok(self.keep(lookup, true))) });
        }
        let Ok(source) = self.source(index) else { return Some(Item { index, result: None }) };
        let result = links.recall(&source, &self.wish, &self.call.caller())?;
        Some(Item { index, result: Some(result.map(|lookup| self.keep(lookup, false))) })
    }

    /// The source of an item without a task, whose text is the source's own.
    fn usual(&self, index: usize) -> Option<Normal<'_>> {
        let text = self.asked.url_alone(index)?;
        Normal::recognise(text).filter(|source| self.endpoints.config.sources.allows_host(source.host()))
    }

    /// The items' answers as their mints land. A few are under way at a time: all at once would take a kilobyte or two
    /// each, and most would only stand in the queue, before other callers.
    fn wait_for(self: &Arc<Self>, waiting: Vec<usize>) -> impl Stream<Item = Item> + Send + use<> {
        let at_once = self.endpoints.config.batch_at_once;
        let batch = Arc::clone(self);
        let minted = stream::iter(waiting).map(move |index| {
            let batch = Arc::clone(&batch);
            async move { batch.mint(index).await }
        });
        minted.buffer_unordered(at_once)
    }

    async fn mint(&self, index: usize) -> Item {
        if let Some(error) = self.refused.get() {
            return self.known(index).unwrap_or_else(|| Item { index, result: Some(Err(error.clone())) });
        }
        let Ok(source) = self.source(index) else { return Item { index, result: None } };
        let result = self
            .endpoints
            .links
            .get(&source, &self.wish, self.call.caller())
            .await
            .map(|lookup| self.keep(lookup, false));
        if let Err(error) = &result
            && holds_for_all(error)
        {
            // Another item may have set it already.
            let _ = self.refused.set(error.clone());
        }
        Item { index, result: Some(result) }
    }

    fn keep(&self, Lookup { entry, found, .. }: Lookup, by_its_text: bool) -> Link {
        let kept = match found {
            Found::Shared | Found::Miss | Found::Joined => {
                let one_less = |own: usize| own.checked_sub(1);
                let is_own = self.own_links.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
                let charge = if is_own { None } else { self.charge(entry.link.as_str().len() + ENTRY_BYTES) };
                if is_own || charge.is_some() {
                    Kept::ByBatch(entry, charge)
                } else {
                    Kept::ByCache(Arc::downgrade(&entry))
                }
            }
            Found::Hit | Found::HitRefresh => Kept::ByCache(Arc::downgrade(&entry)),
        };
        Link { kept, found, by_its_text }
    }

    fn charge(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.endpoints.batch_budget.take(u32::try_from(bytes).ok()?)
    }

    fn source(&self, index: usize) -> Result<Source, Problem> {
        self.asked.get(index).allowed(&self.endpoints.config.sources)
    }

    /// Whether the whole answer is at most `SMALL`, with links out of memory alone. Such an answer needs no place.
    fn is_small(&self, all: &[Item]) -> bool {
        let bytes = all.iter().map(|item| match &item.result {
            Some(Ok(Link { kept: Kept::ByCache(entry), .. })) => {
                let link = entry.upgrade()?.link.as_str().len();
                // A letter that is not ASCII takes three times its bytes in a URL.
                Some(ITEM_BYTES + self.asked.bytes(item.index) * 3 + link)
            }
            Some(Ok(_) | Err(_)) | None => None,
        });
        bytes.sum::<Option<usize>>().is_some_and(|bytes| bytes <= SMALL)
    }

    fn write_json(&self, part: Part, json: &mut Vec<u8>) {
        match part {
            Part::Head => json.extend(b"{\"links\":["),
            Part::Item(item) => {
                if item.index > 0 {
                    json.push(b',');
                }
                self.render(&item, json);
            }
            Part::Tail => json.extend(b"]}"),
        }
    }

    fn write_line(&self, item: Item, lines: &mut Vec<u8>) {
        self.render(&item, lines);
        lines.push(b'\n');
    }

    /// Writes what became of an item, and counts it.
    fn render(&self, item: &Item, json: &mut Vec<u8>) {
        let Endpoints { links, clock, requests, .. } = &*self.endpoints;
        let now = clock.now();
        if let Some(Ok(link)) = &item.result
            && let Some((entry, times)) = link.alive(links, now)
        {
            requests.item(Outcome::Found(link.found), 200, Some(now.until(times.ends_at)));
            let ends_at = clock::wall_at(clock.wall(), times.ends_at, now);
            if link.by_its_text {
                let named = Named::Normal(&self.asked.get(item.index).url);
                return answer::push_document(json, named, &entry.link, ends_at);
            }
            let source = self.source(item.index).expect("only a source gets a link");
            return answer::push_document(json, Named::Source(&source), &entry.link, ends_at);
        }
        let problem = self.problem(item);
        requests.item(Outcome::NoLink(problem.why), problem.kind.status(), None);
        let query::Asked { url, task } = self.asked.get(item.index);
        let source_url = problem.source.as_ref().map_or(&*url, Source::url);
        let view = NoLinkView { source_url, task_id: task.as_deref(), error: problem.item(&self.call.request_id) };
        serde_json::to_writer(json, &view).expect("texts serialise");
    }

    /// Why an item gets no link.
    fn problem(&self, item: &Item) -> Problem {
        let source = match self.source(item.index) {
            Ok(source) => source,
            Err(problem) => return problem,
        };
        match &item.result {
            Some(Ok(_)) => {
                let why = "The link reached its deadline, or made room for others, before it was read. Ask again.";
                Problem::refused(Kind::Timeout, why).about(&source)
            }
            Some(Err(error)) => Problem::of(error.clone(), &source),
            None => Problem::of(links::Error::Lost, &source),
        }
    }
}

/// Bytes allocated beyond the length would be charged to nobody.
fn exactly(mut bytes: Vec<u8>) -> Bytes {
    bytes.shrink_to_fit();
    Bytes::from(bytes)
}

impl Item {
    fn is_dead(&self, links: &Links, now: Instant) -> bool {
        matches!(&self.result, Some(Ok(link)) if link.alive(links, now).is_none())
    }
}

impl Link {
    /// SECURITY: the link may have died while a slow reader, or one that was suspended, let it wait.
    fn alive(&self, links: &Links, now: Instant) -> Option<(Arc<Entry>, Times)> {
        let entry = match &self.kept {
            Kept::ByCache(entry) => entry.upgrade()?,
            Kept::ByBatch(entry, _charge) => Arc::clone(entry),
        };
        let times = links.times(&entry, now);
        (now < times.deadline).then_some((entry, times))
    }
}

/// Whether the next file would get the same error: the rule behind it knows no files. Then the next file takes no
/// flight.
fn holds_for_all(error: &links::Error) -> bool {
    use upstream::Error::{NoBudget, Paused, ShuttingDown};
    let links::Error::Upstream(cause) = error else { return false };
    matches!(**cause, NoBudget { .. } | Paused { .. } | ShuttingDown)
}

impl Asked {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, index: usize) -> query::Asked<'_> {
        let Ends { url, item } = self.ends[index];
        let of = |from: usize, to: u32| Cow::Borrowed(&self.texts[from..to as usize]);
        let task = (item > url).then(|| of(url as usize + BEFORE_TASK.len(), item));
        query::Asked { url: of(self.begin(index), url), task }
    }

    /// The URL of an item that has no task.
    fn url_alone(&self, index: usize) -> Option<&str> {
        let Ends { url, item } = self.ends[index];
        (url == item).then(|| &self.texts[self.begin(index)..url as usize])
    }

    /// How many bytes an item's texts take.
    fn bytes(&self, index: usize) -> usize {
        self.ends[index].item as usize - self.begin(index)
    }

    fn begin(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before].item as usize)
    }

    fn push(&mut self, url: &str, task: Option<&str>) -> Result<(), &'static str> {
        let end = |texts: &String| u32::try_from(texts.len()).map_err(|_| "the texts are too long");
        self.texts.push_str(url);
        let url = end(&self.texts)?;
        if let Some(task) = task {
            self.texts.push_str(BEFORE_TASK);
            self.texts.push_str(task);
        }
        self.ends.push(Ends { url, item: end(&self.texts)? });
        Ok(())
    }
}

/// Tells an empty task, which is refused, from none.
const BEFORE_TASK: &str = "\n";

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Asked, D::Error> {
        deserializer.deserialize_seq(Items)
    }
}

/// Reads an array of items.
struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Asked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of source URLs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Asked, A::Error> {
        let mut asked = Asked::default();
        while items.next_element_seed(OneItem(&mut asked))?.is_some() {}
        Ok(asked)
    }
}

/// Reads one item, a text or an object with `url` and `task_id`, and adds it to the others.
struct OneItem<'a>(&'a mut Asked);

impl<'de> DeserializeSeed<'de> for OneItem<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneItem<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or an object with `url` and `task_id`")
    }

    fn visit_str<E: serde::de::Error>(self, url: &str) -> Result<(), E> {
        self.0.push(url, None).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<(), A::Error> {
        let fields = Fields::deserialize(MapAccessDeserializer::new(fields))?;
        let missing = serde::de::Error::missing_field;
        let url = fields.url().ok_or_else(|| missing("url"))?;
        // Without one, the text alone is all there is to say.
        let task = fields.task().ok_or_else(|| missing("task_id"))?;
        self.0.push(url, Some(task)).map_err(serde::de::Error::custom)
    }
}

pub(crate) fn parse(body: &[u8], most: usize) -> Result<Asked, Problem> {
    let malformed = |what: String| {
        Problem::refused(Kind::MalformedRequest, format!("The body {what}. Send {{\"urls\": [\"https://…\", …]}}."))
    };
    let ask: Ask = query::json(body).map_err(malformed)?;
    if ask.urls.len() > most {
        let detail = format!("The batch has {} source URLs; at most {most} are taken. Split it.", ask.urls.len());
        return Err(Problem::refused(Kind::MalformedRequest, detail));
    }
    Ok(ask.urls)
}

/// Whether `Accept` names NDJSON and does not refuse it.
pub(crate) fn wants_lines(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(NDJSON));
            named && !parts.any(|parameter| ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&parameter))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_of_an_answer_is_bounded_by_its_bytes() {
        let parts = || (0..600).map(|n| vec![b'x'; n * 7]);
        let all: Vec<Bytes> = pieces(parts(), |part, piece: &mut Vec<u8>| piece.extend(part)).collect();
        assert!(all.iter().all(|piece| piece.len() < SMALL + 600 * 7) && all.len() > 50, "{}", all.len());
        assert_eq!(all.iter().map(Bytes::len).sum::<usize>(), parts().map(|part| part.len()).sum::<usize>());
    }

    #[test]
    fn lines_are_for_those_who_ask_for_them() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(value).unwrap());
            wants_lines(&headers)
        };
        assert!(of("application/x-ndjson"));
        assert!(of("application/json;q=0.5, Application/X-NDJSON; q=0.9"));
        assert!(!of("application/json"));
        assert!(!of("*/*"));
        assert!(!of("application/x-ndjson;q=0"));
        assert!(!wants_lines(&HeaderMap::new()));
    }

    #[test]
    fn an_item_may_have_a_task() {
        let asked = parse(
            r#"{"urls":["a",{"url":"b","task_id":"t"},{"taskId":"t\n","url":""},{"url":"c","task_id":""},
                {"url":"e","more":1,"task_id":"t"}]}"#
                .as_bytes(),
            9,
        )
        .unwrap();
        let items = (0..asked.len()).map(|place| asked.get(place));
        let found: Vec<_> = items.map(|item| (item.url.into_owned(), item.task.map(Cow::into_owned))).collect();
        let of = |url: &str, task: Option<&str>| (url.to_owned(), task.map(str::to_owned));
        let expected = [of("a", None), of("b", Some("t")), of("", Some("t\n")), of("c", Some("")), of("e", Some("t"))];
        assert_eq!(found, expected);
        assert_eq!((0..asked.len()).map(|place| asked.bytes(place)).sum::<usize>(), asked.texts.len());
    }

    #[test]
    fn a_batch_is_bounded_and_well_formed() {
        let texts = |body: &[u8]| {
            let asked = parse(body, 4).unwrap();
            (0..asked.len()).map(|place| asked.get(place).url.into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(texts(br#"{"urls":["a","bc"],"x":1}"#), ["a", "bc"]);
        assert_eq!(texts(r#"{"urls":["","ü","","\u00fc\n"]}"#.as_bytes()), ["", "ü", "", "ü\n"]);
        assert_eq!(texts(br#"{"urls":[]}"#), [""; 0]);
        assert_eq!(
            texts(br#"{"urls":[{"url":"a","task_id":"t"},"bc",{"x":{},"url":"d\n","task_id":""}]}"#),
            ["a", "bc", "d\n"]
        );
        for body in [
            "",
            "{}",
            "[]",
            r#"[["a"]]"#,
            r#"{"urls":"a"}"#,
            r#"{"urls":[1]}"#,
            r#"{"urls":["a","b","c"]}"#,
            r#"{"url":"a"}"#,
            r#"{"urls":[{}]}"#,
            r#"{"urls":[{"task_id":"t"}]}"#,
            r#"{"urls":[{"url":"a"}]}"#,
            r#"{"urls":[{"url":"a","task_id":null}]}"#,
            r#"{"urls":[{"url":1}]}"#,
            r#"{"urls":[{"url":"a","task_id":1}]}"#,
            r#"{"urls":[{"url":"a","task_id":"t","taskId":"t"}]}"#,
            r#"{"urls":[["a"]]}"#,
        ] {
            assert_eq!(parse(body.as_bytes(), 2).unwrap_err().kind, Kind::MalformedRequest, "{body}");
        }
    }
}
