//! A TCP proxy that fails as networks do: it cuts connections, or lets them go silent without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Stands before the server of a database URL while this value lives.
pub struct FaultProxy {
    address: SocketAddr,
    accepted: Arc<AtomicU64>,
    /// Connections up to this number carry nothing any more, not even their end.
    silent: watch::Sender<u64>,
    /// Connections up to this number are closed.
    cut: watch::Sender<u64>,
    listening: JoinHandle<()>,
}

impl FaultProxy {
    /// Starts one before the server of `url`.
    pub async fn start(url: &str) -> Self {
        let url = url::Url::parse(url).expect("a database URL");
        let host = url.host_str().expect("the server's host").to_owned();
        let server = (host, url.port().unwrap_or(5432));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("the proxy's address");
        let (silent, cut) = (watch::Sender::new(0), watch::Sender::new(0));
        let accepted = Arc::new(AtomicU64::new(0));
        let (count, heed, end) = (Arc::clone(&accepted), silent.clone(), cut.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                // What cannot be connected is closed, as by a server that is down.
                let Ok(server) = TcpStream::connect((server.0.as_str(), server.1)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (heed, mut end) = (heed.clone(), end.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        () = carry(from_client, to_server, number, heed.subscribe()) => {}
                        () = carry(from_server, to_client, number, heed.subscribe()) => {}
                        _ = end.wait_for(|cut| *cut >= number) => {}
                    }
                });
            }
        });
        Self { address, accepted, silent, cut, listening }
    }

    /// The address of a database, by way of the proxy.
    pub fn before(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).expect("a database URL");
        url.set_ip_host(self.address.ip()).expect("a host");
        url.set_port(Some(self.address.port())).expect("a port");
        url.into()
    }

    /// How many connections it has taken so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The connections there are stay open on both sides and carry nothing any more, as behind a
    /// router that forgot them; new ones work. Says how many there have been.
    pub fn silence(&self) -> u64 {
        let number = self.accepted();
        self.silent.send_replace(number);
        number
    }

    /// Closes the connections there are; new ones work.
    pub fn cut(&self) {
        self.cut.send_replace(self.accepted());
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut.send_replace(u64::MAX);
    }
}

/// One direction, until its end.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    silent: watch::Receiver<u64>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await;
        if *silent.borrow() >= number {
            std::future::pending::<()>().await;
        }
        match read {
            Ok(size) if size > 0 && to.write_all(&buffer[..size]).await.is_ok() => {}
            _ => return,
        }
    }
}
