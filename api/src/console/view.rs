//! What all pages share: the frame around them, and how times, numbers and states look.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, Render, html};
use relevo_queue::JobState;
use relevo_runs::RunState;

use super::assets;
use super::visitor::{Fields, Visitor};
use super::words::Words;

/// Scripts and styles from here and nothing else; forms go here; nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The places the navigation leads to, with their names.
fn places(words: &Words) -> [(&'static str, &'static str); 10] {
    [
        ("/console", words.overview),
        ("/console/runs", words.runs),
        ("/console/sources", words.sources),
        ("/console/queues", words.queues),
        ("/console/jobs", words.jobs),
        ("/console/dead-letters", words.dead_letters),
        ("/console/schedules", words.schedules),
        ("/console/alerts", words.alerts),
        ("/console/connections", words.connections),
        ("/console/uploads", words.uploads),
    ]
}

/// How a page keeps itself up to date.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It stays as it is.
    Still,
    /// Its content is fetched again every few seconds while it is looked at.
    Refreshed,
}

/// A page for somebody who is logged in.
pub(super) fn page(
    visitor: &Visitor,
    title: &str,
    freshness: Freshness,
    content: &Markup,
) -> Response {
    let words = visitor.words;
    let here = visitor.path.as_str();
    let is_here = |place: &str| {
        place == here || (place != "/console" && here.starts_with(&format!("{place}/")))
    };
    let body = html! {
        a.skip href="#content" { (words.skip_to_content) }
        header.bar {
            a.brand href="/console" { span.mark aria-hidden="true" {} "Relevo" }
            nav aria-label=(words.pages) {
                @for (place, name) in places(words) {
                    a href=(place) aria-current=[is_here(place).then_some("page")] { (name) }
                }
            }
            div.person {
                span.who title=(visitor.session.name) { (visitor.session.name) }
                (language_link(words, here))
                form method="post" action="/console/logout" {
                    (form_token(visitor))
                    button.plain type="submit" { (words.log_out) }
                }
            }
        }
        main #content data-refresh=[(freshness == Freshness::Refreshed).then_some("5")] {
            @if let Some(text) = visitor.fields.get("done").and_then(|code| done(words, code)) {
                p.notice role="status" { (text) }
            }
            (content)
        }
    };
    document(words, title, StatusCode::OK, &body)
}

/// A page for anybody: logging in, and refusals.
pub(super) fn bare_page(
    words: &Words,
    title: &str,
    status: StatusCode,
    here: &str,
    content: &Markup,
) -> Response {
    let body = html! {
        main.alone #content {
            p.brand { span.mark aria-hidden="true" {} "Relevo" }
            (content)
            p.quiet { (language_link(words, here)) }
        }
    };
    document(words, title, status, &body)
}

fn document(words: &Words, title: &str, status: StatusCode, body: &Markup) -> Response {
    let text = html! {
        (DOCTYPE)
        html lang=(words.code) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · Relevo" }
                link rel="icon" type="image/svg+xml" href=(assets::ICON.address());
                link rel="stylesheet" href=(assets::STYLE.address());
                script src=(assets::SCRIPT.address()) defer {}
            }
            body { (body) }
        }
    };
    let mut response = (status, text.into_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    // Without a referrer browsers would send forms with the origin "null".
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(
        header::HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    response
}

fn language_link(words: &Words, here: &str) -> Markup {
    let other = words.other();
    let address = format!("/console/language?to={}&back={}", other.code, escaped(here));
    html! { a.language href=(address) lang=(other.code) { (words.other_language) } }
}

/// What was done, as the address after a form tells.
fn done(words: &Words, code: &str) -> Option<&'static str> {
    let text = match code {
        "paused" => words.done_paused,
        "resumed" => words.done_resumed,
        "retried" => words.done_retried,
        "discarded" => words.done_discarded,
        "saved" => words.done_saved,
        "cancelled" => words.done_cancelled,
        "started" => words.done_started,
        "kept" => words.done_kept,
        "changed" => words.done_changed,
        "forgotten" => words.done_forgotten,
        "enabled" => words.done_enabled,
        "disabled" => words.done_disabled,
        "rolled_back" => words.done_rolled_back,
        _ => return None,
    };
    Some(text)
}

/// The field that shows that a form is this session's own.
pub(super) fn form_token(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="form_token" value=(visitor.token.form_token()); }
}

/// A form of one button; nothing for those who may not use it.
pub(super) fn button(
    visitor: &Visitor,
    action: &str,
    label: &str,
    fields: &[(&str, &str)],
) -> Markup {
    html! {
        form.action method="post" action=(action) {
            (form_token(visitor))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            button type="submit" { (label) }
        }
    }
}

