//! Types of columns, and random values of each: the ordinary, the extreme and the hostile.

use std::fmt::Write as _;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::flags::Alphabet;

/// What the values of a column are.
#[derive(Debug, Clone)]
pub enum Values {
    /// Whole numbers of so many bits.
    Int { bits: u32, unsigned: bool },
    /// Digits, and those after the point.
    Decimal { digits: u32, scale: u32 },
    /// 4 or 8 bytes.
    Real { single: bool },
    /// So many bits.
    Bit(u32),
    /// Days, with zero and partial ones.
    Date,
    /// Moments with so many digits of a second.
    DateTime(usize),
    /// The same between 1970 and 2038.
    Timestamp(usize),
    /// Durations.
    Time(usize),
    /// Years.
    Year,
    /// At most so many characters.
    Text(usize),
    /// At most, or exactly, so many bytes.
    Bytes { length: usize, fixed: bool },
    /// One of the labels.
    Enum(Vec<String>),
    /// Any of them.
    Set(Vec<String>),
    /// Documents, as Postgres would print them.
    Json,
    /// As text.
    Uuid,
    /// As text.
    Inet4,
    /// As text.
    Inet6,
    /// Points and lines.
    Geometry,
}

/// Texts that something in a dump or in COPY could stumble over.
const HOSTILE: [&str; 40] = [
    "",
    "'",
    "\"",
    "\\",
    "\\\\'",
    "a'b",
    "x\"y",
    "tab\there",
    "line\nbreak\r\n",
    "\u{8}\u{b}\u{c}",
    "\u{1a}",
    "\\N",
    "\\.",
    "NULL",
    "(),;--",
    "),(",
    "'),('",
    "/* x */",
    "/*!50000 x */",
    "*/",
    "-- y",
    "ñandú €",
    "«ß»",
    "😀🎉",
    "%_\\%\\_",
    " lead",
    "{a,b}",
    "# hash",
    "\u{1}\u{2}\u{7f}",
    "`bt`",
    "a;b",
    "日本語",
    "誠縗表",
    "\0",
    "e\u{301}",
    "\u{200f}\u{202e}",
    "\u{feff}",
    "\\'",
    "DELIMITER ;;\n",
    "\n\\.\n",
];

const CHARSETS: [&str; 14] = [
    "utf8mb4", "utf8mb3", "latin1", "utf16", "koi8r", "sjis", "gbk", "ascii", "latin2", "cp1251",
    "greek", "big5", "ujis", "euckr",
];

/// A literal of SQL for a string, whatever is in it.
pub fn text_literal(text: &str) -> String {
    if text.is_empty() { "''".to_owned() } else { format!("_utf8mb4 x'{}'", hex(text.as_bytes())) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").ok();
        hex
    })
}

/// A random text.
pub fn text(random: &mut StdRng, limit: usize, alphabet: Alphabet) -> String {
    let mut text = String::new();
    for _ in 0..random.random_range(0..5) {
        let piece = *HOSTILE.choose(random).expect("a text");
        if alphabet.has(piece) {
            text.push_str(piece);
        }
    }
    let text: String = text.chars().take(limit).collect();
    // CHAR forgets spaces at its end, and a unique key would not tell them apart.
    text.trim_end_matches(' ').to_owned()
}

fn labels(random: &mut StdRng, alphabet: Alphabet, with_empty: bool) -> Vec<String> {
    let all = ["a", "b'c", "d\"e", "f\\g", "ñ", "h i", "{x}", "null", "NULLx", "(", "t\tx", "😀"];
    let mut labels: Vec<String> = all
        .into_iter()
        .filter(|label| alphabet.has(label) && *label != "😀")
        .filter(|_| random.random_bool(0.6))
        .map(str::to_owned)
        .collect();
    labels.push("last".to_owned());
    if with_empty && random.random_bool(0.3) {
        labels.push(String::new());
    }
    labels
}

