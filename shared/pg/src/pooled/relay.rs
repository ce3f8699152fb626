//! One connection: statements on their way there, answers on their way back.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::frame::{Frame, Frames, malformed, put, text};
use super::upstream::Stream;

/// What the server owes an answer to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asked {
    Parse,
    Bind,
    Describe,
    Execute,
    Close,
    Sync,
    Query,
}

impl Asked {
    /// Whether an answer with this tag is the last one.
    fn ends_with(self, tag: u8) -> bool {
        match self {
            Self::Parse => tag == b'1',
            Self::Bind => tag == b'2',
            Self::Close => tag == b'3',
            Self::Describe => matches!(tag, b'T' | b'n'),
            Self::Execute => matches!(tag, b'C' | b'I' | b's'),
            Self::Sync | Self::Query => tag == b'Z',
        }
    }

    /// Whether an error lets the server pass over everything up to here.
    fn ends_a_sequence(self) -> bool {
        matches!(self, Self::Sync | Self::Query)
    }
}

/// What both directions know.
struct Shared {
    state: Mutex<State>,
    /// Told when the server owes nothing any more.
    settled: Notify,
}

struct State {
    /// In order; those marked as ours are not the client's, and their answers are kept from it.
    owed: VecDeque<(Asked, bool)>,
    /// Whether the client has logged in.
    is_ready: bool,
    in_transaction: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owes(&self, asked: Asked, is_ours: bool) {
        self.lock().owed.push_back((asked, is_ours));
    }

    /// Waits until everything asked for is answered; whether a transaction is open then.
    async fn settled(&self) -> bool {
        loop {
            let told = self.settled.notified();
            {
                let state = self.lock();
                if state.owed.is_empty() {
                    return state.in_transaction;
                }
            }
            told.await;
        }
    }
}

/// Relays one connection until either side ends it.
pub(super) async fn run(
    client: TcpStream,
    mut server: Box<dyn Stream>,
    startup: BytesMut,
    settings: Option<String>,
) -> io::Result<()> {
    server.write_all(&startup).await?;
    let shared = Shared {
        state: Mutex::new(State { owed: VecDeque::new(), is_ready: false, in_transaction: false }),
        settled: Notify::new(),
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = tokio::io::split(server);
    let there = There {
        shared: &shared,
        settings,
        statements: HashMap::new(),
        parsed: None,
        has_settings: false,
        at_start: true,
        out: BytesMut::new(),
    };
    tokio::select! {
        ended = there.carry(from_client, to_server) => ended,
        ended = back(&shared, from_server, to_client) => ended,
    }
}

/// From the client to the server.
struct There<'a> {
    shared: &'a Shared,
    settings: Option<String>,
    /// What the client has prepared, by its names: all of a Parse but the name.
    statements: HashMap<Bytes, Bytes>,
    /// Which of them the server knows, without a name, for the rest of the transaction.
    parsed: Option<Bytes>,
    /// Whether the settings hold already.
    has_settings: bool,
    /// Whether a new sequence begins.
    at_start: bool,
    out: BytesMut,
}

