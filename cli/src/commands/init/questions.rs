//! The questions of `relevo init`: on standard error, answered on standard input, line by line.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use url::Url;

use crate::args::AnswerArgs;
use crate::failure::{Advise as _, Exit, Failure};

/// The longest answer that is taken.
const ANSWER_CHARS_MAX: usize = 4_096;
/// So many answers that make no sense, one after the other, end the questions.
const TRIES_MAX: usize = 10;

/// Where the API listens: loopback until told otherwise.
pub fn listen(answers: &AnswerArgs) -> SocketAddr {
    answers.listen.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)))
}

/// Asks for what is not answered yet. What was answered before is what Enter stands for, so that
/// asking again is quick.
pub fn ask(before: AnswerArgs) -> Result<AnswerArgs, Failure> {
    let mut now = before.clone();
    eprintln!("Enter takes what stands in brackets; - takes nothing.\n");
    now.database_url = optional(
        "Postgres URL of the control plane, - for a Postgres of Relevo's own",
        before.database_url.as_deref(),
        postgres_url,
    )?;
    let default = listen(&now).to_string();
    now.listen = optional("Address and port of the API", Some(&default), parsed::<SocketAddr>)?
        .and_then(|text| text.parse().ok());
    now.public_url = optional(
        "How gateways and browsers reach it from outside, https://…",
        before.public_url.as_deref(),
        web_url,
    )?;
    now.source = optional(
        "Name of the first source of dumps, such as shop",
        before.source.as_deref(),
        name,
    )?;
    if now.source.is_none() {
        return Ok(AnswerArgs {
            data_dir: now.data_dir,
            database_url: now.database_url,
            listen: now.listen,
            public_url: now.public_url,
            ..AnswerArgs::default()
        });
    }
    now.gateway_url = optional(
        "The gateway that makes its dumps, https://…; - when they come otherwise",
        before.gateway_url.as_deref(),
        web_url,
    )?;
    if now.gateway_url.is_some() {
        now.api_key = secret("The gateway's key", before.api_key)?;
        (now.folder, now.dump_url) = (None, None);
    } else {
        now.api_key = None;
        let folder = before.folder.map(|folder| folder.display().to_string());
        let asked = "The folder that its dumps are put into; - when they are fetched or uploaded";
        now.folder = optional(asked, folder.as_deref(), anything)?.map(PathBuf::from);
        if now.folder.is_none() {
            let asked = "Where its newest dump is fetched, https://…; - for uploads only";
            now.dump_url = optional(asked, before.dump_url.as_deref(), web_url)?;
        }
    }
    now.target_url = Some(required(
        "Postgres URL of the database to load into, or embedded:NAME",
        before.target_url.as_deref(),
        target_url,
    )?);
    let default = before.target_schema.as_deref().unwrap_or("public");
    now.target_schema = optional("Its schema", Some(default), anything)?;
    let default = before.every_hours.unwrap_or(12).to_string();
    now.every_hours = optional("Hours between two backups", Some(&default), hours)?
        .and_then(|text| text.parse().ok());
    now.timezone = optional(
        "Zone of the shop's clock, such as America/Mexico_City",
        before.timezone.as_deref(),
        parsed::<chrono_tz::Tz>,
    )?;
    Ok(now)
}

/// A question that is answered by yes or no.
pub fn yes(question: &str, default: bool) -> Result<bool, Failure> {
    let shown = if default { "Y/n" } else { "y/N" };
    let answer = line(&format!("{question} [{shown}] "))?;
    Ok(match answer.trim().to_lowercase().chars().next() {
        // sí, sim
        Some('y' | 's') => true,
        Some(_) => false,
        None => default,
    })
}

/// A check of an answer: what is wrong with it.
type Check = fn(&str) -> Result<(), String>;

fn required(question: &str, default: Option<&str>, check: Check) -> Result<String, Failure> {
    for _ in 0..TRIES_MAX {
        if let Some(answer) = optional(question, default, check)? {
            return Ok(answer);
        }
        eprintln!("  it cannot be left out");
    }
    Err(given_up())
}

