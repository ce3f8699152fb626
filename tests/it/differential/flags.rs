//! Random options of mariadb-dump or mysqldump, and what each lets a dump hold.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// How a database is dumped.
#[derive(Debug)]
pub struct Flags {
    /// For mariadb-dump, before the database's name.
    pub options: Vec<String>,
    /// Characters that come through; others become question marks in the dump itself.
    pub alphabet: Alphabet,
    /// Names stand unquoted in the dump, which no server could read back with odd ones.
    pub plain_names: bool,
    /// The dump says which column counts by itself, and from where on.
    pub counts: bool,
    /// Definitions and rows are dumped one after the other.
    pub split: bool,
    /// Bytes are written as they are stored, whatever the column's character set.
    pub raw: bool,
    /// The server's time zone, where the dump says which one its times are in.
    pub zone: Option<&'static str>,
}

/// Characters that the dump's character set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// All of Unicode.
    Full,
    /// Those of three bytes in UTF-8.
    Basic,
    /// Windows-1252.
    Latin1,
    /// GBK.
    Gbk,
    /// ASCII, where the dump doesn't say what it is written in.
    Ascii,
}

impl Alphabet {
    /// Whether a text of the hostile ones may be used.
    pub fn has(self, text: &str) -> bool {
        let western = |c: char| c.is_ascii() || "ñúáéÑü«ß€".contains(c);
        text.chars().all(|c| match self {
            Self::Full => true,
            Self::Basic => c < '\u{10000}',
            Self::Latin1 => western(c),
            Self::Gbk => c.is_ascii() || "日本語誠縗表".contains(c),
            Self::Ascii => c.is_ascii(),
        })
    }
}

/// Options that change the form of a dump and nothing of its content.
const FORMS: [&str; 21] = [
    "--hex-blob",
    "--skip-extended-insert",
    "--complete-insert",
    "--insert-ignore",
    "--replace",
    "--order-by-primary",
    "--skip-comments",
    "--skip-dump-date",
    "--skip-add-drop-table",
    "--skip-add-locks",
    "--skip-disable-keys",
    "--no-autocommit",
    "--net-buffer-length=4096",
    "--single-transaction",
    "--routines",
    "--events",
    "--skip-triggers",
    "--quick",
    "--add-drop-trigger",
    "--default-character-set=utf8mb4",
    "--databases",
];

/// Options that the mysqldump of MySQL knows no more; their effects on what is drawn remain.
const GONE: [&str; 6] = [
    "--compatible=oracle",
    "--compatible=postgresql",
    "--compatible=mysql40",
    "--compatible=no_table_options",
    "--compatible=no_key_options",
    "--compatible=no_field_options",
];

/// Draws the options of one dump.
pub fn draw(random: &mut StdRng, mysql: bool) -> Flags {
    let mut flags = Flags {
        options: Vec::new(),
        alphabet: Alphabet::Full,
        plain_names: false,
        counts: true,
        split: false,
        raw: false,
        zone: None,
    };
    for form in FORMS {
        // Only one of these two can be said.
        let twice = form == "--replace" && flags.options.iter().any(|o| o == "--insert-ignore");
        if !twice && random.random_bool(0.15) {
            flags.options.push(form.to_owned());
        }
    }
    if random.random_bool(0.5) {
        dialect(random, &mut flags);
    }
    if mysql {
        // These only MariaDB has still.
        flags.options.retain(|option| !GONE.contains(&option.as_str()));
    }
    // What comes later wins.
    flags.split = random.random_bool(0.15);
    if random.random_bool(0.3) && !flags.options.iter().any(|o| o == "--skip-tz-utc") {
        flags.zone = Some(["-06:00", "+05:45", "+00:00"].choose(random).expect("a zone"));
    }
    flags
}

fn dialect(random: &mut (impl Rng + ?Sized), flags: &mut Flags) {
    let dialects = [
        "--skip-opt",
        "--compact",
        "--skip-set-charset",
        "--skip-tz-utc",
        "--skip-quote-names",
        "--compatible=ansi",
        "--compatible=oracle",
        "--compatible=postgresql",
        "--compatible=mysql40",
        "--compatible=no_table_options",
        "--compatible=no_key_options",
        "--compatible=no_field_options",
        "--default-character-set=latin1",
        "--default-character-set=gbk",
        "--default-character-set=utf8mb3",
        "--default-character-set=binary",
    ];
    let dialect = *dialects.choose(random).expect("a dialect");
    flags.options.push(dialect.to_owned());
    match dialect {
        "--skip-opt" => flags.counts = false,
        "--skip-quote-names" => flags.plain_names = true,
        // All of these write latin1, the older ones without saying so.
        dialect if dialect.starts_with("--compatible=") => {
            flags.alphabet = match dialect {
                "--compatible=no_table_options" | "--compatible=no_key_options" => Alphabet::Latin1,
                _ => Alphabet::Ascii,
            };
            flags.counts = dialect == "--compatible=no_key_options";
        }
        "--default-character-set=latin1" => flags.alphabet = Alphabet::Latin1,
        "--default-character-set=gbk" => flags.alphabet = Alphabet::Gbk,
        "--default-character-set=utf8mb3" => flags.alphabet = Alphabet::Basic,
        "--default-character-set=binary" => flags.raw = true,
        _ => {}
    }
}