impl There<'_> {
    async fn carry(
        mut self,
        from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let mut frames = Frames::new(from);
        loop {
            while let Some(frame) = frames.ready()? {
                if self.at_start && !matches!(frame.tag, b'd' | b'c' | b'f' | b'p' | b'X') {
                    // Whether a transaction is open has to be known.
                    to.write_all(&self.out).await?;
                    self.out.clear();
                    to.flush().await?;
                    self.begin_sequence().await;
                }
                self.translate(&frame)?;
            }
            to.write_all(&self.out).await?;
            self.out.clear();
            to.flush().await?;
            if !frames.fill().await? {
                return Ok(());
            }
        }
    }

    async fn begin_sequence(&mut self) {
        if !self.shared.settled().await {
            self.parsed = None;
            self.has_settings = false;
        }
        self.at_start = false;
    }

    fn translate(&mut self, frame: &Frame) -> io::Result<()> {
        let mut left = frame.body.clone();
        match frame.tag {
            b'P' => {
                let name = text(&mut left)?;
                self.statements.insert(name.clone(), left.clone());
                self.parse(name, &left, false);
            }
            b'D' if left.first() == Some(&b'S') => {
                let name = text(&mut left.split_off(1))?;
                self.know(&name)?;
                self.ask(Asked::Describe, false, b'D', &[b"S\0"]);
            }
            b'D' => self.ask(Asked::Describe, false, b'D', &[&frame.body]),
            b'B' => {
                let portal = text(&mut left)?;
                let name = text(&mut left)?;
                self.set();
                self.know(&name)?;
                self.ask(Asked::Bind, false, b'B', &[&portal, b"\0\0", &left]);
            }
            b'E' => self.ask(Asked::Execute, false, b'E', &[&frame.body]),
            b'C' if left.first() == Some(&b'S') => {
                self.statements.remove(&text(&mut left.split_off(1))?);
                self.parsed = None;
                self.ask(Asked::Close, false, b'C', &[b"S\0"]);
            }
            b'C' => self.ask(Asked::Close, false, b'C', &[&frame.body]),
            b'S' => {
                self.ask(Asked::Sync, false, b'S', &[]);
                self.at_start = true;
            }
            b'Q' => {
                self.ask(Asked::Query, false, b'Q', &[&frame.body]);
                self.parsed = None;
                if !self.has_settings && begins_transaction(&frame.body) {
                    self.set();
                    if self.has_settings {
                        self.ask(Asked::Sync, true, b'S', &[]);
                    }
                }
                self.at_start = true;
            }
            // Logging in, COPY, the end.
            b'p' | b'd' | b'c' | b'f' | b'H' | b'X' => {
                put(&mut self.out, frame.tag, &[&frame.body]);
            }
            _ => return Err(malformed("a message that no driver sends")),
        }
        Ok(())
    }

    fn ask(&mut self, asked: Asked, is_ours: bool, tag: u8, parts: &[&[u8]]) {
        self.shared.owes(asked, is_ours);
        put(&mut self.out, tag, parts);
    }

    fn parse(&mut self, name: Bytes, statement: &[u8], is_ours: bool) {
        self.ask(Asked::Parse, is_ours, b'P', &[b"\0", statement]);
        self.parsed = Some(name);
    }

    /// Makes the server know a statement that was prepared.
    fn know(&mut self, name: &Bytes) -> io::Result<()> {
        if self.parsed.as_ref() != Some(name) {
            let statement = self.statements.get(name).cloned();
            let statement = statement.ok_or_else(|| malformed("a statement never prepared"))?;
            self.parse(name.clone(), &statement, true);
        }
        Ok(())
    }

    /// Makes the settings hold for the transaction that is open, or for the one that this sequence
    /// of messages is.
    fn set(&mut self) {
        let Some(settings) = self.settings.clone().filter(|_| !self.has_settings) else { return };
        self.ask(Asked::Parse, true, b'P', &[b"\0", settings.as_bytes(), b"\0\0\0"]);
        self.ask(Asked::Bind, true, b'B', &[b"\0\0\0\0\0\0\0\0"]);
        self.ask(Asked::Execute, true, b'E', &[b"\0\0\0\0\0"]);
        self.parsed = None;
        self.has_settings = true;
    }
}