fn optional(
    question: &str,
    default: Option<&str>,
    check: Check,
) -> Result<Option<String>, Failure> {
    for _ in 0..TRIES_MAX {
        let shown = default.map(|text| format!(" [{text}]")).unwrap_or_default();
        let typed = line(&format!("{question}{shown}: "))?;
        let answer = match typed.trim() {
            "" => default,
            "-" => None,
            answer => Some(answer),
        };
        match answer.map_or(Ok(()), check) {
            Ok(()) => return Ok(answer.map(str::to_owned)),
            Err(wrong) => eprintln!("  {wrong}"),
        }
    }
    Err(given_up())
}

/// An answer that the terminal does not show.
fn secret(question: &str, default: Option<String>) -> Result<Option<String>, Failure> {
    let stdin = io::stdin();
    let shown = if default.is_some() { " [as before]" } else { "" };
    let question = format!("{question}{shown}: ");
    let modes = stdin.is_terminal().then(|| tcgetattr(&stdin)).transpose();
    let Some(before) = modes.context("the terminal cannot be asked to hide what is typed")? else {
        return Ok(Some(line(&question)?.trim().to_owned())
            .filter(|it| !it.is_empty())
            .or(default));
    };
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&stdin, OptionalActions::Now, &hidden)
        .context("the terminal cannot be asked to hide what is typed")?;
    let answer = line(&question);
    // Whatever was answered, the person wants to see what is typed next.
    let _ = tcsetattr(&stdin, OptionalActions::Now, &before);
    eprintln!();
    Ok(Some(answer?.trim().to_owned()).filter(|it| !it.is_empty()).or(default))
}

/// Asks, and reads a line; the end of the input ends the questions.
fn line(question: &str) -> Result<String, Failure> {
    eprint!("{question}");
    let _ = io::stderr().flush();
    let mut answer = String::new();
    let mut input = io::Read::take(io::stdin().lock(), ANSWER_CHARS_MAX as u64);
    let read = input.read_line(&mut answer).context("the answer can't be read")?;
    if read == 0 {
        eprintln!();
        return Err(Failure::new(Exit::Usage, "the answers ended before the questions"))
            .advise("answer by flags and give --yes; relevo init --help lists them");
    }
    Ok(answer)
}

fn given_up() -> Failure {
    Failure::new(Exit::Usage, format!("{TRIES_MAX} answers made no sense"))
        .advise("relevo init --help and docs/configuration.md say what can be written")
}

fn anything(text: &str) -> Result<(), String> {
    if text.contains(char::is_control) { Err("no control characters".to_owned()) } else { Ok(()) }
}

fn name(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if text.chars().all(fits) { Ok(()) } else { Err("letters, digits, _ and - only".to_owned()) }
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| error.to_string())
}

fn hours(text: &str) -> Result<(), String> {
    match text.parse::<u32>() {
        Ok(1..=168) => Ok(()),
        _ => Err("a whole number from 1 to 168".to_owned()),
    }
}

/// A reference to a variable may stand for any part.
fn url_of(text: &str, schemes: &[&str]) -> Result<(), String> {
    let wanted = || format!("it should begin with {}://", schemes.join(":// or "));
    let url = Url::parse(&text.replace("${", "x").replace('}', "x")).map_err(|_| wanted())?;
    if schemes.contains(&url.scheme()) { Ok(()) } else { Err(wanted()) }
}

fn postgres_url(text: &str) -> Result<(), String> {
    url_of(text, &["postgres", "postgresql"])
}

fn web_url(text: &str) -> Result<(), String> {
    url_of(text, &["https", "http"])
}

fn target_url(text: &str) -> Result<(), String> {
    if text.starts_with("embedded:") || text.starts_with("connection:") {
        return Ok(());
    }
    postgres_url(text)
}
