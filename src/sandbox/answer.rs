//! What the simulated kie.ai answers, down to its headers.
//!
//! It does not know when which answer is due.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::World;

const BAD_GATEWAY_PAGE: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n\
    <center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n";

/// Everything that can come back.
pub(crate) enum Answer {
    Link(String),
    Credits(f64),
    Refused(u16, &'static str),
    Unauthorized,
    Empty,
    NotFound,
    WrongMethod { allow: &'static str },
    BadGateway,
    Banned,
}

/// kie.ai's envelope. `data` is null in most errors, and absent from a 401.
#[derive(Serialize)]
struct Envelope {
    code: u16,
    msg: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

impl Envelope {
    fn success(data: Value) -> Self {
        Self { code: 200, msg: "success", data: Some(data) }
    }
}

impl Answer {
    /// What the answer counts as.
    pub(crate) fn code(&self) -> String {
        match self {
            Self::Link(_) | Self::Credits(_) => "200".to_owned(),
            Self::Refused(code, _) => code.to_string(),
            Self::Unauthorized => "401".to_owned(),
            Self::Empty => "empty".to_owned(),
            Self::NotFound => "404".to_owned(),
            Self::WrongMethod { .. } => "405".to_owned(),
            Self::BadGateway => "502".to_owned(),
            Self::Banned => "403".to_owned(),
        }
    }

    pub(crate) fn into_response(self, world: &World, path: &str) -> Response {
        let now = world.now();
        let mut response = match self {
            Self::Link(link) => application(world, &Envelope::success(link.into())),
            Self::Credits(left) => application(world, &Envelope::success(left.into())),
            Self::Refused(code, msg) => {
                let data = Some(Value::Null);
                application(world, &Envelope { code, msg, data })
            }
            Self::Unauthorized => {
                let msg = "Unauthorized – Authentication failed. Please check your API key.";
                application(world, &Envelope { code: 401, msg, data: None })
            }
            // Nor has it a Content-Type.
            Self::Empty => Response::new(Body::empty()),
            Self::NotFound => unhandled(StatusCode::NOT_FOUND, path, now),
            Self::WrongMethod { allow } => {
                let mut response = unhandled(StatusCode::METHOD_NOT_ALLOWED, path, now);
                set(&mut response, header::ALLOW, HeaderValue::from_static(allow));
                response
            }
            Self::BadGateway => typed(StatusCode::BAD_GATEWAY, "text/html; charset=UTF-8", BAD_GATEWAY_PAGE),
            Self::Banned => typed(StatusCode::FORBIDDEN, "text/plain; charset=UTF-8", "error code: 1010"),
        };
        let cloudflare = HeaderValue::from_static("cloudflare");
        set(&mut response, header::SERVER, cloudflare);
        let dynamic = HeaderValue::from_static("DYNAMIC");
        set(&mut response, HeaderName::from_static("cf-cache-status"), dynamic);
        set(&mut response, header::DATE, http_date(now));
        response
    }
}

/// An answer of the application itself: HTTP 200, whatever it says, and a session that nobody asked for.
fn application(world: &World, envelope: &Envelope) -> Response {
    let body = serde_json::to_vec(envelope).expect("numbers, strings and null are always JSON");
    let mut response = typed(StatusCode::OK, "application/json;charset=UTF-8", body);
    let cookie = format!("JSESSIONID={}; Path=/; HttpOnly", world.session_id());
    let cookie = HeaderValue::try_from(cookie).expect("hexadecimal digits fit into a header");
    set(&mut response, header::SET_COOKIE, cookie);
    response
}

/// What the Spring framework says where the application has nothing to say.
fn unhandled(status: StatusCode, path: &str, now: Timestamp) -> Response {
    let body = json!({
        "timestamp": now.strftime("%Y-%m-%dT%H:%M:%S.%3f+00:00").to_string(),
        "status": status.as_u16(),
        "error": status.canonical_reason(),
        "message": "No message available",
        "path": path,
    });
    typed(status, "application/json;charset=UTF-8", body.to_string())
}

pub(crate) fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    set(&mut response, header::CONTENT_TYPE, content_type);
    response
}

/// Not left to the server, which would write its own clock's time: links end by this one.
pub(crate) fn http_date(now: Timestamp) -> HeaderValue {
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    HeaderValue::try_from(date).expect("a date is plain ASCII")
}

pub(crate) fn set(response: &mut Response, name: HeaderName, value: HeaderValue) {
    response.headers_mut().insert(name, value);
}
