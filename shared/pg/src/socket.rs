//! What the driver leaves at the system's defaults on its TCP connections.
//!
//! The driver opens its sockets itself and hands them out to nobody, so they are found among the
//! process's own by the port they lead to. Two defaults hurt: a small message after another one
//! waits some 40 ms for the peer's delayed acknowledgement (every short COPY ends with one), and a
//! server that vanished without a word is waited for without end.

/// Sends small messages at once, and gives a silent peer up, on all TCP connections of this
/// process to `port`. Where the system does not let us, they stay as they are.
pub(crate) fn tune(port: u16) {
    #[cfg(target_os = "linux")]
    match linux::tune(port) {
        Ok(tuned) => tracing::trace!(port, tuned, "set options of database sockets"),
        Err(error) => tracing::debug!(port, %error, "could not set options of database sockets"),
    }
    #[cfg(not(target_os = "linux"))]
    let _ = port;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::net::SocketAddr;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::net::{getpeername, sockopt};
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    /// Silence before the peer is asked whether it is still there.
    const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
    /// Pause between two such questions.
    const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
    /// Questions without an answer after which the connection is given up.
    const KEEPALIVE_COUNT: u32 = 3;
    /// How long sent data may stay unacknowledged.
    const USER_TIMEOUT_MS: u32 = 60_000;

    /// Returns how many sockets were changed.
    pub(super) fn tune(port: u16) -> std::io::Result<usize> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())?;
        let mut tuned = 0;
        for entry in std::fs::read_dir("/proc/self/fd")? {
            let entry = entry?;
            let is_socket = std::fs::read_link(entry.path())
                .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let (true, Some(number)) = (is_socket, number) else { continue };
            // A second descriptor of the same socket, ours to close: the first may be closed
            // meanwhile by its owner.
            let Ok(socket) = pidfd_getfd(&own, number, PidfdGetfdFlags::empty()) else { continue };
            if leads_to(&socket, port) && !sockopt::tcp_nodelay(&socket).unwrap_or(true) {
                sockopt::set_tcp_nodelay(&socket, true)?;
                sockopt::set_socket_keepalive(&socket, true)?;
                sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
                sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
                sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_COUNT)?;
                sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
                tuned += 1;
            }
        }
        Ok(tuned)
    }

    fn leads_to(socket: &OwnedFd, port: u16) -> bool {
        let peer = getpeername(socket).ok().flatten();
        peer.and_then(|peer| SocketAddr::try_from(peer).ok())
            .is_some_and(|peer| peer.port() == port)
    }

    #[cfg(test)]
    mod tests {
        use std::net::{TcpListener, TcpStream};

        use super::*;

        #[test]
        fn connections_to_the_port_are_tuned_once_and_others_left_alone() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let other = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let stranger = TcpStream::connect(other.local_addr().unwrap()).unwrap();
            assert_eq!(tune(port).unwrap(), 1);
            assert!(ours.nodelay().unwrap());
            assert!(!stranger.nodelay().unwrap());
            assert_eq!(sockopt::tcp_user_timeout(&ours).unwrap(), USER_TIMEOUT_MS);
            assert!(sockopt::socket_keepalive(&ours).unwrap());
            assert_eq!(tune(port).unwrap(), 0, "a second time there is nothing to do");
        }
    }
}
