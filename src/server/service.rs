//! Hands the requests of one connection to the router.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    BoxError, Router,
    body::Bytes,
    http::{Request, Response},
};
use hyper::body::{Frame, SizeHint};
use tower::Service;

use super::{
    account::{Account, Answer, NoRoom},
    activity::Awaited,
    heads::Heads,
    listener::Peer,
};

/// What hyper asks on one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Routed(Arc<Inner>);

struct Inner {
    account: Account,
    heads: Heads,
    peer: Peer,
    router: Router,
}

impl Routed {
    pub(super) fn new(account: Account, heads: Heads, peer: Peer, router: Router) -> Routed {
        Routed(Arc::new(Inner { account, heads, peer, router }))
    }
}

impl<B> hyper::service::Service<Request<B>> for Routed
where
    B: hyper::body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Response = Response<Answer>;
    type Error = NoRoom;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, NoRoom>> + Send>>;

    fn call(&self, mut request: Request<B>) -> Self::Future {
        let Inner { account, heads, peer, router } = &*self.0;
        heads.judge(&mut request);
        request.extensions_mut().insert(peer.clone());
        let (head, body) = request.into_parts();
        let (open, awaited) = (account.open(&head), account.awaits());
        let answer = router.clone().call(Request::from_parts(head, Watched { body, awaited }));
        let keep_alive = account.keep_alive();
        Box::pin(async move { open.hands_over(answer.await.unwrap_or_else(|never| match never {}), &keep_alive) })
    }
}

/// A request's body, watched: whether its next part is waited for.
pub(super) struct Watched<B> {
    body: B,
    awaited: Awaited,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        this.awaited.note(&frame);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
