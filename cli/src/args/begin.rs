//! Arguments of the commands for somebody who begins: `init`, `demo`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

/// `relevo init`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo init                                 asks, tries everything out, writes relevo.toml
  relevo init --yes                           an own Postgres, no source
  relevo init /etc/relevo/relevo.toml --yes --database-url 'postgres://relevo:${DB_PASSWORD}@db/relevo' \\
      --source shop --gateway-url https://gateway.example.com --target-url postgres://app@db/shop

Every flag answers a question beforehand: Enter takes it. ${NAME} in an answer stays in the file
and stands for an environment variable. What was answered is tried out as `relevo doctor` does:
databases, gateway, folders. The file is written when nothing stands in the way, readable for its
owner only; until then nothing is changed anywhere.")]
pub struct InitArgs {
    /// The file to write
    #[arg(default_value = "relevo.toml")]
    pub file: PathBuf,
    /// Ask nothing: flags, and defaults for the rest
    #[arg(long)]
    pub yes: bool,
    /// Write over a file that is there, and also when something was found wrong
    #[arg(long)]
    pub force: bool,
    /// Try nothing out
    #[arg(long)]
    pub no_test: bool,
    #[command(flatten)]
    pub answers: AnswerArgs,
}

/// What the questions of `relevo init` ask for.
#[derive(Clone, Debug, Default, Args)]
pub struct AnswerArgs {
    /// Folder for downloaded dumps, chunks and an own Postgres
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// Postgres URL of the control plane; without one Relevo starts a Postgres of its own
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Address and port of the API
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// How gateways and browsers reach the API from outside
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Name of the first source of dumps; without one none is configured
    #[arg(long, value_name = "NAME")]
    pub source: Option<String>,
    /// The gateway that makes its dumps
    #[arg(long, value_name = "URL", requires = "source", conflicts_with_all = ["folder", "dump_url"])]
    pub gateway_url: Option<String>,
    /// The gateway's key; better ${NAME}, or by the question, since `ps` shows flags
    #[arg(long, value_name = "KEY", requires = "gateway_url")]
    pub api_key: Option<String>,
    /// The folder that its dumps are put into
    #[arg(long, value_name = "FOLDER", requires = "source", conflicts_with = "dump_url")]
    pub folder: Option<PathBuf>,
    /// Where its newest dump is fetched
    #[arg(long, value_name = "URL", requires = "source")]
    pub dump_url: Option<String>,
    /// Postgres URL of the database that its tables are loaded into, or embedded:NAME
    #[arg(long, value_name = "URL", requires = "source")]
    pub target_url: Option<String>,
    /// Schema of that database
    #[arg(long, value_name = "NAME", requires = "source")]
    pub target_schema: Option<String>,
    /// Hours between two backups
    #[arg(long, value_name = "HOURS", requires = "source")]
    pub every_hours: Option<u32>,
    /// Zone of the shop's clock, such as America/Mexico_City
    #[arg(long, value_name = "ZONE", requires = "source")]
    pub timezone: Option<String>,
}

/// `relevo demo`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo demo
  relevo demo --exit --folder /var/tmp/demo

A small shop's dump that comes with the program is loaded into a Postgres of its own, as a backup
would be: by a run, in chunks, with a certificate. Needs the server programs of PostgreSQL on this
machine and nothing else, and reaches nobody. Without --folder everything is removed at the end.")]
pub struct DemoArgs {
    /// End when the dump is loaded
    #[arg(long)]
    pub exit: bool,
    /// Folder for its files, which stay there
    #[arg(long, value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    /// Address and port of the API and the console
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
}
