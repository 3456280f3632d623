//! The one table of routes of the data interface: the router is made of it, labels are taken from it, and the
//! description of the interface is held against it.

use crate::upstream::{CREDIT, DOWNLOAD_URL, DOWNLOAD_URL_4O};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    DownloadUrl,
    /// Of files of kie.ai's 4o image API.
    DownloadUrl4o,
    Link,
    Redirect,
    /// The same redirect under a name, for tools that save the file.
    NamedRedirect,
    Links,
    Credit,
    /// For load balancers that cannot reach the admin interface.
    Health,
    Root,
    Description,
    Docs,
}

/// What a route gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gives {
    Links,
    /// What the account has: asked of kie.ai, and no link.
    Credits,
    /// Something for people to open, from whatever page they come: it is the same for everybody, and does nothing.
    Pages,
    Probe,
}

impl Route {
    pub(crate) const ALL: [Route; 11] = [
        Route::DownloadUrl,
        Route::Link,
        Route::Redirect,
        Route::NamedRedirect,
        Route::Links,
        Route::Credit,
        Route::DownloadUrl4o,
        Route::Health,
        Route::Root,
        Route::Description,
        Route::Docs,
    ];

    /// Its path, as the router writes it, and what it gives.
    fn row(self) -> (&'static str, Gives) {
        match self {
            Route::DownloadUrl => (DOWNLOAD_URL, Gives::Links),
            Route::DownloadUrl4o => (DOWNLOAD_URL_4O, Gives::Links),
            Route::Link => ("/v1/link", Gives::Links),
            Route::Redirect => ("/v1/redirect", Gives::Links),
            Route::NamedRedirect => ("/v1/redirect/{name}", Gives::Links),
            Route::Links => ("/v1/links", Gives::Links),
            Route::Credit => (CREDIT, Gives::Credits),
            Route::Health => ("/healthz", Gives::Probe),
            Route::Root => ("/", Gives::Pages),
            Route::Description => ("/openapi.json", Gives::Pages),
            Route::Docs => ("/docs", Gives::Pages),
        }
    }

    pub(crate) fn path(self) -> &'static str {
        self.row().0
    }

    pub(crate) fn gives(self) -> Gives {
        self.row().1
    }

    /// The route of a path, or of the router's pattern.
    pub fn of(path: &str) -> Option<Route> {
        let is_named = |route: Route| route == Route::NamedRedirect && path.starts_with("/v1/redirect/");
        Route::ALL.into_iter().find(|route| route.path() == path || is_named(*route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_route_that_the_router_finds() {
        for route in Route::ALL {
            assert_eq!(Route::of(route.path()), Some(route));
        }
        assert_eq!(Route::of("/v1/redirect/sunrise.png"), Some(Route::NamedRedirect));
        for path in ["", "/v1", "/v1/links/{any}", "/v1/redirects", "/status"] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