/// A type as written in SQL, and its values.
pub fn draw(random: &mut StdRng, alphabet: Alphabet, mysql: bool) -> (String, Values) {
    let fsp = random.random_range(0..7_usize);
    let charset = CHARSETS.choose(random).expect("a character set");
    match random.random_range(0..24) {
        0..4 => {
            let (name, bits) =
                [("tinyint", 8), ("smallint", 16), ("mediumint", 24), ("int", 32), ("bigint", 64)]
                    [random.random_range(0..5)];
            let width = random.random_range(1..13);
            let kind = [
                name.to_owned(),
                format!("{name} unsigned"),
                format!("{name}({width}) zerofill"),
                format!("{name}({width})"),
            ];
            let kind = kind.choose(random).expect("a form");
            let unsigned = kind.contains("unsigned") || kind.contains("zerofill");
            (kind.clone(), Values::Int { bits, unsigned })
        }
        4 => ("tinyint(1)".to_owned(), Values::Int { bits: 8, unsigned: false }),
        5 | 6 => {
            let (digits, scale) = [(10, 2), (20, 6), (65, 30), (5, 5), (1, 0), (65, 0), (38, 38)]
                [random.random_range(0..7)];
            let digits: u32 = digits;
            (format!("decimal({digits},{scale})"), Values::Decimal { digits, scale })
        }
        7 => ("float".to_owned(), Values::Real { single: true }),
        8 => {
            let kind = ["double", "double(20,3)"].choose(random).expect("a form");
            ((*kind).to_owned(), Values::Real { single: false })
        }
        9 => {
            let width = [1, 2, 8, 17, 64][random.random_range(0..5)];
            (format!("bit({width})"), Values::Bit(width))
        }
        10 => ("date".to_owned(), Values::Date),
        11 => (format!("datetime({fsp})"), Values::DateTime(fsp)),
        12 => (format!("timestamp({fsp}) null"), Values::Timestamp(fsp)),
        13 => (format!("time({fsp})"), Values::Time(fsp)),
        14 => ("year".to_owned(), Values::Year),
        15 | 16 => (format!("varchar(40) character set {charset}"), Values::Text(40)),
        17 => (format!("char(40) character set {charset}"), Values::Text(40)),
        18 => {
            let kinds = ["tinytext", "text", "mediumtext", "longtext", "varchar(60) binary"];
            ((*kinds.choose(random).expect("a type")).to_owned(), Values::Text(60))
        }
        19 => {
            let kinds = ["varbinary(30)", "tinyblob", "blob", "mediumblob", "longblob"];
            let kind = (*kinds.choose(random).expect("a type")).to_owned();
            (kind, Values::Bytes { length: 30, fixed: false })
        }
        20 => ("binary(8)".to_owned(), Values::Bytes { length: 8, fixed: true }),
        21 => {
            let set = random.random_bool(0.5);
            let labels = labels(random, alphabet, !set);
            let list: Vec<_> = labels.iter().map(|label| quoted(label)).collect();
            let kind = if set { "set" } else { "enum" };
            let values = if set { Values::Set(labels) } else { Values::Enum(labels) };
            (format!("{kind}({})", list.join(",")), values)
        }
        22 => ("json".to_owned(), Values::Json),
        _ if mysql => [
            ("geometry", Values::Geometry),
            ("point", Values::Geometry),
            ("binary(16)", Values::Bytes { length: 16, fixed: true }),
            ("bit(3)", Values::Bit(3)),
        ]
        .choose(random)
        .map(|(kind, values)| ((*kind).to_owned(), values.clone()))
        .expect("a type"),
        _ => [
            ("uuid", Values::Uuid),
            ("inet4", Values::Inet4),
            ("inet6", Values::Inet6),
            ("geometry", Values::Geometry),
            ("point", Values::Geometry),
        ]
        .choose(random)
        .map(|(kind, values)| ((*kind).to_owned(), values.clone()))
        .expect("a type"),
    }
}

fn quoted(label: &str) -> String {
    format!("'{}'", label.replace('\\', "\\\\").replace('\'', "''"))
}

