//! What goes wrong between here and the tier.

use std::{fmt, io};

use redis::{RedisError, ServerError, Value};
use rustls::CertificateError;

/// Why a question has no answer. Whoever asked does without the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    #[error("the tier is away")]
    Away,
    #[error("the tier did not answer in time")]
    Late,
    #[error("the tier has been asked too much at once")]
    Busy,
    /// The tier takes questions, but not this one.
    #[error("the tier refused the question")]
    Refused,
    #[error("the tier's answer makes no sense")]
    Malformed,
}

impl Error {
    pub const ALL: [Error; 5] = [Error::Away, Error::Late, Error::Busy, Error::Refused, Error::Malformed];

    pub fn as_str(self) -> &'static str {
        match self {
            Error::Away => "away",
            Error::Late => "late",
            Error::Busy => "busy",
            Error::Refused => "refused",
            Error::Malformed => "malformed",
        }
    }
}

/// Why the tier is away. Names no host, user or password.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("its name cannot be looked up")]
    Lookup(#[source] io::Error),
    #[error("the look-up of its name takes too long")]
    SlowLookup,
    #[error("no connection")]
    Connect(#[source] io::Error),
    #[error("there are no root certificates that could vouch for it: SSL_CERT_FILE or SSL_CERT_DIR names them")]
    NoRoots(#[source] Option<crate::roots::ReadError>),
    #[error("its name can stand in no certificate")]
    TlsName,
    #[error("its certificate is for another name than the one by which it is reached")]
    OtherName,
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    #[error("no answer")]
    Silent,
    #[error("the connection was lost")]
    Lost,
    #[error(
        "it is in protected mode, which turns away whoever is not on its own machine: give it a password, or set \
         `protected-mode no`"
    )]
    Protected,
    #[error("an answer is no Redis protocol")]
    Garbage,
    #[error("an answer is too long")]
    TooLong,
    #[error("it answers another question than it was asked")]
    Misaligned,
    #[error("it answers {0}")]
    Refused(Code),
    #[error("it is a replica, which takes no writes")]
    Replica,
    #[error("no sentinel knows a master of this name")]
    NoMaster,
    #[error("no node of the cluster knows who has our slot")]
    NoOwner,
    #[error("kielink has a defect; the log says where")]
    Defect,
}

/// The first word of an error: what kind it is, without the tier's own text, which may name anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Code(String);

/// After these, the connection is of no use: the tier takes no writes, does not know us, or sends us elsewhere.
const LASTING: [&str; 16] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOPROTO",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
];

/// A kind of error is named in one short word.
const LONGEST_CODE: usize = 24;

impl Code {
    fn of(error: &ServerError) -> Code {
        Code::read(error.code(), error.details().unwrap_or_default())
    }

    fn read(code: &str, details: &str) -> Code {
        // Redis 6.2 wraps what a command in a script says: "ERR Error running script (..): @user_script:1: -OOM ..".
        let inner = details.strip_prefix("Error running script").and_then(|rest| rest.rsplit_once(": -"));
        let code = inner.and_then(|(_, said)| said.split(' ').next()).unwrap_or(code);
        // That a user may not use a command, or a key, is no error of its own kind where a script meets it.
        let is_forbidden = ["can't run this command", "can't access at least one of the keys", "ACL failure in script"];
        let code = if is_forbidden.iter().any(|said| details.contains(said)) { "NOPERM" } else { code };
        let is_word =
            !code.is_empty() && code.len() <= LONGEST_CODE && code.bytes().all(|byte| byte.is_ascii_uppercase());
        Code(if is_word { code.to_owned() } else { "ERR".to_owned() })
    }

    /// Whether no later question on this connection will fare better.
    pub(super) fn is_lasting(&self) -> bool {
        LASTING.contains(&self.0.as_str())
    }

    pub(super) fn is(&self, code: &str) -> bool {
        self.0 == code
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Fault {
    /// Why TLS failed. Where the names differ, rustls tells both.
    pub(super) fn of_tls(error: io::Error) -> Fault {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Fault::OtherName,
            _ => Fault::Tls(error),
        }
    }

    fn refused(code: Code) -> Fault {
        if code.is("DENIED") { Fault::Protected } else { Fault::Refused(code) }
    }

    /// What the client library says of a connection that it gives up.
    fn of(error: &RedisError) -> Fault {
        if error.kind() == redis::ErrorKind::Parse {
            return Fault::Garbage;
        }
        match error.code() {
            Some(code) => Fault::refused(Code::read(code, error.detail().unwrap_or_default())),
            None => Fault::Lost,
        }
    }
}

/// An answer, or why there is none.
///
/// # Errors
/// `Fault::Refused` for an error that the tier answers; any other where the connection is lost.
pub(super) fn read(answer: Result<Value, RedisError>) -> Result<Value, Fault> {
    match answer {
        Ok(Value::ServerError(error)) => Err(Fault::refused(Code::of(&error))),
        Ok(value) => Ok(value),
        Err(error) => Err(Fault::of(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_first_word_and_by_what_a_script_met() {
        let wrapped = "Error running script (call to f_1): @user_script:1: @user_script: 1: ";
        for (code, details, read, is_lasting) in [
            ("READONLY", "You can't write against a read only replica.", "READONLY", true),
            ("OOM", "command not allowed. script: 1, on @user_script:1.", "OOM", true),
            ("ERR", &format!("{wrapped}-OOM command not allowed"), "OOM", true),
            ("ERR", &format!("{wrapped}-READONLY You can't write"), "READONLY", true),
            ("ERR", &format!("{wrapped}-WRONGTYPE Operation against"), "WRONGTYPE", false),
            ("ERR", &format!("{wrapped}Script attempted to access a non local key"), "ERR", false),
            (
                "ERR",
                "The user executing the script can't run this command or subcommand script: 1, on @user_script:1.",
                "NOPERM",
                true,
            ),
            (
                "ERR",
                &format!("{wrapped}The user executing the script can't run this command or subcommand"),
                "NOPERM",
                true,
            ),
            (
                "ERR",
                "The user executing the script can't access at least one of the keys mentioned in the command arguments script: 1, on @user_script:1.",
                "NOPERM",
                true,
            ),
            // Valkey 9.1, which also names the user.
            (
                "ERR",
                "ACL failure in script: User k has no permissions to run the 'del' command script: on @user_script:1.",
                "NOPERM",
                true,
            ),
            ("ERR", "unknown command", "ERR", false),
            ("WRONGTYPE", "", "WRONGTYPE", false),
            ("s3cret", "", "ERR", false),
            ("", "", "ERR", false),
            (&"A".repeat(LONGEST_CODE + 1), "", "ERR", false),
        ] {
            let found = Code::read(code, details);
            assert_eq!((found.to_string().as_str(), found.is_lasting()), (read, is_lasting), "{code} {details}");
        }
    }
}