/// Whether a text of the simple protocol opens a transaction and nothing else.
fn begins_transaction(text: &[u8]) -> bool {
    let is_one = !text.contains(&b';');
    let text = text.trim_ascii_start();
    let begins =
        |word: &[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    is_one && (begins(b"BEGIN") || begins(b"START TRANSACTION"))
}

/// From the server to the client.
async fn back(
    shared: &Shared,
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut frames = Frames::new(from);
    let mut out = BytesMut::new();
    loop {
        while let Some(frame) = frames.ready()? {
            if shared.lock().is_for_client(&frame) {
                put(&mut out, frame.tag, &[&frame.body]);
            }
        }
        if shared.lock().owed.is_empty() {
            shared.settled.notify_one();
        }
        to.write_all(&out).await?;
        out.clear();
        if !frames.fill().await? {
            return Ok(());
        }
    }
}

impl State {
    /// Takes note of an answer; whether it is the client's.
    fn is_for_client(&mut self, frame: &Frame) -> bool {
        if frame.tag == b'Z' {
            self.in_transaction = frame.body.first() != Some(&b'I');
        }
        if !self.is_ready {
            self.is_ready = frame.tag == b'Z';
            return true;
        }
        match frame.tag {
            // Notices, parameters, notifications: at any time.
            b'S' | b'A' => true,
            b'N' => self.owed.front().is_none_or(|(_, is_ours)| !is_ours),
            b'E' => {
                while self.owed.front().is_some_and(|(asked, _)| !asked.ends_a_sequence()) {
                    self.owed.pop_front();
                }
                // In a sequence of our own it is told by the state of the transaction, in which
                // nothing works any more.
                self.owed.front().is_none_or(|(_, is_ours)| !is_ours)
            }
            tag => {
                let Some((asked, is_ours)) = self.owed.front().copied() else { return true };
                if asked.ends_with(tag) {
                    self.owed.pop_front();
                }
                !is_ours
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(shared: &Shared) -> There<'_> {
        There {
            shared,
            settings: Some("SELECT set_config('a', 'b', true)".to_owned()),
            statements: HashMap::new(),
            parsed: None,
            has_settings: false,
            at_start: false,
            out: BytesMut::new(),
        }
    }

    fn shared() -> Shared {
        let state = State { owed: VecDeque::new(), is_ready: true, in_transaction: false };
        Shared { state: Mutex::new(state), settled: Notify::new() }
    }

    /// The tags of what is sent for these messages.
    fn sent(there: &mut There<'_>, messages: &[(u8, &'static [u8])]) -> String {
        for (tag, body) in messages {
            there.translate(&Frame { tag: *tag, body: Bytes::from_static(body) }).unwrap();
        }
        let mut tags = String::new();
        while !there.out.is_empty() {
            tags.push(char::from(there.out[0]));
            let length = u32::from_be_bytes(there.out[1..5].try_into().unwrap());
            drop(there.out.split_to(length as usize + 1));
        }
        tags
    }

    const PREPARE: [(u8, &[u8]); 3] =
        [(b'P', b"s1\0SELECT 1\0\0\0"), (b'D', b"Ss1\0"), (b'S', b"")];
    const RUN: [(u8, &[u8]); 3] =
        [(b'B', b"\0s1\0\0\0\0\0\0\0"), (b'E', b"\0\0\0\0\0"), (b'S', b"")];

    #[tokio::test]
    async fn a_statement_is_parsed_where_it_runs_under_the_settings() {
        let shared = shared();
        let mut there = there(&shared);
        assert_eq!(sent(&mut there, &PREPARE), "PDS");
        shared.lock().owed.clear();
        there.begin_sequence().await;
        assert_eq!(sent(&mut there, &RUN), "PBEPBES");
        let ours: Vec<bool> = shared.lock().owed.iter().map(|(_, is_ours)| *is_ours).collect();
        assert_eq!(ours, [true, true, true, true, false, false, false]);
    }

    #[tokio::test]
    async fn in_a_transaction_settings_are_made_once() {
        let shared = shared();
        let mut there = there(&shared);
        assert_eq!(sent(&mut there, &[(b'Q', b"BEGIN\0")]), "QPBES");
        *shared.lock() = State { owed: VecDeque::new(), is_ready: true, in_transaction: true };
        there.begin_sequence().await;
        assert_eq!(sent(&mut there, &PREPARE), "PDS");
        shared.lock().owed.clear();
        there.begin_sequence().await;
        assert_eq!(sent(&mut there, &RUN), "BES");
    }

    #[test]
    fn an_error_ends_its_sequence_and_is_told() {
        let shared = shared();
        let mut there = there(&shared);
        sent(&mut there, &PREPARE);
        sent(&mut there, &RUN);
        let mut state = shared.lock();
        let told = |state: &mut State, tag: u8, body: &'static [u8]| {
            state.is_for_client(&Frame { tag, body: Bytes::from_static(body) })
        };
        for tag in *b"1tT" {
            assert!(told(&mut state, tag, b""));
        }
        assert!(told(&mut state, b'Z', b"I"));
        // The settings work, the statement does not.
        for tag in *b"12DC1" {
            assert!(!told(&mut state, tag, b""), "{}", char::from(tag));
        }
        assert!(told(&mut state, b'E', b""));
        assert!(told(&mut state, b'Z', b"I"));
        assert!(state.owed.is_empty());
    }

    #[test]
    fn what_opens_a_transaction_is_recognised() {
        for text in ["BEGIN\0", " begin isolation level serializable\0", "START TRANSACTION\0"] {
            assert!(begins_transaction(text.as_bytes()), "{text}");
        }
        for text in ["BEGIN; SELECT 1; COMMIT\0", "COMMIT\0", "SELECT 'BEGIN'\0", "\0"] {
            assert!(!begins_transaction(text.as_bytes()), "{text}");
        }
    }
}
