//! Finds the ends of row tuples at memory speed: only quotes, backslashes and parentheses matter.

use crate::session::SessionState;
use crate::values::find;
use crate::values::text::DoubleByte;

/// Where the scan stands between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between two tuples.
    Gap,
    /// Inside a tuple, outside quotes.
    Tuple,
    Quote(u8),
    Escape(u8),
    /// After the first byte of a character of two, inside quotes.
    Lead(u8),
    Dash,
    DashDash,
    Line,
    Slash,
    /// After `/*` and perhaps an `M`: a comment, unless a `!` follows.
    SlashStar,
    Block,
    BlockStar,
}

/// What the scan has come upon; positions are indexes into the slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A tuple begins here.
    Start(usize),
    /// A tuple ends before this position.
    End(usize),
    /// The statement's end (the `;` stands here).
    Statement(usize),
    /// Something else than a tuple stands here (`ON DUPLICATE KEY UPDATE`, `AS new`).
    Other(usize),
    /// The slice is used up.
    More,
}

/// The scanner of one INSERT's rows.
#[derive(Debug)]
pub(crate) struct RowScanner {
    state: State,
    depth: usize,
    no_backslash_escapes: bool,
    ansi_quotes: bool,
    double: Option<DoubleByte>,
    /// Backslashes escape in every string, and bytes are what they look like.
    plain: bool,
}

/// Where a string ends that begins before `at`; `None`: not in these bytes.
#[inline]
fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> Option<usize> {
    loop {
        let stop = at + find::either(bytes.get(at..)?, quote, b'\\')?;
        if bytes[stop] == quote {
            return Some(stop + 1);
        }
        at = stop + 2;
    }
}

impl RowScanner {
    pub(crate) fn new(session: &SessionState) -> Self {
        let double = DoubleByte::of(session.charset.as_deref());
        Self {
            state: State::Gap,
            depth: 0,
            no_backslash_escapes: session.no_backslash_escapes,
            ansi_quotes: session.ansi_quotes,
            double,
            plain: double.is_none() && !session.no_backslash_escapes && !session.ansi_quotes,
        }
    }

    /// Inside a tuple.
    pub(super) fn in_tuple(&self) -> bool {
        self.depth > 0
    }

    fn escapes(&self, quote: u8) -> bool {
        !(self.no_backslash_escapes || quote == b'"' && self.ansi_quotes)
    }

    /// Scans on from a position until there is something to tell.
    pub(crate) fn scan(&mut self, bytes: &[u8], mut at: usize) -> Found {
        loop {
            match self.state {
                State::Tuple => {
                    let Some(stop) = find::tuple_stop(bytes, at) else { return Found::More };
                    let byte = bytes[stop];
                    at = stop + 1;
                    match byte {
                        b'\'' | b'"' => {
                            let end = if self.plain { string_end(bytes, at, byte) } else { None };
                            match end {
                                Some(end) => at = end,
                                None => self.state = State::Quote(byte),
                            }
                        }
                        b')' => {
                            self.depth -= 1;
                            if self.depth == 0 {
                                self.state = State::Gap;
                                return Found::End(at);
                            }
                        }
                        b'(' => self.depth += 1,
                        b'-' => self.state = State::Dash,
                        b'#' => self.state = State::Line,
                        b'/' => self.state = State::Slash,
                        _ => {}
                    }
                }
                State::Quote(quote) => {
                    let rest = &bytes[at..];
                    let stop = if let Some(double) = self.double {
                        let escapes = self.escapes(quote);
                        rest.iter()
                            .position(|&b| b == quote || b == b'\\' && escapes || double.leads(b))
                    } else if self.escapes(quote) {
                        find::either(rest, quote, b'\\')
                    } else {
                        memchr::memchr(quote, rest)
                    };
                    let Some(stop) = stop else { return Found::More };
                    at += stop;
                    self.state = match bytes[at] {
                        byte if byte == quote => self.outside(),
                        b'\\' => State::Escape(quote),
                        _ => State::Lead(quote),
                    };
                    at += 1;
                }
                _ => {
                    let Some(&byte) = bytes.get(at) else { return Found::More };
                    if let Some(found) = self.rare(byte, at) {
                        return found;
                    }
                    at += 1;
                }
            }
        }
    }

    fn outside(&self) -> State {
        if self.depth > 0 { State::Tuple } else { State::Gap }
    }

