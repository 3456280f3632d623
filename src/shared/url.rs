//! Where the shared tier is, as operators write it. Pure.
//!
//! ```text
//! redis://[[user]:password@]host[:6379][/database]
//! redis+sentinel://[[user]:password@]host[:26379][,host..]/name[/database]
//! redis+cluster://[[user]:password@]host[:6379][,host..]
//! ```
//!
//! Each with `rediss` in front for TLS. User, password and name are percent-encoded where they must be.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;

/// More seeds than anybody has; all of them are asked at once.
const MOST_SEEDS: usize = 32;

/// Where the tier is, and how to be let in. A secret as a whole: `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Address {
    pub(super) topology: Topology,
    pub(super) seeds: Vec<Endpoint>,
    pub(super) has_tls: bool,
    pub(super) user: Option<String>,
    password: Option<SecretString>,
    pub(super) database: u32,
    /// What simulations put in the place of the node.
    #[cfg(test)]
    pub(super) stand_in: Option<std::sync::Arc<super::model::Port>>,
}

/// How the node to talk to is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topology {
    /// It is the one seed.
    Standalone,
    /// Sentinels know where the master of this name is.
    Sentinel { master: String },
    /// Each node of the cluster knows which of them has our slot.
    Cluster,
}

/// A host, without brackets, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why a text is no address of a tier. Never says what the text was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error(
        "it begins with none of redis://, rediss://, redis+sentinel://, rediss+sentinel://, redis+cluster://, \
         rediss+cluster://"
    )]
    Scheme,
    #[error("it has blanks or control characters")]
    Character,
    #[error("it has no host, or an empty one")]
    NoHost,
    #[error("one of its hosts is not a name or an address (IPv6 in brackets)")]
    Host,
    #[error("it has several hosts, which redis+sentinel:// and redis+cluster:// may have alone")]
    SeveralHosts,
    #[error("it has more than {MOST_SEEDS} hosts")]
    TooManyHosts,
    #[error("one of its ports is not a number from 1 to 65535")]
    Port,
    #[error("its user name or password is not percent-encoded UTF-8; `@`, `/`, `?`, `#` and `%` must be encoded there")]
    Credentials,
    #[error("it names no master: redis+sentinel://host/NAME")]
    NoMaster,
    #[error("its database is not a number from 0 to 65535")]
    Database,
    #[error("a cluster has one database, 0")]
    ClusterDatabase,
    #[error("it has more path than is known here")]
    Path,
    #[error("it has a query or fragment; no option is known here")]
    Options,
}