/// A part of an address, with everything escaped that means something there.
pub(super) fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// An address with parameters; those without a value are left out.
pub(super) fn address(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    match query.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// Links to the newest and to the older ones of a list.
pub(super) fn pager(
    words: &Words,
    path: &str,
    fields: &Fields,
    filters: &[&str],
    next_before: Option<i64>,
) -> Markup {
    let kept: Vec<(&str, Option<&str>)> =
        filters.iter().map(|name| (*name, fields.get(name))).collect();
    let older = next_before.map(|before| {
        let before = before.to_string();
        let mut parameters = kept.clone();
        parameters.push(("before", Some(before.as_str())));
        address(path, &parameters)
    });
    html! {
        @if fields.get("before").is_some() || older.is_some() {
            nav.pager {
                @if fields.get("before").is_some() {
                    a href=(address(path, &kept)) { "← " (words.newest) }
                }
                @if let Some(older) = older { a rel="next" href=(older) { (words.older) " →" } }
            }
        }
    }
}

/// A moment: how far from now, and exactly when one points at it.
pub(super) fn moment(words: &Words, at: DateTime<Utc>) -> Markup {
    let machine = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let exact = at.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    html! { time datetime=(machine) title=(exact) { (relative(words, at)) } }
}

/// A moment that may not be.
pub(super) fn moment_or(words: &Words, at: Option<DateTime<Utc>>, otherwise: &str) -> Markup {
    match at {
        Some(at) => moment(words, at),
        None if otherwise.is_empty() => html! {},
        None => html! { span.quiet { (otherwise) } },
    }
}

fn relative(words: &Words, at: DateTime<Utc>) -> String {
    let seconds = (Utc::now() - at).num_seconds();
    let text = duration(seconds.unsigned_abs());
    if seconds >= 0 { words.ago(&text) } else { words.in_the_future(&text) }
}

/// Bytes as people read them.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = None;
    let mut tenths = bytes.saturating_mul(10);
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        (tenths, unit) = (tenths / 1_024, Some(next));
    }
    match unit {
        Some(unit) => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        None => format!("{bytes} B"),
    }
}

/// A duration with one or two units; short enough for a column.
pub(super) fn duration(seconds: u64) -> String {
    let pair = |large: u64, size: u64, big: &str, small_size: u64, small: &str| {
        let rest = large % size / small_size;
        match rest {
            0 => format!("{} {big}", large / size),
            rest => format!("{} {big} {rest} {small}", large / size),
        }
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..600 => pair(seconds, 60, "min", 1, "s"),
        600..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => pair(seconds, 3_600, "h", 60, "min"),
        86_400..864_000 => pair(seconds, 86_400, "d", 3_600, "h"),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long something took, to the tenth where it was short.
pub(super) fn span(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    let ms = (to - from).num_milliseconds().max(0).unsigned_abs();
    if ms < 10_000 {
        format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
    } else {
        duration(ms / 1_000)
    }
}

/// A number with its thousands apart, by a space that does not break.
pub(super) fn number(value: impl Into<i128>) -> String {
    let value = value.into();
    let digits = value.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    if value < 0 { format!("−{text}") } else { text }
}

/// A number that is nothing to look at when it is zero.
pub(super) fn count(value: i64) -> Markup {
    html! { span.quiet[value == 0] { (number(value)) } }
}

/// A run's state as a coloured word.
pub(super) fn run_badge(words: &Words, state: RunState) -> Markup {
    html! { span class={ "badge " (state.as_str()) } { (words.run_state(state)) } }
}

/// A job's state as a coloured word.
pub(super) fn job_badge(words: &Words, state: JobState) -> Markup {
    html! { span class={ "badge " (state.as_str()) } { (words.job_state(state)) } }
}

/// A line of a list of facts; nothing where there is none.
pub(super) fn fact(name: &str, value: Option<Markup>) -> Markup {
    html! { @if let Some(value) = value { div { dt { (name) } dd { (value) } } } }
}

/// A cell of a table that becomes a list on a narrow screen, where it says its column's name.
pub(super) fn cell(column: &str, value: impl Render) -> Markup {
    let value = value.render();
    html! {
        // Without anything in it, it has no line in that list.
        @if value.0.is_empty() { td {} } @else { td data-column=(column) { span { (value) } } }
    }
}

/// A cell with a number.
pub(super) fn figure(column: &str, value: impl Render) -> Markup {
    let value = value.render();
    html! {
        @if value.0.is_empty() { td.figure {} }
        @else { td.figure data-column=(column) { span { (value) } } }
    }
}

/// The first line of a text, cut where it is long; the whole of it is on the thing's own page.
pub(super) fn first_line(text: &str) -> String {
    const CHARS_MAX: usize = 160;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= CHARS_MAX {
        return line.to_owned();
    }
    line.chars().take(CHARS_MAX).chain(['…']).collect()
}

/// JSON as people read it.
pub(super) fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// Nothing.
pub(super) const NOTHING: PreEscaped<&str> = PreEscaped("");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_read_well() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(number(-1_000), "−1\u{202f}000");
        let shown = [5, 60, 61, 700, 3_600, 3_700, 90_000, 9_000_000].map(duration);
        assert_eq!(
            shown,
            ["5 s", "1 min", "1 min 1 s", "11 min", "1 h", "1 h 1 min", "1 d 1 h", "104 d"]
        );
    }

    #[test]
    fn sizes_read_well() {
        let shown = [0, 1_023, 1_024, 1_536, 5 << 20, u64::MAX / 20].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "838860.7 TiB"]);
    }

    #[test]
    fn addresses_are_escaped() {
        let made = address("/console/jobs", &[("kind", Some("a&b=ñ")), ("queue", None)]);
        assert_eq!(made, "/console/jobs?kind=a%26b%3D%C3%B1");
        assert_eq!(address("/x", &[("a", None)]), "/x");
    }

    #[test]
    fn long_errors_are_cut_between_characters() {
        assert_eq!(first_line("one\ntwo"), "one");
        assert_eq!(first_line(&"ñ".repeat(200)).chars().count(), 161);
    }
}
