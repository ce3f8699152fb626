//! Where the dump of a request is fetched: at the gateway, at a web server, or in a file.
//!
//! A delivery stores its address, which says which of them it is: `http…` for the first two,
//! `file:…` for a file of the source's folder, `upload:ID` for an upload.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use relevo_runs::backup_requests;
use relevo_settings::{BackupSource, SourceKind};
use reqwest::{
    Client, Response, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use secrecy::ExposeSecret as _;

use super::gateway::Gateway;
use crate::context::Context;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// What an upload's address begins with.
const UPLOAD: &str = "upload:";

/// Where a dump is fetched.
pub(crate) enum Origin {
    /// At the gateway, with its key.
    Gateway {
        gateway: Box<Gateway>,
        /// Checked to be on the gateway's host.
        url: Url,
    },
    /// At the source's own address, with its headers.
    Server {
        client: Client,
        /// As configured, secrets included.
        url: Url,
        headers: HeaderMap,
    },
    /// In a file that every worker sees.
    File(PathBuf),
}

impl Origin {
    /// What `address`, as a delivery of `source` stored it, means under the settings of now.
    pub(crate) fn of(
        context: &Context,
        source: &BackupSource,
        address: &str,
    ) -> anyhow::Result<Self> {
        if let Some(id) = address.strip_prefix(UPLOAD) {
            let id = id.parse().context("the upload's number cannot be read")?;
            return Ok(Self::File(context.uploads.path(id)));
        }
        match source.kind {
            SourceKind::Gateway => {
                // Checked when it was delivered; the settings may have changed since.
                backup_requests::check_download_url(&source.gateway_url, address)?;
                let url = address.parse().context("the download URL cannot be read")?;
                let gateway = Gateway::of(source)?;
                Ok(Self::Gateway { gateway: Box::new(gateway), url })
            }
            SourceKind::Url => server(source),
            SourceKind::Folder | SourceKind::File => file(source, address).map(Self::File),
            SourceKind::Upload => bail!(
                "the source takes uploads only, and this run has none: upload a dump, or start it \
                 with `relevo backup run --file`"
            ),
        }
    }

    /// Sends a request for the file, with `headers` added. No redirect is followed.
    ///
    /// # Errors
    /// The connection's; a file is not asked for this way.
    pub(crate) async fn open(&self, headers: &HeaderMap) -> Option<reqwest::Result<Response>> {
        match self {
            Self::Gateway { gateway, url } => Some(gateway.open_download(url, headers).await),
            Self::Server { client, url, headers: own } => {
                // No timeout for the whole: the caller watches the bytes.
                let request = client.get(url.clone()).headers(own.clone()).headers(headers.clone());
                // The address may hold a secret, and errors name it.
                Some(request.send().await.map_err(reqwest::Error::without_url))
            }
            Self::File(_) => None,
        }
    }
}

/// The address of an upload.
pub(crate) fn upload_address(id: i64) -> String {
    format!("{UPLOAD}{id}")
}

/// The address of a file.
pub(crate) fn file_address(path: &Path) -> anyhow::Result<String> {
    Url::from_file_path(path)
        .map(String::from)
        .map_err(|()| anyhow!("{} cannot be written as a URL", path.display()))
}

fn server(source: &BackupSource) -> anyhow::Result<Origin> {
    let url = source.url.as_ref().context("the source has no url")?;
    let url = Url::parse(url.expose_secret()).context("the source's url cannot be read")?;
    let mut headers = HeaderMap::new();
    for (name, value) in &source.headers {
        let name: HeaderName = name.parse().context("a name in headers cannot be sent")?;
        let mut value = HeaderValue::from_str(value.expose_secret())
            .map_err(|_| anyhow!("the value of the header {name} cannot be sent"))?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    let client = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("relevo/", env!("CARGO_PKG_VERSION")))
        .build()
        .context("the HTTP client could not be set up")?;
    Ok(Origin::Server { client, url, headers })
}

/// The file that was found, if it is still one of the source's.
fn file(source: &BackupSource, address: &str) -> anyhow::Result<PathBuf> {
    let url = Url::parse(address).context("the file's address cannot be read")?;
    let path = url.to_file_path().map_err(|()| anyhow!("{address:?} names no file"))?;
    let configured = source.path.as_deref().context("the source has no path")?;
    let own = match source.kind {
        SourceKind::Folder => path.parent() == Some(configured),
        _ => path == configured,
    };
    if !own {
        bail!("{} is not in {} any more, where the source looks", path.display(), source.origin());
    }
    Ok(path)
}
