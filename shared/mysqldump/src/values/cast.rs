//! CAST and CONVERT of constants.

use crate::values::expression::Reader;
use crate::values::function::{REPEATED_BYTES, bytes_of, integer_of, moment_of, text_of};
use crate::values::literal::Literal;
use crate::values::number;

/// `CAST(value AS type)`, `CONVERT(value, type)` and `CONVERT(value USING charset)`.
pub(super) fn convert(
    reader: Reader<'_>,
    at: usize,
    depth: usize,
) -> Result<(Literal, usize), String> {
    let (value, mut at) = reader.sum(reader.expect(b'(', at)?, depth)?;
    let mut word = reader.word(at);
    if let (Some(b','), comma) = reader.peek(at) {
        at = comma + 1;
    } else if let Some((using, end)) = &word
        && using == "using"
    {
        let (charset, end) = reader.word(*end).ok_or("a character set is missing")?;
        let value = match value {
            Literal::Bytes(bytes) if charset != "binary" => Literal::Text(bytes, Some(charset)),
            other if charset == "binary" => bytes_of(other)?,
            other => other,
        };
        return Ok((value, reader.expect(b')', end)?));
    } else if let Some((_, end)) = word.as_ref().filter(|(word, _)| word == "as") {
        at = *end;
    } else {
        return Err("a conversion to no type".to_owned());
    }
    word = reader.word(at);
    let (kind, mut end) = word.ok_or("a conversion to no type")?;
    let mut sizes = Vec::new();
    if let (Some(b'('), open) = reader.peek(end) {
        let (arguments, close) = reader.arguments(open, depth)?;
        sizes = arguments.iter().filter_map(|size| integer_of(size).ok()).collect();
        end = close;
    }
    // UNSIGNED INTEGER, CHARACTER SET utf8mb4
    while let Some((_, next)) = reader.word(end) {
        end = next;
    }
    let value =
        cast(value, &kind, &sizes).map_err(|reason| format!("a conversion to {kind}: {reason}"))?;
    Ok((value, reader.expect(b')', end)?))
}

fn cast(value: Literal, kind: &str, sizes: &[i128]) -> Result<Literal, String> {
    let size = |at: usize| sizes.get(at).and_then(|&size| u32::try_from(size).ok());
    if value == Literal::Null {
        return Ok(value);
    }
    Ok(match kind {
        "char" | "nchar" | "varchar" | "character" => {
            let (text, charset) = match value {
                Literal::Text(text, charset) => (text, charset),
                other => (text_of(&other)?, None),
            };
            if size(0).is_some_and(|size| text.len() > size as usize) {
                return Err("the text would be cut".to_owned());
            }
            Literal::Text(text, charset)
        }
        "binary" | "varbinary" => {
            let Literal::Bytes(mut bytes) = bytes_of(value)? else { return Ok(Literal::Null) };
            let wanted = size(0).map_or(bytes.len(), |size| size as usize);
            if bytes.len() > wanted || wanted > REPEATED_BYTES {
                return Err("the bytes would be cut".to_owned());
            }
            bytes.resize(wanted, 0);
            Literal::Bytes(bytes)
        }
        "json" => match value {
            Literal::Bytes(_) => return Err("bytes are no JSON".to_owned()),
            text => Literal::Text(text_of(&text)?, None),
        },
        "date" | "datetime" | "timestamp" => {
            let moment = moment_of(&value)?;
            let mut text = Vec::new();
            match kind {
                "date" => moment.push_date(&mut text),
                _ => moment.push(size(0).unwrap_or(0), &mut text),
            }
            Literal::Text(text, None)
        }
        "signed" | "unsigned" | "int" | "integer" | "bigint" => {
            let (min, max) = match kind {
                "unsigned" => (0, i128::from(u64::MAX)),
                _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
            };
            let number = integer_of(&value)?;
            if !(min..=max).contains(&number) {
                return Err(format!("{number} does not fit"));
            }
            Literal::Number(number.to_string().into_bytes())
        }
        "decimal" | "dec" | "numeric" => {
            let (precision, scale) = (size(0).unwrap_or(10), size(1).unwrap_or(0));
            match number::decimal(&text_of(&value)?, precision, scale, false) {
                (number, number::Fit::Exact) => Literal::Number(number),
                _ => return Err("the number does not fit".to_owned()),
            }
        }
        "double" | "float" | "real" | "time" | "year" => match value {
            Literal::Bytes(_) => return Err("bytes are none".to_owned()),
            other => other,
        },
        _ => return Err("it is not known here".to_owned()),
    })
}
