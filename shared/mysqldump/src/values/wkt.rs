//! Spatial values written as text (`POINT(1 2)`) to MySQL's own form: SRID and WKB.

/// How deep collections may be nested.
const DEPTH_LIMIT: usize = 16;

/// The value that `ST_GeomFromText(text, srid)` makes; an error says what is wrong with the text.
pub(crate) fn parse(text: &str, srid: u32) -> Result<Vec<u8>, String> {
    let mut out = srid.to_le_bytes().to_vec();
    let mut reader = Reader { text, at: 0 };
    reader.geometry(&mut out, 0)?;
    if !reader.rest().is_empty() {
        return Err(format!("unexpected {:?} after a spatial value", reader.rest()));
    }
    Ok(out)
}

/// The value of `POINT(x, y)`.
pub(crate) fn point(x: f64, y: f64) -> Vec<u8> {
    let mut out = vec![0; 4];
    push_head(1, &mut out);
    out.extend_from_slice(&x.to_le_bytes());
    out.extend_from_slice(&y.to_le_bytes());
    out
}

/// Little-endian byte order and the type's number.
fn push_head(kind: u32, out: &mut Vec<u8>) {
    out.push(1);
    out.extend_from_slice(&kind.to_le_bytes());
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text[self.at..].trim_start()
    }

    fn eat(&mut self, wanted: char) -> bool {
        let rest = self.rest();
        let found = rest.starts_with(wanted);
        if found {
            self.at = self.text.len() - rest.len() + wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.eat(wanted) {
            return Ok(());
        }
        let found: String = self.rest().chars().take(20).collect();
        Err(format!("expected `{wanted}` in a spatial value, found {found:?}"))
    }

    /// The longest beginning of such characters.
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at = self.text.len() - rest.len() + end;
        &rest[..end]
    }

    fn number(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let digits = self.take(|c| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E'));
        let number: f64 =
            digits.parse().map_err(|_| format!("{digits:?} is no number of a spatial value"))?;
        out.extend_from_slice(&number.to_le_bytes());
        Ok(())
    }

    fn position(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        self.number(out)?;
        self.number(out)
    }

    /// `(part, …)` behind the number of parts.
    fn list(
        &mut self,
        out: &mut Vec<u8>,
        mut part: impl FnMut(&mut Self, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<(), String> {
        self.expect('(')?;
        let place = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0_u32;
        loop {
            part(self, out)?;
            count += 1;
            if !self.eat(',') {
                break;
            }
        }
        out[place..place + 4].copy_from_slice(&count.to_le_bytes());
        self.expect(')')
    }

    fn geometry(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<(), String> {
        if depth > DEPTH_LIMIT {
            return Err(format!("a spatial value nested more than {DEPTH_LIMIT} deep"));
        }
        let word = self.take(|c| c.is_ascii_alphabetic()).to_ascii_uppercase();
        let line = |reader: &mut Self, out: &mut Vec<u8>| reader.list(out, Self::position);
        match word.as_str() {
            "POINT" => {
                push_head(1, out);
                self.expect('(')?;
                self.position(out)?;
                self.expect(')')
            }
            "LINESTRING" => {
                push_head(2, out);
                line(self, out)
            }
            "POLYGON" => {
                push_head(3, out);
                self.list(out, line)
            }
            "MULTIPOINT" => {
                push_head(4, out);
                self.list(out, |reader, out| {
                    push_head(1, out);
                    // Both `MULTIPOINT(1 2, …)` and `MULTIPOINT((1 2), …)` are taken.
                    let bracketed = reader.eat('(');
                    reader.position(out)?;
                    if bracketed { reader.expect(')') } else { Ok(()) }
                })
            }
            "MULTILINESTRING" => {
                push_head(5, out);
                self.list(out, |reader, out| {
                    push_head(2, out);
                    line(reader, out)
                })
            }
            "MULTIPOLYGON" => {
                push_head(6, out);
                self.list(out, |reader, out| {
                    push_head(3, out);
                    reader.list(out, line)
                })
            }
            "GEOMETRYCOLLECTION" | "GEOMCOLLECTION" => {
                push_head(7, out);
                if self.rest().eq_ignore_ascii_case("EMPTY") || self.rest().replace(' ', "") == "()"
                {
                    self.at = self.text.len();
                    out.extend_from_slice(&[0; 4]);
                    return Ok(());
                }
                self.list(out, |reader, out| reader.geometry(out, depth + 1))
            }
            other => Err(format!("{other:?} is no kind of spatial value")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        let value = parse(text, 0).unwrap();
        value.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn as_mysql_stores_them() {
        let (one, two) = ("000000000000f03f", "0000000000000040");
        let point = format!("0101000000{one}{two}");
        assert_eq!(hex("POINT(1 2)"), format!("00000000{point}"));
        assert_eq!(hex(" point ( 1.0 2e0 ) "), format!("00000000{point}"));
        assert_eq!(parse("POINT(1 2)", 0).unwrap(), super::point(1.0, 2.0));
        assert_eq!(
            hex("LINESTRING(1 2,2 1)"),
            format!("00000000010200000002000000{one}{two}{two}{one}")
        );
        assert_eq!(
            hex("POLYGON((1 1,1 2,1 1))"),
            format!("0000000001030000000100000003000000{one}{one}{one}{two}{one}{one}")
        );
        let points = format!("00000000010400000001000000{point}");
        assert_eq!(hex("MULTIPOINT(1 2)"), points);
        assert_eq!(hex("MULTIPOINT((1 2))"), points);
        assert_eq!(
            hex("MULTILINESTRING((1 2,2 1))"),
            format!("00000000010500000001000000010200000002000000{one}{two}{two}{one}")
        );
        assert_eq!(
            hex("MULTIPOLYGON(((1 1,1 2,1 1)))"),
            format!(
                "0000000001060000000100000001030000000100000003000000{one}{one}{one}{two}{one}{one}"
            )
        );
        assert_eq!(
            hex("GEOMETRYCOLLECTION(POINT(1 2))"),
            format!("00000000010700000001000000{point}")
        );
        assert_eq!(hex("GEOMETRYCOLLECTION EMPTY"), "00000000010700000000000000");
        assert_eq!(parse("POINT(0 0)", 4326).unwrap()[..4], 4326_u32.to_le_bytes());
    }

    #[test]
    fn what_is_no_spatial_value() {
        let deep = format!("{}POINT(1 2){}", "GEOMETRYCOLLECTION(".repeat(40), ")".repeat(40));
        for text in ["", "POINT", "POINT(1)", "POINT(a b)", "POINT(1 2) x", "CIRCLE(1 2)", &deep] {
            assert!(parse(text, 0).is_err(), "{text}");
        }
    }
}
