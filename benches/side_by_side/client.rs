//! A client that costs little: fixed bytes over plain sockets, and of an answer only what shows that it is the right
//! one.

use std::net::SocketAddr;

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A source URL's number has so many digits, so that another number makes no request longer.
pub(crate) const DIGITS: usize = 8;

/// What is asked, and what shows that the answer is the one to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) request: Vec<u8>,
    /// Where the file's number stands in the request, if it has one.
    pub(crate) number_at: Option<usize>,
    /// Each connection asks for one of so many files.
    pub(crate) files: u64,
    /// One request in so many is for a file that nobody has asked for.
    pub(crate) miss_every: Option<u64>,
    pub(crate) status: &'static str,
    /// What the answer's head has in it.
    pub(crate) says: &'static str,
    /// How many links the answer has.
    pub(crate) links: usize,
}

impl Ask {
    pub(crate) fn new(request: impl Into<Vec<u8>>, says: &'static str) -> Ask {
        let request = request.into();
        Ask { request, number_at: None, files: 1, miss_every: None, status: "HTTP/1.1 200 ", says, links: 1 }
    }

    /// The request for this file.
    pub(crate) fn of_file(&self, number: u64) -> Vec<u8> {
        let mut request = self.request.clone();
        self.write_number(&mut request, number);
        request
    }

    pub(crate) fn write_number(&self, request: &mut [u8], number: u64) {
        if let Some(at) = self.number_at {
            request[at..at + DIGITS].copy_from_slice(format!("{number:0DIGITS$}").as_bytes());
        }
    }

    pub(crate) fn is_answered_by(&self, answer: &Answer<'_>) -> bool {
        self.is_answered_with(answer, self.says)
    }

    pub(crate) fn is_answered_with(&self, answer: &Answer<'_>, says: &str) -> bool {
        answer.head.starts_with(self.status.as_bytes())
            && memmem::find(answer.head, says.as_bytes()).is_some()
            // In a batch each item has an outcome of its own.
            && (self.links == 1 || memmem::find(answer.body, b"\"error\"").is_none())
    }
}

/// Head and body as they came, chunks and all.
pub(crate) struct Answer<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(self.head).into_owned() + &String::from_utf8_lossy(self.body);
        text.chars().take(2000).collect()
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn to(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, buffer: vec![0; 2048] }
    }

    pub(crate) async fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, request: &[u8]) -> Answer<'_> {
        self.send(request).await;
        self.receive().await
    }

    pub(crate) async fn receive(&mut self) -> Answer<'_> {
        let mut filled = 0;
        let mut reading = Reading::Head;
        loop {
            if filled == self.buffer.len() {
                self.buffer.resize(filled * 2, 0);
            }
            let read = self.stream.read(&mut self.buffer[filled..]).await.unwrap();
            assert_ne!(read, 0, "it ended: {}", String::from_utf8_lossy(&self.buffer[..filled]));
            filled += read;
            reading = reading.go_on(&self.buffer[..filled]);
            if let Reading::Done { head, end } = reading {
                assert_eq!(end, filled, "there is more than was asked for");
                let (head, body) = self.buffer[..end].split_at(head);
                return Answer { head, body };
            }
        }
    }
}

/// How far an answer was read.
#[derive(Clone, Copy)]
enum Reading {
    Head,
    Sized {
        head: usize,
        end: usize,
    },
    /// The next chunk begins at `at`.
    Chunks {
        head: usize,
        at: usize,
    },
    Done {
        head: usize,
        end: usize,
    },
}

impl Reading {
    fn go_on(self, bytes: &[u8]) -> Reading {
        match self {
            Reading::Head => {
                let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return self };
                let head = end + 4;
                let next = match length(&bytes[..head]) {
                    Some(length) => Reading::Sized { head, end: head + length },
                    None => Reading::Chunks { head, at: head },
                };
                next.go_on(bytes)
            }
            Reading::Sized { head, end } if bytes.len() >= end => Reading::Done { head, end },
            Reading::Chunks { head, at } => {
                let Some(line) = bytes.get(at..).and_then(|rest| memmem::find(rest, b"\r\n")) else { return self };
                let size = std::str::from_utf8(&bytes[at..at + line]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                let next = at + line + 2 + size + 2;
                match size {
                    0 if bytes.len() >= next => Reading::Done { head, end: next },
                    0 => self,
                    _ => Reading::Chunks { head, at: next }.go_on(bytes),
                }
            }
            Reading::Sized { .. } | Reading::Done { .. } => self,
        }
    }
}

fn length(head: &[u8]) -> Option<usize> {
    let at = memmem::find(head, b"ontent-length: ").or_else(|| memmem::find(head, b"ontent-Length: "))?;
    let digits = head[at + b"ontent-length: ".len()..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}
