//! Hosts in links and source URLs: named so that every reader sees the same one, and whether they are the public's.
//! Pure.
//!
//! The URL standard lets many signs into a host's name. Other readers take some of them for patterns, for the end of
//! the name, or for a name of their own: `{127.0.0.1,x.y}` is two hosts to curl.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::Host;

/// The longest name in DNS, without the root's dot.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Ends of names that lead into somebody's own network or nowhere, as labels from the left. RFC 6761 but for the
/// `example` names, RFC 6762 appendix G, RFC 8375 (in `arpa`), what else IANA lists as special (`alt`, `onion`), what
/// ICANN keeps out of the root since private networks use it, and what clusters, containers and routers call their own.
const SPECIAL: &[&str] = &[
    "alt",
    "arpa",
    "cluster",
    "consul",
    "corp",
    "docker",
    "domain",
    "home",
    "internal",
    "intranet",
    "invalid",
    "kubernetes",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "localnet",
    "mail",
    "mesh",
    "mesos",
    "nomad",
    "onion",
    "pod",
    "private",
    "router",
    "svc",
    "swarm",
    "test",
    "workgroup",
];

/// Whether `host`, as the URL standard has parsed it, is an address, or a name of letters, digits, `-` and `_` in
/// labels of 1 to 63, the root's dot aside.
pub(crate) fn is_plain(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(_) | Host::Ipv6(_) => true,
        Host::Domain(name) => {
            let name = without_root(name);
            name.len() <= MAX_NAME && name.split('.').all(is_label)
        }
    }
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain)
}

/// Whether `host` is everybody's: a global address, or a name of two labels or more that is not special.
pub(crate) fn is_public(host: &Host<&str>) -> bool {
    match host {
        Host::Ipv4(address) => is_global_v4(*address),
        Host::Ipv6(address) => is_global_v6(*address),
        Host::Domain(name) => match without_root(name).rsplit_once('.') {
            Some((_, last)) => !SPECIAL.contains(&last.to_ascii_lowercase().as_str()),
            // A single label is a neighbour's name.
            None => false,
        },
    }
}

fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// All but multicast, one address more, and what the IANA IPv4 special-purpose registry does not call globally
/// reachable.
fn is_global_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127, ..] => true,
        [100, 64..=127, ..] => true, // carrier-grade NAT
        [169, 254, ..] => true,      // link-local, the metadata of clouds
        [172, 16..=31, ..] => true,
        [192, 0, 0, _] => true, // IETF protocol assignments
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => true, // documentation
        [192, 88, 99, _] => true, // 6to4 relays, once
        [192, 168, ..] => true,
        [198, 18 | 19, ..] => true, // benchmarking
        [224..=255, ..] => true,    // multicast, reserved, broadcast
        [168, 63, 129, 16] => true, // to every machine in Azure, its host
        _ => false,
    };
    !special
}

