//! Keeps account of one connection's requests and answers: whose turn it is, and how much memory answers over HTTP/2
//! take until the peer has read them.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Request, Response, Version, header},
};
use hyper::body::{Body as _, Frame, SizeHint};
use tower::Service;

use super::{
    activity::{Activity, UnderWay},
    crowd::{Charge, Crowd},
};

/// A service, and the account of its requests and answers.
#[derive(Debug, Clone)]
pub(super) struct Account<S> {
    activity: Activity,
    keep_alive: Option<HeaderValue>,
    crowd: Crowd,
    service: S,
}

impl<S> Account<S> {
    /// `keep_alive` is what an answer says of a connection that stays open. Answers over HTTP/2 are charged to `crowd`.
    pub(super) fn new(service: S, activity: &Activity, keep_alive: Option<HeaderValue>, crowd: &Crowd) -> Account<S> {
        Account { activity: activity.clone(), keep_alive, crowd: crowd.clone(), service }
    }
}

/// Bytes that an answer over HTTP/2 takes beside its body until the peer has read it (measured).
const ANSWER_BYTES: usize = 2 * 1024;

/// Why an answer over HTTP/2 is not given: the answers that wait to be read have used up the budget.
#[derive(Debug, thiserror::Error)]
#[error("too many answers wait to be read")]
pub(super) struct NoRoom;

impl<S, B> Service<Request<B>> for Account<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer>;
    type Error = NoRoom;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, NoRoom>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NoRoom>> {
        self.service.poll_ready(cx).map_err(|never| match never {})
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut under_way = self.activity.begin();
        let stays_open = request.version() == Version::HTTP_11 && !closes(request.headers());
        let keep_alive = self.keep_alive.clone().filter(|_| stays_open);
        // HTTP/1 has one answer at a time, which its connection is charged for.
        let crowd = (request.version() == Version::HTTP_2).then(|| self.crowd.clone());
        let answer = self.service.call(request);
        Box::pin(async move {
            let mut answer = answer.await.unwrap_or_else(|never| match never {});
            let mut charge = None;
            if let Some(crowd) = &crowd {
                let bytes = ANSWER_BYTES + answer.body().size_hint().exact().map_or(0, |bytes| bytes as usize);
                charge = Some(crowd.charge(under_way.activity(), bytes).ok_or(NoRoom)?);
            }
            under_way.is_ours(false);
            if let Some(keep_alive) = keep_alive
                && !closes(answer.headers())
            {
                let headers = answer.headers_mut();
                headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
                headers.insert("keep-alive", keep_alive);
            }
            Ok(answer.map(|body| Answer { body, under_way, crowd, charge, is_over: false }))
        })
    }
}

/// RFC 9112 section 9.6.
fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// An answer's body, watched: as long as nobody asks for the next part, the peer has not taken the last one.
#[derive(Debug)]
pub(super) struct Answer {
    body: Body,
    under_way: UnderWay,
    /// What the answer is charged to; only over HTTP/2.
    crowd: Option<Crowd>,
    /// For the answer's head, and for a body that is one piece. Goes with the last piece.
    charge: Option<Charge>,
    is_over: bool,
}

/// A piece of an answer, wherever HTTP/2 keeps it until its peer makes room for it.
struct Piece {
    bytes: Bytes,
    charge: Charge,
    number: u64,
}