    /// One byte in any of the states that take up little of a dump.
    fn rare(&mut self, byte: u8, at: usize) -> Option<Found> {
        match self.state {
            State::Gap => return self.gap(byte, at),
            State::Escape(quote) => self.state = State::Quote(quote),
            State::Lead(quote) => {
                self.state = if self.double.is_some_and(|double| double.trails(byte)) {
                    State::Quote(quote)
                } else if byte == quote {
                    self.outside()
                } else if byte == b'\\' && self.escapes(quote) {
                    State::Escape(quote)
                } else {
                    State::Quote(quote)
                };
            }
            State::Dash if byte == b'-' => self.state = State::DashDash,
            State::DashDash if byte <= b' ' => {
                self.state = if byte == b'\n' { self.outside() } else { State::Line };
            }
            State::Slash if byte == b'*' => self.state = State::SlashStar,
            // What stands in a conditional comment is part of the row.
            State::SlashStar if byte == b'!' && self.depth > 0 => self.state = State::Tuple,
            State::SlashStar if byte == b'M' => {}
            State::Dash | State::DashDash | State::Slash => return self.again(byte, at),
            State::Line if byte == b'\n' => self.state = self.outside(),
            State::Line => {}
            State::SlashStar | State::Block | State::BlockStar => {
                self.state = match byte {
                    b'/' if self.state == State::BlockStar => self.outside(),
                    b'*' => State::BlockStar,
                    _ => State::Block,
                };
            }
            State::Tuple | State::Quote(_) => {}
        }
        None
    }

    /// A dash or slash that began no comment: the byte after it counts as itself.
    fn again(&mut self, byte: u8, at: usize) -> Option<Found> {
        self.state = self.outside();
        if self.state == State::Gap {
            return Some(Found::Other(at));
        }
        match byte {
            b'\'' | b'"' => self.state = State::Quote(byte),
            b'(' => self.depth += 1,
            b')' => {
                self.depth -= 1;
                if self.depth == 0 {
                    self.state = State::Gap;
                    return Some(Found::End(at + 1));
                }
            }
            b'-' => self.state = State::Dash,
            b'#' => self.state = State::Line,
            b'/' => self.state = State::Slash,
            _ => {}
        }
        None
    }

    fn gap(&mut self, byte: u8, at: usize) -> Option<Found> {
        match byte {
            b',' | b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => None,
            b'(' => {
                self.depth = 1;
                self.state = State::Tuple;
                Some(Found::Start(at))
            }
            b';' => Some(Found::Statement(at)),
            b'-' => {
                self.state = State::Dash;
                None
            }
            b'#' => {
                self.state = State::Line;
                None
            }
            b'/' => {
                self.state = State::Slash;
                None
            }
            _ => Some(Found::Other(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of tuples, with the text cut at every possible place once.
    fn ends(text: &[u8], cut: usize) -> (Vec<usize>, Option<usize>) {
        let mut scanner = RowScanner::new(&SessionState::default());
        let (mut ends, mut statement) = (Vec::new(), None);
        for (base, slice) in [(0, &text[..cut]), (cut, &text[cut..])] {
            let mut at = 0;
            loop {
                match scanner.scan(slice, at) {
                    Found::Start(start) => at = start + 1,
                    Found::End(end) => {
                        ends.push(base + end);
                        at = end;
                    }
                    Found::Statement(end) => {
                        statement = Some(base + end);
                        at = end + 1;
                    }
                    Found::Other(_) => panic!("only tuples here"),
                    Found::More => break,
                }
            }
        }
        (ends, statement)
    }

    #[test]
    fn cuts_make_no_difference() {
        let text: &[u8] = br#"(1,'a''b)\'(',NULL),("x\")",-2,- 3 /* ) */, f(1)), -- (9)
(4 -- )
,5),(x'00',_binary 'z\\'), # (
(6/2),(/*!50705 ')',*/7/*M!100301 ,'*/' */,/**/8);"#;
        let whole = ends(text, 0);
        assert_eq!(whole.0.len(), 6);
        assert_eq!(whole.1, Some(text.len() - 1));
        for cut in 0..=text.len() {
            assert_eq!(ends(text, cut), whole, "cut at {cut}");
        }
    }

    #[test]
    fn other_words_end_the_rows() {
        let mut scanner = RowScanner::new(&SessionState::default());
        assert_eq!(scanner.scan(b"(1) ON DUPLICATE", 0), Found::Start(0));
        assert_eq!(scanner.scan(b"(1) ON DUPLICATE", 1), Found::End(3));
        assert_eq!(scanner.scan(b"(1) ON DUPLICATE", 3), Found::Other(4));
    }
}
