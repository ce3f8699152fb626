//! `${NAME}` in a text of the file stands for an environment variable, `${NAME:-text}` for the
//! text where the variable is unset or empty, `$$` for a dollar sign.

/// The text with its references replaced, or what is wrong. The message names variables, never
/// their values.
pub(crate) fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(inner) = after.strip_prefix('{') {
            let end = inner.find('}').ok_or("a `${` is not closed; write $$ for a dollar sign")?;
            out.push_str(&value_of(&inner[..end], env)?);
            rest = &inner[end + 1..];
        } else {
            // A lone dollar is common in passwords and means itself.
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn value_of(reference: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, fallback) = match reference.split_once(":-") {
        Some((name, fallback)) => (name, Some(fallback)),
        None => (reference, None),
    };
    let valid = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err("a `${…}` holds no valid name of an environment variable".to_owned());
    }
    match (env(name).filter(|value| !value.is_empty()), fallback) {
        (Some(value), _) => Ok(value),
        (None, Some(fallback)) => Ok(fallback.to_owned()),
        (None, None) => Err(format!(
            "the environment variable {name} is not set; set it, or write ${{{name}:-value}}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::expand;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db.example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn references_and_dollars() {
        for (text, expected) in [
            ("plain", "plain"),
            ("postgres://${HOST}/shop", "postgres://db.example.com/shop"),
            ("${NONE:-5432}${EMPTY:-!}", "5432!"),
            ("${NONE:-}", ""),
            ("$${HOST} costs 3$ or $x", "${HOST} costs 3$ or $x"),
            ("ñ${HOST}ñ", "ñdb.example.comñ"),
        ] {
            assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, needle) in [
            ("${NONE}", "NONE is not set"),
            ("${EMPTY}", "EMPTY is not set"),
            ("${HOST", "not closed"),
            ("${}", "no valid name"),
            ("${a b}", "no valid name"),
        ] {
            let message = expand(text, &env).expect_err(text);
            assert!(message.contains(needle), "{text}: {message}");
        }
    }
}
