//! Values that are written as an expression of constants: `CAST('…' AS DATE)`, `UNHEX('…')`,
//! `1 + 1`, `('a')`. What needs the server to be known, such as a query, is an error that says so.

use crate::session::SessionState;
use crate::values::function;
use crate::values::literal::{self, Literal, skip_blanks, word_end};
use crate::values::number;

/// How deep expressions may be nested.
const DEPTH_LIMIT: usize = 32;

/// Reads the value at a position, whatever its form; returns it and where it ends.
pub(crate) fn read(
    bytes: &[u8],
    at: usize,
    session: &SessionState,
) -> Result<(Literal, usize), String> {
    Reader { bytes, session }.sum(at, 0)
}

/// Reads one row's values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) session: &'a SessionState,
}

impl Reader<'_> {
    /// The first byte after blanks, and where it is.
    pub(super) fn peek(self, at: usize) -> (Option<u8>, usize) {
        let at = skip_blanks(self.bytes, at);
        (self.bytes.get(at).copied(), at)
    }

    /// Steps over one character that must come next.
    pub(super) fn expect(self, wanted: u8, at: usize) -> Result<usize, String> {
        match self.peek(at) {
            (Some(found), at) if found == wanted => Ok(at + 1),
            _ => Err(format!("expected `{}` in an expression", wanted as char)),
        }
    }

    /// The word that comes next, in lower case, and where it ends.
    pub(super) fn word(self, at: usize) -> Option<(String, usize)> {
        let at = skip_blanks(self.bytes, at);
        let end = word_end(self.bytes, at);
        let word = String::from_utf8_lossy(&self.bytes[at..end]).to_ascii_lowercase();
        (end > at).then_some((word, end))
    }

    /// `term [+ term …]`.
    pub(super) fn sum(self, at: usize, depth: usize) -> Result<(Literal, usize), String> {
        let (mut value, mut at) = self.product(at, depth)?;
        while let (Some(operator @ (b'+' | b'-')), next) = self.peek(at) {
            let (right, end) = self.product(next + 1, depth)?;
            value = calculate(&value, operator, &right)?;
            at = end;
        }
        Ok((value, at))
    }

    /// `operand [* operand …]`.
    fn product(self, at: usize, depth: usize) -> Result<(Literal, usize), String> {
        let (mut value, mut at) = self.operand(at, depth)?;
        loop {
            match self.peek(at) {
                (Some(b'*'), next) => {
                    let (right, end) = self.operand(next + 1, depth)?;
                    value = calculate(&value, b'*', &right)?;
                    at = end;
                }
                (Some(b'c' | b'C'), next) => match self.word(next) {
                    // How a text compares changes nothing of it.
                    Some((word, end)) if word == "collate" => {
                        at = self.word(end).map_or(end, |(_, end)| end);
                    }
                    _ => return Ok((value, at)),
                },
                _ => return Ok((value, at)),
            }
        }
    }

    fn operand(self, at: usize, depth: usize) -> Result<(Literal, usize), String> {
        if depth > DEPTH_LIMIT {
            return Err(format!("an expression nested more than {DEPTH_LIMIT} deep"));
        }
        let (first, at) = self.peek(at);
        match first {
            Some(b'(') => {
                let (value, at) = self.sum(at + 1, depth + 1)?;
                Ok((value, self.expect(b')', at)?))
            }
            // ODBC's dates: `{ts '2020-01-02 03:04:05'}`.
            Some(b'{') => {
                let end = self.word(at + 1).map_or(at + 1, |(_, end)| end);
                let (value, at) = self.sum(end, depth + 1)?;
                Ok((value, self.expect(b'}', at)?))
            }
            Some(byte) if byte.is_ascii_alphabetic() => {
                let quoted = self.bytes.get(at + 1) == Some(&b'\'');
                if quoted && matches!(byte.to_ascii_lowercase(), b'x' | b'b' | b'n') {
                    return literal::read(self.bytes, at, self.session);
                }
                let Some((word, end)) = self.word(at) else {
                    return literal::read(self.bytes, at, self.session);
                };
                match function::call(self, &word, end, depth + 1)? {
                    Some(found) => Ok(found),
                    None => literal::read(self.bytes, at, self.session),
                }
            }
            _ => literal::read(self.bytes, at, self.session),
        }
    }

    /// `(value, …)`: all of them, and where the parenthesis is closed.
    pub(super) fn arguments(
        self,
        at: usize,
        depth: usize,
    ) -> Result<(Vec<Literal>, usize), String> {
        let mut at = self.expect(b'(', at)?;
        let mut values = Vec::new();
        if let (Some(b')'), close) = self.peek(at) {
            return Ok((values, close + 1));
        }
        loop {
            let (value, end) = self.sum(at, depth)?;
            values.push(value);
            match self.peek(end) {
                (Some(b','), comma) => at = comma + 1,
                _ => return Ok((values, self.expect(b')', end)?)),
            }
        }
    }
}

/// Adds, subtracts or multiplies two numbers exactly.
fn calculate(left: &Literal, operator: u8, right: &Literal) -> Result<Literal, String> {
    let digits = |value: &Literal| match value {
        Literal::Number(digits) => Ok(digits.clone()),
        // `b'101' + 0`
        Literal::Bytes(_) => function::integer_of(value).map(|n| n.to_string().into_bytes()),
        _ => Err(format!("`{}` between values that are no numbers", operator as char)),
    };
    number::calculate(&digits(left)?, operator, &digits(right)?)
        .map(Literal::Number)
        .ok_or_else(|| "a calculation too large to be done exactly".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(source: &str) -> Result<Literal, String> {
        let row = format!("{source},");
        read(row.as_bytes(), 0, &SessionState::default()).map(|(value, end)| {
            assert_eq!(row.as_bytes()[skip_blanks(row.as_bytes(), end)], b',', "{source}");
            value
        })
    }

    #[test]
    fn constants() {
        let text = |t: &str| Literal::Text(t.as_bytes().to_vec(), None);
        let number = |t: &str| Literal::Number(t.as_bytes().to_vec());
        for (source, wanted) in [
            ("(1)", number("1")),
            ("((NULL))", Literal::Null),
            ("1 + 2*3 - 1", number("6")),
            ("1.5+-0.25", number("1.25")),
            ("2 * (3 + 4)", number("14")),
            ("'a' COLLATE utf8mb4_bin", text("a")),
            ("_latin1'a' collate latin1_bin", Literal::Text(b"a".to_vec(), Some("latin1".into()))),
            ("{d '2020-01-02'}", text("2020-01-02")),
            ("{ ts '2020-01-02 03:04:05' }", text("2020-01-02 03:04:05")),
            ("DATE '2020-01-02'", text("2020-01-02")),
            ("TIMESTAMP'2020-01-02 03:04:05'", text("2020-01-02 03:04:05")),
            ("/*!50705 0x41*/", Literal::Bytes(b"A".to_vec())),
            ("/*M!100301 'a' */", text("a")),
        ] {
            assert_eq!(one(source), Ok(wanted), "{source}");
        }
        let deep = format!("{}1{}", "(".repeat(100), ")".repeat(100));
        assert!(one(&deep).unwrap_err().contains("nested"));
        for source in ["1 + 'a'", "(1", "1 + NULL", "(SELECT 1)", "{d 1", "1 + ", "2 * now()"] {
            assert!(one(source).is_err(), "{source}");
        }
    }
}
