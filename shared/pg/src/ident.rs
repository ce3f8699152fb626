//! Quoting of identifiers and literals for SQL text that cannot be bound as parameters.

/// The longest identifier Postgres keeps, in bytes.
pub const IDENTIFIER_MAX_BYTES: usize = 63;

/// Quotes one identifier: `caja "1"` becomes `"caja ""1"""`.
///
/// Always quotes, so that reserved words and mixed case need no thought.
#[must_use]
pub fn quote(identifier: &str) -> String {
    let mut quoted = String::with_capacity(identifier.len() + 2);
    quoted.push('"');
    for character in identifier.chars() {
        if character == '"' {
            quoted.push('"');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}

/// Quotes a schema and a name: `"public"."articulo"`.
#[must_use]
pub fn quote_qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote(schema), quote(name))
}

/// Quotes a string literal.
///
/// Uses the `E'…'` form when a backslash is inside, so that the result means the same whatever
/// `standard_conforming_strings` says.
#[must_use]
pub fn literal(text: &str) -> String {
    let escape = text.contains('\\');
    let mut quoted = String::with_capacity(text.len() + 3);
    quoted.push_str(if escape { "E'" } else { "'" });
    for character in text.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// Shortens a name to what Postgres keeps, at a character boundary, leaving room for `suffix`.
///
/// Postgres itself cuts silently, which would let two different long names collide.
#[must_use]
pub fn fit(name: &str, suffix: &str) -> String {
    let room = IDENTIFIER_MAX_BYTES.saturating_sub(suffix.len());
    let mut end = name.len().min(room);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_whatever_is_inside() {
        assert_eq!(quote("claveAlterna"), "\"claveAlterna\"");
        assert_eq!(quote("caja \"1\""), "\"caja \"\"1\"\"\"");
        assert_eq!(quote_qualified("a", "b.c"), "\"a\".\"b.c\"");
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal("a\\b'"), "E'a\\\\b'''");
    }

    #[test]
    fn fits_at_a_character_boundary() {
        let name = "ñ".repeat(40);
        let fitted = fit(&name, "_x1");
        assert!(fitted.len() <= IDENTIFIER_MAX_BYTES);
        assert!(fitted.ends_with("ñ_x1"));
        assert_eq!(fit("short", "_y"), "short_y");
    }
}
