//! What a gateway writes: its timestamps and its download URLs.

use chrono::{DateTime, NaiveDateTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use url::Url;

/// Longest download URL taken, in bytes.
const URL_BYTES_MAX: usize = 2_048;

/// Why a download URL is not followed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlRefused {
    /// It cannot be read.
    #[error(
        "the download URL is not a complete http or https URL of at most {URL_BYTES_MAX} bytes"
    )]
    Malformed,
    /// It carries a user name or password.
    #[error("the download URL carries a user name or password")]
    Credentials,
    /// It points elsewhere.
    #[error("the download URL points to {found}, the gateway is {expected}")]
    OtherHost {
        /// Host and port of the URL.
        found: String,
        /// Host and port of the configured gateway.
        expected: String,
    },
    /// The configured gateway's URL cannot be read.
    #[error("the configured gateway_url is not a complete URL")]
    Gateway,
}

/// Checks that a download URL stays with the gateway that was asked, so that nobody can make the
/// worker fetch from somewhere else.
///
/// The host must be the same. The port must be the same too, or the usual one of its scheme when the
/// gateway has the usual one of its own: gateways behind https are known to hand out http URLs.
/// Whether http is then spoken is the download's decision, not this check's.
///
/// # Errors
/// [`UrlRefused`] says what is wrong with it.
pub fn check_download_url(gateway_url: &str, download_url: &str) -> Result<(), UrlRefused> {
    let gateway = Url::parse(gateway_url).map_err(|_| UrlRefused::Gateway)?;
    if download_url.len() > URL_BYTES_MAX || download_url.chars().any(char::is_control) {
        return Err(UrlRefused::Malformed);
    }
    let download = Url::parse(download_url).map_err(|_| UrlRefused::Malformed)?;
    if !matches!(download.scheme(), "http" | "https") || download.host().is_none() {
        return Err(UrlRefused::Malformed);
    }
    if !download.username().is_empty() || download.password().is_some() {
        return Err(UrlRefused::Credentials);
    }
    let same_host = download.host() == gateway.host();
    let both_usual = download.port().is_none() && gateway.port().is_none();
    let same_port = download.port_or_known_default() == gateway.port_or_known_default();
    if same_host && (both_usual || same_port) {
        return Ok(());
    }
    Err(UrlRefused::OtherHost { found: authority(&download), expected: authority(&gateway) })
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// The file name that a download URL ends in.
pub(super) fn filename_of(download_url: &str) -> Option<String> {
    let url = Url::parse(download_url).ok()?;
    url.path_segments()?.next_back().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// A gateway's timestamp, which carries no zone, as a moment in time: `2025-08-22 08:51:33` in the
/// configured zone. A timestamp with an offset is taken at its word. When clocks were put back, the
/// earlier of two moments; `None` for what is no timestamp and for an hour that clocks skipped.
#[must_use]
pub fn gateway_time(text: &str, zone: Tz) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let local = ["%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d_%H-%M-%S"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())?;
    zone.from_local_datetime(&local).earliest().map(|time| time.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_stays_with_its_gateway() {
        let ok = |gateway, url| assert_eq!(check_download_url(gateway, url), Ok(()), "{url}");
        ok("https://gw.example", "https://gw.example/api/backup/download/a.sql.gz");
        ok("https://gw.example", "http://gw.example/api/backup/download/a.sql.gz");
        ok("https://gw.example", "https://GW.example:443/a");
        ok("http://10.0.0.7:8099", "http://10.0.0.7:8099/a");
        ok("https://[::1]:99/base", "http://[::1]:99/a");
    }

    #[test]
    fn a_download_elsewhere_is_refused() {
        let gateway = "https://gw.example";
        for url in [
            "https://gw.example.evil.test/a",
            "https://evil.test/gw.example",
            "https://gw.example:8443/a",
            "http://169.254.169.254/latest",
            "https://gw.example@evil.test/a",
        ] {
            assert!(check_download_url(gateway, url).is_err(), "{url}");
        }
        assert_eq!(
            check_download_url(gateway, "https://user@gw.example/a"),
            Err(UrlRefused::Credentials)
        );
        for url in ["file:///etc/passwd", "ftp://gw.example/a", "//gw.example/a", "", "a\0b"] {
            assert_eq!(check_download_url(gateway, url), Err(UrlRefused::Malformed), "{url}");
        }
        assert!(check_download_url("http://gw:8099", "http://gw/a").is_err());
        let long = format!("https://gw.example/{}", "a".repeat(3_000));
        assert_eq!(check_download_url(gateway, &long), Err(UrlRefused::Malformed));
    }

    #[test]
    fn the_file_name_is_the_last_segment() {
        let name = |url| filename_of(url);
        assert_eq!(name("https://gw/api/a.sql.gz?x=1").as_deref(), Some("a.sql.gz"));
        assert_eq!(name("https://gw/"), None);
    }

    #[test]
    fn timestamps_are_local_to_the_gateway() {
        let zone = chrono_tz::America::Mexico_City;
        let time = |text| gateway_time(text, zone).map(|time| time.to_rfc3339());
        assert_eq!(time("2025-08-22 08:51:33").as_deref(), Some("2025-08-22T14:51:33+00:00"));
        assert_eq!(time("2025-08-22T08:51:33Z").as_deref(), Some("2025-08-22T08:51:33+00:00"));
        assert_eq!(time("2025-08-22_02-48-09").as_deref(), Some("2025-08-22T08:48:09+00:00"));
        assert_eq!(time("soon"), None);
        // Clocks in Tijuana went from 02:00 to 03:00 that day, and back from 02:00 to 01:00.
        let zone = chrono_tz::America::Tijuana;
        assert_eq!(gateway_time("2025-03-09 02:30:00", zone), None);
        assert_eq!(
            gateway_time("2025-11-02 01:30:00", zone).map(|time| time.to_rfc3339()).as_deref(),
            Some("2025-11-02T08:30:00+00:00")
        );
    }
}
