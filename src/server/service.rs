//! Hands the requests of one connection to the router.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::{
    Router,
    body::Bytes,
    http::{Request, Response},
};
use hyper::body::{Frame, Incoming, SizeHint};
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

impl hyper::service::Service<Request<Incoming>> for Routed {
    type Response = Response<Answer>;
    type Error = NoRoom;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, NoRoom>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let Inner { account, heads, peer, router } = &*self.0;
        heads.judge(&mut request);
        request.extensions_mut().insert(peer.clone());
        let (head, body) = request.into_parts();
        let (open, awaited) = (account.open(&head), account.awaits());
        let answer = router.clone().call(Request::from_parts(head, AwaitedBody { body, awaited }));
        let keep_alive = account.keep_alive();
        Box::pin(async move { open.hands_over(answer.await.unwrap_or_else(|never| match never {}), &keep_alive) })
    }
}

/// A request's body; notes whether its next part is waited for.
struct AwaitedBody {
    body: Incoming,
    awaited: Awaited,
}

impl hyper::body::Body for AwaitedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
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
