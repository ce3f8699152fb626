//! The guard of outgoing requests: public addresses only, but for those that are allowed by name,
//! and no redirect.
//!
//! The name is resolved here and the connection goes to the addresses found here, so that a name
//! that answers differently the second time changes nothing. Proxies of the environment are not
//! used: they would resolve names themselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use relevo_settings::Settings;
use reqwest::redirect;
use url::{Host, Url};

/// How long looking up a name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request is not made.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The URL names no host or port.
    #[error("the URL names no host")]
    NoHost,
    /// The name has no address now.
    #[error("the host {host} cannot be resolved")]
    Unresolved {
        /// The name.
        host: String,
    },
    /// It leads into a private network or to this machine.
    #[error(
        "{host_port} is a private address, which is not asked unless outbound.allow names {host_port}"
    )]
    Private {
        /// What `outbound.allow` would have to name.
        host_port: String,
    },
    /// The client could not be set up.
    #[error("the HTTP client could not be set up")]
    Client(#[source] reqwest::Error),
}

impl OutboundError {
    /// Whether another try later may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unresolved { .. })
    }
}

/// The guard.
#[derive(Clone, Debug, Default)]
pub struct Outbound {
    allow: BTreeSet<String>,
}

impl Outbound {
    /// As configured.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self { allow: settings.outbound.allow.iter().cloned().collect() }
    }

    /// The addresses of a host that may be reached.
    ///
    /// # Errors
    /// When there is none.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let found: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => {
                let unresolved = || OutboundError::Unresolved { host: bare.clone() };
                let looked_up = tokio::net::lookup_host((bare.as_str(), port));
                let answer = tokio::time::timeout(LOOKUP_TIMEOUT, looked_up).await;
                answer.map_err(|_| unresolved())?.map_err(|_| unresolved())?.collect()
            }
        };
        let shown = if bare.contains(':') { format!("[{bare}]") } else { bare.clone() };
        let host_port = format!("{shown}:{port}");
        if found.is_empty() {
            return Err(OutboundError::Unresolved { host: bare });
        }
        if self.allow.contains(&host_port) {
            return Ok(found);
        }
        let public: Vec<_> = found.into_iter().filter(|found| is_public(found.ip())).collect();
        if public.is_empty() { Err(OutboundError::Private { host_port }) } else { Ok(public) }
    }

    /// A client for requests to this URL's host, and to no other.
    ///
    /// # Errors
    /// When the host may not be asked or has no address.
    pub async fn client(
        &self,
        url: &Url,
        timeout: Duration,
    ) -> Result<reqwest::Client, OutboundError> {
        let host = url.host_str().ok_or(OutboundError::NoHost)?;
        let port = url.port_or_known_default().ok_or(OutboundError::NoHost)?;
        let addresses = self.addresses(host, port).await?;
        let mut builder = client_builder(timeout);
        if let Some(Host::Domain(name)) = url.host() {
            builder = builder.resolve_to_addrs(name, &addresses);
        }
        builder.build().map_err(OutboundError::Client)
    }
}

/// What every client here has in common.
pub(crate) fn client_builder(timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(timeout)
        .timeout(timeout)
        .user_agent(concat!("relevo/", env!("CARGO_PKG_VERSION")))
}

/// Whether anybody in the world may have this address.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || a == 0
        || a >= 240
        // Behind a provider's address translation; protocol assignments; benchmarks.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !special
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    // Those that stand for an IPv4 address are judged by it: mapped, compatible, NAT64, 6to4.
    let segments = ip.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            return v4(high, low);
        }
        [0, 0, 0, 0, 0, 0, _, _] => return false,
        [0x2002, high, low, ..] => return v4(high, low),
        _ => {}
    }
    // Global unicast, but for documentation, Teredo and other special uses within it.
    let global = segments[0] & 0xe000 == 0x2000;
    let special = (segments[0] == 0x2001 && (segments[1] < 0x0200 || segments[1] == 0x0db8))
        || (segments[0] == 0x3fff && segments[1] < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().expect(public)), "{public}");
        }
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!is_public(private.parse().expect(private)), "{private}");
        }
    }

    #[tokio::test]
    async fn a_private_address_is_refused_unless_its_host_and_port_are_allowed() {
        let allow = BTreeSet::from(["127.0.0.1:80".to_owned(), "localhost:8080".to_owned()]);
        let guard = Outbound { allow };
        for (host, port) in [("127.0.0.1", 80), ("localhost", 8080), ("LOCALHOST", 8080)] {
            guard.addresses(host, port).await.unwrap_or_else(|error| panic!("{host}: {error}"));
        }
        for (host, port) in [("127.0.0.1", 81), ("localhost", 80), ("[::1]", 80), ("10.0.0.1", 80)]
        {
            let error = guard.addresses(host, port).await.expect_err("is refused");
            assert!(matches!(error, OutboundError::Private { .. }), "{host}: {error}");
            assert!(error.to_string().contains("outbound.allow"), "{error}");
        }
        let url = Url::parse("http://169.254.169.254/latest/meta-data").expect("a URL");
        assert!(guard.client(&url, Duration::from_secs(1)).await.is_err());
    }
}
