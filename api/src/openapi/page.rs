//! The document as a page for people: plain HTML, no script, nothing from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

/// The whole page.
pub(super) fn html(document: &Value) -> String {
    let mut page = String::new();
    write_page(&mut page, document).unwrap_or_default();
    page
}

fn write_page(page: &mut String, document: &Value) -> std::fmt::Result {
    let info = &document["info"];
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Relevo API</title><link rel=\"stylesheet\" href=\"/docs/style.css\"></head><body>\
         <h1>Relevo API {}</h1><p>{}</p>\
         <p>For machines: <a href=\"/openapi.json\">openapi.json</a></p>",
        text(&info["version"]),
        text(&info["description"]),
    )?;
    for tag in document["tags"].as_array().into_iter().flatten() {
        write!(page, "<h2>{}</h2>", text(&tag["name"]))?;
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"][0] == tag["name"] {
                    write_operation(page, &method.to_uppercase(), path, operation)?;
                }
            }
        }
    }
    page.push_str("<h2>Schemas</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        let name = escape(name);
        write!(page, "<details id=\"schema-{name}\"><summary><code>{name}</code></summary>")?;
        write_schema(page, schema)?;
        page.push_str("</details>");
    }
    page.push_str("</body></html>");
    Ok(())
}

fn write_operation(
    page: &mut String,
    method: &str,
    path: &str,
    operation: &Value,
) -> std::fmt::Result {
    write!(
        page,
        "<details id=\"{}\"><summary><b>{method}</b> <code>{}</code> <span>{}</span></summary>",
        text(&operation["operationId"]),
        escape(path),
        text(&operation["summary"]),
    )?;
    if let Some(scope) = operation["security"][0]["apiKey"][0].as_str() {
        write!(page, "<p>Needs the scope <span class=\"scope\">{}</span></p>", escape(scope))?;
    }
    if operation["description"].is_string() {
        write!(page, "<p>{}</p>", text(&operation["description"]))?;
    }
    if let Some(parameters) = operation["parameters"].as_array() {
        page.push_str("<h3>Parameters</h3><table><tr><th>name</th><th>in</th><th>value</th></tr>");
        for parameter in parameters {
            write!(
                page,
                "<tr><td><code>{}</code></td><td>{}</td><td>{} <code>{}</code></td></tr>",
                text(&parameter["name"]),
                text(&parameter["in"]),
                text(&parameter["description"]),
                escape(&parameter["schema"].to_string()),
            )?;
        }
        page.push_str("</table>");
    }
    if let Some(content) = operation["requestBody"]["content"].as_object() {
        page.push_str("<h3>Body</h3>");
        for body in content.values() {
            write_schema(page, &body["schema"])?;
        }
    }
    page.push_str("<h3>Answers</h3><table>");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        write!(page, "<tr><td>{status}</td><td>{}", text(&response["description"]))?;
        if let Some(schema) = response["content"].get("application/json") {
            write_schema(page, &schema["schema"])?;
        }
        page.push_str("</td></tr>");
    }
    page.push_str("</table></details>");
    Ok(())
}

/// A schema as it is, with references made links.
fn write_schema(page: &mut String, schema: &Value) -> std::fmt::Result {
    if let Some(name) = schema["$ref"].as_str().and_then(|at| at.rsplit('/').next()) {
        let name = escape(name);
        return write!(page, "<p><a href=\"#schema-{name}\"><code>{name}</code></a></p>");
    }
    let pretty = serde_json::to_string_pretty(schema).unwrap_or_default();
    write!(page, "<pre>{}</pre>", escape(&pretty))
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_of_the_document_stays_text() {
        let document = json!({
            "info": {"version": "1", "description": "<script>alert(1)</script>"},
            "tags": [{"name": "T\"><b>"}],
            "paths": {"/a<b": {"get": {"tags": ["T\"><b>"], "operationId": "x", "summary": "&",
                "responses": {"200": {"description": "<i>"}}}}},
            "components": {"schemas": {"S": {"pattern": "<x>"}}},
        });
        let page = html(&document);
        for bad in ["<script", "<i>", "/a<b", "<x>"] {
            assert!(!page.contains(bad), "{bad} in {page}");
        }
        assert!(page.contains("/a&lt;b"));
    }
}