impl Values {
    /// A random value as a literal of SQL.
    pub fn literal(&self, random: &mut StdRng, kind: &str, alphabet: Alphabet) -> String {
        let small = random.random_range(-100..100_i128);
        match self {
            Self::Int { bits, unsigned } => {
                let whole = 1_i128 << bits;
                let (low, high) = if *unsigned { (0, whole) } else { (-whole / 2, whole / 2) };
                let choices = [low, high - 1, low + 1, 0, 1, small.max(low)];
                choices.choose(random).expect("a number").to_string()
            }
            Self::Decimal { digits, scale } => {
                let mut number = ["", "-"].choose(random).map(|s| (*s).to_owned()).unwrap();
                let whole = digits - scale;
                let length = random.random_range(0..=whole);
                number.extend((0..length).map(|_| digit(random)));
                number.push_str(if length == 0 { "0." } else { "." });
                number.extend((0..*scale).map(|_| digit(random)));
                number.push('0');
                number
            }
            Self::Real { single } => {
                let fixed = kind.contains('(');
                let extreme = if fixed {
                    ["0", "1.5", "-99999.125"]
                } else if *single {
                    ["3.4e38", "-1.5e-30", "1e10"]
                } else {
                    ["1.7976931348623157e308", "5e-324", "-3.25e100"]
                };
                let usual = format!("{}", random.random_range(-1e6..1e6_f64));
                let choices = [extreme[0], extreme[1], extreme[2], "0", "-0.1", &usual];
                (*choices.choose(random).expect("a number")).to_owned()
            }
            Self::Bit(width) => {
                let all = u64::MAX >> (64 - width);
                let value = [0, all, random.random::<u64>() & all];
                value.choose(random).expect("bits").to_string()
            }
            Self::Date => format!("'{}'", date(random)),
            Self::DateTime(fsp) => {
                format!("'{} {}{}'", date(random), clock(random), fraction(random, *fsp))
            }
            Self::Timestamp(fsp) => {
                let moments = ["1970-01-02 00:00:01", "2038-01-17 03:14:07", "2024-07-01 12:00:00"];
                let moment = moments.choose(random).expect("a moment");
                match random.random_bool(0.1) {
                    true => "'0000-00-00 00:00:00'".to_owned(),
                    false => format!("'{moment}{}'", fraction(random, *fsp)),
                }
            }
            Self::Time(fsp) => {
                let times =
                    ["838:59:59", "-838:59:59", "00:00:00", "-00:00:01", "23:59:59", "100:1:2"];
                let time = *times.choose(random).expect("a time");
                match time.contains("838") {
                    true => format!("'{time}'"),
                    false => format!("'{time}{}'", fraction(random, *fsp)),
                }
            }
            Self::Year => {
                ["0000", "1901", "2155", "2024"].choose(random).map(|y| (*y).to_owned()).unwrap()
            }
            Self::Text(limit) => text_literal(&text(random, *limit, alphabet)),
            Self::Bytes { length, fixed } => {
                let hostile = [0, 0x27, 0x5c, 0x22, 0x0a, 0x0d, 0x1a, 0x09, 0x80, 0xff, 0x41, 0x2c];
                let length = if *fixed { *length } else { random.random_range(0..=*length) };
                let bytes: Vec<u8> = (0..length)
                    .map(|_| match random.random_bool(0.7) {
                        true => *hostile.choose(random).expect("a byte"),
                        false => random.random(),
                    })
                    .collect();
                format!("x'{}'", hex(&bytes))
            }
            // An unknown label becomes the error value, which is '' too.
            Self::Enum(labels) => match random.random_bool(0.05) {
                true => "'no such label'".to_owned(),
                false => text_literal(labels.choose(random).expect("a label")),
            },
            Self::Set(labels) => {
                let members: Vec<_> =
                    labels.iter().filter(|_| random.random_bool(0.4)).map(String::as_str).collect();
                text_literal(&members.join(","))
            }
            Self::Json => {
                let documents = [
                    r#"{"a": 1}"#,
                    "[]",
                    "{}",
                    "null",
                    r#""x\"y\\z""#,
                    "123",
                    "true",
                    "-1.50",
                    r#"{"b": [1, 2.5, {"c": "ñ"}], "long": null}"#,
                    r#""\n\t""#,
                ];
                let document = documents.choose(random).expect("a document");
                let known = alphabet.has(document);
                text_literal(if known { document } else { "[]" })
            }
            Self::Uuid => {
                let (high, low) = (random.random::<u32>(), random.random::<u32>());
                format!("'{high:08x}-0000-4000-8000-0000{low:08x}'")
            }
            Self::Inet4 => format!("'10.0.{}.{}'", small.unsigned_abs(), small.unsigned_abs()),
            Self::Inet6 => {
                let all =
                    ["'::1'", "'2001:db8::ff'", "'::ffff:1.2.3.4'", "'::'", "'fe80::1:0:0:2'"];
                (*all.choose(random).expect("an address")).to_owned()
            }
            Self::Geometry => match kind == "geometry" && random.random_bool(0.5) {
                true => "ST_GeomFromText('LINESTRING(0 0,1.5 -2,3e1 4)', 4326)".to_owned(),
                false => format!("POINT({small}, -0.{})", small.unsigned_abs()),
            },
        }
    }

    /// Whether an index may lie on it: whole, or by its first bytes.
    pub fn index_part(&self, kind: &str) -> Option<&'static str> {
        let long = kind.contains("text") || kind.contains("blob");
        match self {
            Self::Json | Self::Geometry => None,
            Self::Text(_) | Self::Bytes { .. } if long => Some("(7)"),
            _ => Some(""),
        }
    }
}

fn digit(random: &mut StdRng) -> char {
    char::from(b'0' + random.random_range(0..10_u8))
}

fn fraction(random: &mut StdRng, fsp: usize) -> String {
    if fsp == 0 || random.random_bool(0.2) {
        return String::new();
    }
    let digits: String = (0..fsp).map(|_| digit(random)).collect();
    format!(".{digits}")
}

fn date(random: &mut StdRng) -> String {
    let known =
        ["0000-00-00", "2020-00-00", "2020-05-00", "1000-01-01", "9999-12-31", "2024-02-29"];
    match random.random_bool(0.5) {
        true => (*known.choose(random).expect("a day")).to_owned(),
        false => format!(
            "{:04}-{:02}-{:02}",
            random.random_range(1000..10_000),
            random.random_range(1..13),
            random.random_range(1..29)
        ),
    }
}

fn clock(random: &mut StdRng) -> String {
    let mut two = |below| random.random_range(0..below);
    format!("{:02}:{:02}:{:02}", two(24), two(60), two(60))
}