impl Piece {
    fn frame(bytes: Bytes, charge: Charge) -> Frame<Bytes> {
        let number = charge.activity().hands_over();
        Frame::data(Bytes::from_owner(Piece { bytes, charge, number }))
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.charge.activity().takes_off(self.number);
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Answer {
    /// Over HTTP/2 a piece is charged until it is sent. Where a body comes in pieces, each is charged when it is made.
    fn charged(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, NoRoom> {
        let Some(crowd) = &self.crowd else { return Ok(frame) };
        let bytes = match frame.into_data() {
            Ok(bytes) => bytes,
            Err(trailers) => return Ok(trailers),
        };
        let charge = match self.charge.take_if(|charge| charge.covers(ANSWER_BYTES + bytes.len())) {
            Some(charge) => charge,
            None => crowd.charge(self.under_way.activity(), bytes.len()).ok_or(NoRoom)?,
        };
        Ok(Piece::frame(bytes, charge))
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        this.under_way.is_ours(frame.is_pending());
        match frame {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(this.charged(frame).map_err(axum::Error::new))),
            // An answer without a body waits for its peer, too, and a `Location` in its head is a link: an empty piece
            // goes behind the head, so that the wait is seen.
            Poll::Ready(None) => {
                this.is_over = true;
                Poll::Ready(this.charge.take().map(|charge| Ok(Piece::frame(Bytes::new(), charge))))
            }
            other => other,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (self.charge.is_none() && self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.charge.is_some() && self.body.is_end_stream() {
            // hyper would make it the Content-Length of an answer to HEAD.
            return SizeHint::default();
        }
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::{super::activity::Phase, *};

    fn phase(activity: &Activity) -> Phase {
        activity.now().0
    }

    #[tokio::test]
    async fn an_answer_s_body_is_the_peer_s_to_take_once_it_is_there() {
        let activity = Activity::default();
        let (sender, receiver) = tokio::sync::oneshot::channel::<Bytes>();
        let mut body = Some(Body::from_stream(futures_util::stream::once(async move {
            Ok::<_, Infallible>(receiver.await.expect("sent"))
        })));
        let service = tower::service_fn(move |_: Request<()>| {
            let body = body.take().expect("called once");
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let mut service = Account::new(service, &activity, None, &Crowd::new(1, 0));
        let answer = service.call(Request::new(())).await.unwrap();
        assert_eq!(phase(&activity), Phase::Unread, "its head is there");
        let mut body = answer.into_body();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        assert_eq!(phase(&activity), Phase::Busy, "the peer asks for more");
        sender.send(Bytes::from_static(b"x")).unwrap();
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        assert_eq!(phase(&activity), Phase::Unread);
        drop(body);
        assert_eq!(phase(&activity), Phase::Silent, "and no stream has seen any of it");
    }

    #[tokio::test]
    async fn an_answer_without_a_body_is_charged_until_it_is_sent() {
        let activity = Activity::default();
        let service = tower::service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
        let mut service = Account::new(service, &activity, None, &Crowd::new(1, 1 << 20));
        let ask = |version| Request::builder().version(version).body(()).unwrap();
        let mut body = service.call(ask(Version::HTTP_2)).await.unwrap().into_body();
        assert!(!body.is_end_stream() && body.size_hint().exact().is_none());
        let piece = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Some(Ok(piece))) = piece else { panic!("no piece") };
        assert!(piece.data_ref().unwrap().is_empty() && body.is_end_stream());
        drop(body);
        assert_eq!(activity.held(), ANSWER_BYTES);
        assert!(activity.untaken_since().is_some());
        drop(piece);
        assert_eq!((activity.held(), activity.untaken_since()), (0, None));
        let body = service.call(ask(Version::HTTP_11)).await.unwrap().into_body();
        assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
    }

    #[tokio::test]
    async fn answers_say_how_long_the_connection_stays_open_where_it_does() {
        use header::CONNECTION;
        let say = |version: Version, asks: &'static str, answers: &'static str| async move {
            let service = tower::service_fn(move |_: Request<()>| async move {
                let mut response = Response::new(Body::empty());
                if !answers.is_empty() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static(answers));
                }
                Ok::<_, Infallible>(response)
            });
            let mut request = Request::builder().version(version);
            if !asks.is_empty() {
                request = request.header(CONNECTION, asks);
            }
            let keep_alive = HeaderValue::from_static("timeout=74");
            let mut service = Account::new(service, &Activity::default(), Some(keep_alive), &Crowd::new(1, 1 << 20));
            let answer = service.call(request.body(()).unwrap()).await.unwrap();
            let text = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            (text("connection"), text("keep-alive"))
        };
        let kept = (Some("keep-alive".to_owned()), Some("timeout=74".to_owned()));
        assert_eq!(say(Version::HTTP_11, "", "").await, kept);
        assert_eq!(say(Version::HTTP_11, "keep-alive, te", "").await, kept);
        assert_eq!(say(Version::HTTP_11, "te, Close", "").await, (None, None));
        assert_eq!(say(Version::HTTP_11, "", "close").await, (Some("close".to_owned()), None));
        assert_eq!(say(Version::HTTP_10, "", "").await, (None, None));
        assert_eq!(say(Version::HTTP_2, "", "").await, (None, None));
    }
}