impl Address {
    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_ref().map(ExposeSecret::expose_secret)
    }

    /// How it is spoken to, and with how many seeds: what may be shown of it.
    pub fn describe(&self) -> String {
        let scheme = if self.has_tls { "rediss" } else { "redis" };
        match (&self.topology, self.seeds.len()) {
            (Topology::Standalone, _) => scheme.to_owned(),
            (Topology::Sentinel { .. }, seeds) => format!("{scheme}+sentinel, {seeds} hosts"),
            (Topology::Cluster, seeds) => format!("{scheme}+cluster, {seeds} hosts"),
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Address) -> bool {
        let of = |one: &Address| (one.has_tls, one.database);
        of(self) == of(other)
            && self.topology == other.topology
            && self.seeds == other.seeds
            && self.user == other.user
            && self.password() == other.password()
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Address, Invalid> {
        let (scheme, rest) = text.split_once("://").ok_or(Invalid::Scheme)?;
        let (has_tls, kind) = match scheme.to_ascii_lowercase().as_str() {
            "redis" => (false, ""),
            "rediss" => (true, ""),
            "redis+sentinel" => (false, "sentinel"),
            "rediss+sentinel" => (true, "sentinel"),
            "redis+cluster" => (false, "cluster"),
            "rediss+cluster" => (true, "cluster"),
            _ => return Err(Invalid::Scheme),
        };
        if rest.chars().any(|letter| letter.is_control() || letter.is_whitespace()) {
            return Err(Invalid::Character);
        }
        // A password that is not encoded may have any of these; then what follows is no part of it.
        if rest.contains(['?', '#']) {
            return Err(Invalid::Options);
        }
        let (authority, path) = rest.split_once('/').map_or((rest, None), |(authority, path)| (authority, Some(path)));
        let (credentials, hosts) =
            authority.rsplit_once('@').map_or((None, authority), |(credentials, hosts)| (Some(credentials), hosts));
        let (user, password) = credentials.map_or(Ok((None, None)), read_credentials)?;
        let default_port = if kind == "sentinel" { SENTINEL_PORT } else { PORT };
        let seeds = hosts.split(',').map(|host| endpoint(host, default_port)).collect::<Result<Vec<_>, _>>()?;
        if seeds.len() > MOST_SEEDS {
            return Err(Invalid::TooManyHosts);
        }
        let mut parts = path.unwrap_or_default().split('/').filter(|part| !part.is_empty());
        let topology = match kind {
            "sentinel" => {
                let master = decoded(parts.next().ok_or(Invalid::NoMaster)?).ok_or(Invalid::NoMaster)?;
                Topology::Sentinel { master }
            }
            "cluster" => Topology::Cluster,
            _ if seeds.len() > 1 => return Err(Invalid::SeveralHosts),
            _ => Topology::Standalone,
        };
        let database = parts.next().map_or(Some(0), number).ok_or(Invalid::Database)?;
        if parts.next().is_some() {
            return Err(Invalid::Path);
        }
        if topology == Topology::Cluster && database != 0 {
            return Err(Invalid::ClusterDatabase);
        }
        Ok(Address {
            topology,
            seeds,
            has_tls,
            user,
            password,
            database: u32::from(database),
            #[cfg(test)]
            stand_in: None,
        })
    }
}

fn read_credentials(text: &str) -> Result<(Option<String>, Option<SecretString>), Invalid> {
    if text.contains('@') {
        return Err(Invalid::Credentials);
    }
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let part = |text: &str| decoded(text).ok_or(Invalid::Credentials);
    let user = Some(part(user)?).filter(|user| !user.is_empty());
    let password = password.map(part).transpose()?.filter(|password| !password.is_empty());
    // A user alone cannot be let in.
    if user.is_some() && password.is_none() {
        return Err(Invalid::Credentials);
    }
    Ok((user, password.map(SecretString::from)))
}

fn decoded(text: &str) -> Option<String> {
    // What is no escape is taken as it stands by others, and would be another password.
    let is_whole = text.split('%').skip(1).all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2);
    let decoded = percent_decode_str(text).decode_utf8().ok().filter(|_| is_whole)?;
    Some(decoded.into_owned())
}

fn endpoint(text: &str, default_port: u16) -> Result<Endpoint, Invalid> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(Invalid::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| Invalid::Host)?;
            (host, port.strip_prefix(':').or(if port.is_empty() { None } else { Some("") }))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(Invalid::NoHost);
    }
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_' | ':');
    if !host.chars().all(is_plain) {
        return Err(Invalid::Host);
    }
    let port = port.map_or(Some(default_port), number).filter(|port| *port > 0).ok_or(Invalid::Port)?;
    Ok(Endpoint { host: host.to_owned(), port })
}

