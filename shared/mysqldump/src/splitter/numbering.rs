//! Numbers the rows that a dump leaves to AUTO_INCREMENT (`NULL`, `DEFAULT`, no value at all), as
//! the server does that reads the dump: one more than the largest number so far.
//!
//! mysqldump writes every number; scripts by hand and exports of modelling tools do not.

use crate::schema::TableDef;
use crate::session::SessionState;
use crate::values::expression;
use crate::values::literal::{Literal, skip_blanks};
use crate::values::number;

/// So many rows of a table are looked at for their numbers: a script by hand has fewer, and a dump
/// of more writes them all.
const ROWS_LIMIT: u64 = 100_000;

/// How far a table has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter {
    /// The largest number so far.
    last: u64,
    rows: u64,
    /// Rows have been passed over, so the next number is not known.
    lost: bool,
}

/// How the rows of one INSERT are numbered.
#[derive(Debug)]
pub(super) struct Numbering {
    counter: Counter,
    /// The number's place among the row's values; `None`: it is put in front of them.
    place: Option<usize>,
    /// A 0 asks for a number, too.
    zero_asks: bool,
    /// Some of the INSERT's rows have asked for a number, some have brought one.
    asked: bool,
    brought: bool,
}

impl Numbering {
    /// The numbering of an INSERT into a table; `None` where nothing counts or it is not known how
    /// far. A counting column that the INSERT does not list is put in front of its columns.
    pub(super) fn of(
        table: &TableDef,
        listed: &mut Option<Vec<String>>,
        session: &SessionState,
        counter: Counter,
    ) -> Option<Self> {
        let at = table.columns.iter().position(|column| column.auto_increment)?;
        if counter.lost {
            return None;
        }
        let counting = &table.columns[at];
        let place = match listed {
            Some(names) => {
                let same = |name: &String| name.to_lowercase() == counting.name.to_lowercase();
                let place = names.iter().position(same);
                if place.is_none() {
                    names.insert(0, counting.name.clone());
                }
                place
            }
            None => {
                let shown = table.columns[..at].iter().filter(|column| !column.invisible).count();
                (!counting.invisible).then_some(shown)
            }
        };
        if listed.is_none() && place.is_none() {
            // An invisible number without a list of columns; the server's to give.
            return None;
        }
        let first = table.auto_increment.unwrap_or(1).max(1);
        let counter = Counter { last: counter.last.max(first - 1), ..counter };
        Some(Self {
            counter,
            place,
            zero_asks: !session.no_auto_value_on_zero,
            asked: false,
            brought: false,
        })
    }

    /// What is known after the INSERT.
    ///
    /// Where some rows of one INSERT bring numbers and others ask for them, the server keeps more
    /// numbers back than it gives, in a way of its own.
    pub(super) fn into_counter(self) -> Counter {
        Counter { lost: self.counter.lost || self.asked && self.brought, ..self.counter }
    }

    /// A row with the number that the server would give it; `None`: it stays as it is.
    pub(super) fn number(&mut self, row: &[u8], session: &SessionState) -> Option<Vec<u8>> {
        if self.counter.lost {
            return None;
        }
        self.counter.rows += 1;
        let (start, end) = match self.place {
            None => (1, 1),
            Some(place) => {
                if self.counter.rows > ROWS_LIMIT {
                    self.counter.lost = true;
                    return None;
                }
                if place == 0 && self.take_plain(row) {
                    self.brought = true;
                    return None;
                }
                let Some((value, start, end)) = value_at(row, place, session) else {
                    // The encoder tells what is wrong with the row.
                    self.counter.lost = true;
                    return None;
                };
                if !self.asks(&value) {
                    self.brought = true;
                    return None;
                }
                (start, end)
            }
        };
        self.asked = true;
        self.counter.last += 1;
        let mut numbered = row[..start].to_vec();
        numbered.extend_from_slice(self.counter.last.to_string().as_bytes());
        if self.place.is_none() && row.get(skip_blanks(row, start)) != Some(&b')') {
            numbered.push(b',');
        }
        numbered.extend_from_slice(&row[end..]);
        Some(numbered)
    }

    /// Takes note of a number at the beginning of a row, in its plain form.
    fn take_plain(&mut self, row: &[u8]) -> bool {
        let digits = row[1..].iter().take(19).take_while(|byte| byte.is_ascii_digit());
        let (mut number, mut width) = (0_u64, 0);
        for digit in digits {
            number = number * 10 + u64::from(digit - b'0');
            width += 1;
        }
        let plain = width > 0 && row.get(1 + width) == Some(&b',') && number > 0;
        if plain {
            self.counter.last = self.counter.last.max(number);
        }
        plain
    }

    /// Whether a value asks for a number; any other is taken note of.
    fn asks(&mut self, value: &Literal) -> bool {
        let digits = match value {
            Literal::Null | Literal::Default => return true,
            Literal::Number(digits) | Literal::Text(digits, _) => digits,
            Literal::Bytes(_) => return false,
        };
        let (number, _) = number::integer(digits, i128::from(i64::MIN), i128::from(u64::MAX));
        let number = u64::try_from(number).unwrap_or(0);
        self.counter.last = self.counter.last.max(number);
        number == 0 && self.zero_asks && !digits.starts_with(b"-")
    }
}

/// The value at a place in a row, and where it begins and ends.
fn value_at(row: &[u8], place: usize, session: &SessionState) -> Option<(Literal, usize, usize)> {
    let mut at = 1;
    for nth in 0.. {
        let start = skip_blanks(row, at);
        let (value, end) = expression::read(row, start, session).ok()?;
        if nth == place {
            return Some((value, start, end));
        }
        at = skip_blanks(row, end);
        if row.get(at) != Some(&b',') {
            return None;
        }
        at += 1;
    }
    None
}