/// What the IANA IPv6 special-purpose registry leaves of 2000::/3, which is all that is assigned; and NAT64's prefix,
/// which leads where the IPv4 address in it does.
fn is_global_v6(address: Ipv6Addr) -> bool {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_global_v4(v4(high, low)),
        // IETF protocol assignments: Teredo, benchmarking, ORCHID, anycast. Files lie on none of them.
        [0x2001, 0..=0x1ff, ..] => false,
        [0x2001, 0xdb8, ..] => false,     // documentation
        [0x2002, ..] => false,            // 6to4
        [0x3fff, 0..=0xfff, ..] => false, // documentation
        // ISATAP: a machine inside takes the IPv4 address for where to go.
        [0x2000..=0x3fff, _, _, _, 0 | 0x200, 0x5efe, high, low] => is_global_v4(v4(high, low)),
        [0x2000..=0x3fff, ..] => true,
        // Loopback, IPv4 in IPv6, discard, local-use NAT64, segment routing, unique local, link-local, multicast.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    /// Of `https://HOST/`: whether it is plain, and whether it is public.
    fn judged(host: &str) -> Option<(bool, bool)> {
        let url = Url::parse(&format!("https://{host}/")).ok()?;
        let host = url.host()?;
        Some((is_plain(&host), is_public(&host)))
    }

    #[test]
    fn a_name_is_plain_where_every_reader_sees_the_same_one() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        for host in [
            "x.r2.cloudflarestorage.com",
            "tempfile.aiquickdraw.com.",
            "a_b.example",
            "_dmarc.example.com",
            "-a-.example",
            "xn--b-eha.example",
            "bü.example",
            "EXAMPLE.com",
            "single",
            "8.8.8.8",
            "[2606:4700::1111]",
            &format!("{label}.example"),
            &longest,
            &format!("{longest}."),
        ] {
            assert_eq!(judged(host).map(|(plain, _)| plain), Some(true), "{host}");
        }
        for host in [
            "{127.0.0.1,x.y}",
            "127.0.0.1;.example.com",
            "127.0.0.1'.evil.com",
            "127.0.0.1,.example.com",
            "a!b.example",
            "a$b.example",
            "a&b.example",
            "a(b).example",
            "a*.example",
            "*.example",
            "a+b.example",
            "a=b.example",
            "a~b.example",
            "a`b.example",
            "a\"b.example",
            "a}b.example",
            "[1-9].example",
            "a..example",
            "example..",
            "example.com..",
            ".example.com",
            ".",
            &format!("{label}a.example"),
            &format!("{longest}a"),
        ] {
            assert!(judged(host).is_none_or(|(plain, _)| !plain), "{host}");
        }
    }

    #[test]
    fn names_of_private_networks_and_special_ones_are_not_public() {
        for host in [
            "x.r2.cloudflarestorage.com",
            "h.example",
            "www.example.com.",
            "example.net",
            "local.example.com",
            "internal.kie.ai",
            "svc.io",
            "corp.com",
            "homes.dev",
        ] {
            assert_eq!(judged(host), Some((true, true)), "{host}");
        }
        for host in [
            "localhost",
            "metadata",
            "com",
            "kie-ai.",
            "a.localhost",
            "a.localhost.",
            "a.test",
            "a.invalid",
            "a.local",
            "a.ns.svc.cluster.local",
            "a.ns.svc",
            "1-2-3-4.ns.pod",
            "a.LAN",
            "router.lan.",
            "a.intranet",
            "a.internal",
            "metadata.google.internal",
            "a.private",
            "a.corp",
            "a.home",
            "a.home.arpa",
            "1.0.0.127.in-addr.arpa",
            "a.localdomain",
            "a.onion",
            "a.alt",
            "a.mail",
            "web.service.consul",
        ] {
            assert_eq!(judged(host), Some((true, false)), "{host}");
        }
    }

    #[test]
    fn addresses_that_are_not_everybodys_are_not_public() {
        for host in [
            "8.8.8.8",
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.0.0.1",
            "128.0.0.1",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "203.0.112.1",
            "223.255.255.255",
            "[2606:4700::1111]",
            "[2a00:1450::1]",
            "[2001:200::1]",
            "[2001:4860:4860::8888]",
            "[64:ff9b::8.8.8.8]",
        ] {
            assert_eq!(judged(host), Some((true, true)), "{host}");
        }
        for host in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.0",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::8.8.8.8]",
            "[::ffff:10.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[::ffff:0:10.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::8.8.8.8]",
            "[100::1]",
            "[100:0:0:1::1]",
            "[2001::1]",
            "[2001:0:a00:1::]",
            "[2001:2::1]",
            "[2001:10::1]",
            "[2001:1f::1]",
            "[2001:20::1]",
            "[2001:db8::1]",
            "[2002:808:808::1]",
            "[2002:a00:1::1]",
            "[2606:4700::5efe:10.0.0.1]",
            "[3fff::1]",
            "[3fff:fff::1]",
            "[4000::1]",
            "[5f00::1]",
            "[fc00::1]",
            "[fd00::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
        ] {
            assert_eq!(judged(host), Some((true, false)), "{host}");
        }
    }
}