fn number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Address, Invalid> {
        text.parse()
    }

    fn shown(text: &str) -> String {
        let Address { topology, seeds, has_tls, user, password, database, stand_in: _ } = parse(text).unwrap();
        let seeds: Vec<_> = seeds.iter().map(|seed| format!("{} {}", seed.host, seed.port)).collect();
        let password = password.as_ref().map(ExposeSecret::expose_secret);
        format!("{topology:?} {seeds:?} {has_tls} {user:?} {password:?} {database}")
    }

    #[test]
    fn each_part_makes_another_address() {
        let all = [
            "redis://a",
            "rediss://a",
            "redis://b",
            "redis://a:1",
            "redis://a/1",
            "redis://:p@a",
            "redis://:q@a",
            "redis://u:p@a",
            "redis+cluster://a",
            "redis+cluster://a,b",
            "redis+sentinel://a:6379/m",
            "redis+sentinel://a:6379/n",
        ];
        let all = all.map(|text| parse(text).unwrap());
        for (place, one) in all.iter().enumerate() {
            for (other_place, other) in all.iter().enumerate() {
                assert_eq!(one == other, place == other_place, "{place} {other_place}");
            }
        }
        assert!(all[0] == parse("REDIS://a:6379/").unwrap());
    }

    #[test]
    fn all_forms_are_read() {
        for (text, expected) in [
            ("redis://cache", r#"Standalone ["cache 6379"] false None None 0"#),
            ("REDIS://cache/", r#"Standalone ["cache 6379"] false None None 0"#),
            ("rediss://:p%40ss@10.0.0.1:7000/3", r#"Standalone ["10.0.0.1 7000"] true None Some("p@ss") 3"#),
            ("redis://user:p:w@[::1]:1", r#"Standalone ["::1 1"] false Some("user") Some("p:w") 0"#),
            ("redis://[::1]", r#"Standalone ["::1 6379"] false None None 0"#),
            (
                "redis+sentinel://:p@a,b:1,c/my%20master/2",
                r#"Sentinel { master: "my master" } ["a 26379", "b 1", "c 26379"] false None Some("p") 2"#,
            ),
            ("rediss+cluster://a,b", r#"Cluster ["a 6379", "b 6379"] true None None 0"#),
            ("redis+cluster://a/0", r#"Cluster ["a 6379"] false None None 0"#),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, why) in [
            ("", Invalid::Scheme),
            ("cache:6379", Invalid::Scheme),
            ("http://cache", Invalid::Scheme),
            ("redis://", Invalid::NoHost),
            ("redis://:p@", Invalid::NoHost),
            ("redis+cluster://a,,b", Invalid::NoHost),
            ("redis://a,b", Invalid::SeveralHosts),
            ("redis://a b", Invalid::Character),
            ("redis://a\n", Invalid::Character),
            ("redis://[::1", Invalid::Host),
            ("redis://[fe80::1%25eth0]", Invalid::Host),
            ("redis://[::1]x", Invalid::Port),
            ("redis://bü", Invalid::Host),
            ("redis://a:0", Invalid::Port),
            ("redis://a:65536", Invalid::Port),
            ("redis://a:+1", Invalid::Port),
            ("redis://a:1:2", Invalid::Port),
            ("redis://user@a", Invalid::Credentials),
            ("redis://:p@ss@a", Invalid::Credentials),
            ("redis://:100%@a", Invalid::Credentials),
            ("redis://:%ff@a", Invalid::Credentials),
            ("redis://:p#w@a", Invalid::Options),
            ("redis://a?db=1", Invalid::Options),
            ("redis://a/x", Invalid::Database),
            ("redis://a/-1", Invalid::Database),
            ("redis://a/0/1", Invalid::Path),
            ("redis+sentinel://a", Invalid::NoMaster),
            ("redis+sentinel://a/", Invalid::NoMaster),
            ("redis+cluster://a/1", Invalid::ClusterDatabase),
        ] {
            assert_eq!(parse(text).unwrap_err(), why, "{text:?}");
        }
        let many = vec!["a"; MOST_SEEDS + 1].join(",");
        assert_eq!(parse(&format!("redis+cluster://{many}")).unwrap_err(), Invalid::TooManyHosts);
    }

    #[test]
    fn nothing_of_it_is_shown() {
        let address = parse("rediss+sentinel://user:s3cret@a.s3cret,b/s3cret").unwrap();
        assert_eq!(format!("{address:?} {}", address.describe()), "Address(..) rediss+sentinel, 2 hosts");
        for text in ["s3cret", "redis://:s3cret@", "redis://s3cret@h", "redis://h/s3cret", "redis://h:s3cret"] {
            let why = parse(text).unwrap_err();
            assert!(!format!("{why} {why:?}").contains("s3cret"), "{why}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(rediss?(\\+sentinel|\\+cluster)?://)?[ -~\u{e4}\u{0}]{0,60}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_password_can_be_encoded(password in ".{1,40}") {
            let encoded = percent_encoding::utf8_percent_encode(&password, percent_encoding::NON_ALPHANUMERIC);
            let address = parse(&format!("redis://:{encoded}@host")).unwrap();
            prop_assert_eq!(address.password(), Some(password.as_str()));
        }
    }
}
