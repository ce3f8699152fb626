//! The file of a backup: gzip around lines of text.
//!
//! ```text
//! {"relevo_state": 1, "schema_version": …, "cluster_id": …, "incarnation": …, …}    the header
//! {"table": "run", "columns": ["id", …]}                      then, for each table:
//! …                                                           its rows as COPY writes them
//! \.
//! {"rows": {"run": 12, …}, "sequences": {"job_id_seq": [4711, true], …}}    the end
//! ```
//!
//! Gzip's checksum and the line at the end tell a whole file from a damaged one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// The only version of the format there is.
const FORMAT: u32 = 1;

/// The longest line read: a row holds at most a payload of 1 MiB, a log's fields or a certificate,
/// each of which COPY may write several times as long.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// What stands where a table's rows end, as in COPY itself: no row can be written like this.
const END_OF_ROWS: &[u8] = b"\\.";

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file or its disk.
    #[error("{path} cannot be {what}", path = .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Read or written.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is no backup of Relevo's state", path = .0.display())]
    Stranger(PathBuf),
    /// It is of a format that this build does not know.
    #[error("{path} is of format {format}, which this version of relevo cannot read", path = .path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// It ends early or holds what no backup holds.
    #[error("{path} is damaged or incomplete: {reason}", path = .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a backup says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Header {
    relevo_state: u32,
    /// The version of Relevo that wrote it.
    pub relevo: String,
    /// The newest migration of the control plane.
    pub schema_version: i64,
    /// The control plane's id.
    pub cluster_id: String,
    /// Its incarnation.
    pub incarnation: i64,
    /// The moment of the snapshot, by the database's clock.
    pub taken_at: DateTime<Utc>,
    /// Whether the history of ended jobs is in it.
    pub history: bool,
}

impl Header {
    pub(super) fn new(
        schema_version: i64,
        cluster_id: String,
        incarnation: i64,
        taken_at: DateTime<Utc>,
        history: bool,
    ) -> Self {
        let relevo = env!("CARGO_PKG_VERSION").to_owned();
        let relevo_state = FORMAT;
        Self { relevo_state, relevo, schema_version, cluster_id, incarnation, taken_at, history }
    }
}

/// One table of the file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) table: String,
    pub(super) columns: Vec<String>,
}

/// The last line.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    /// Rows of each table.
    pub(super) rows: BTreeMap<String, u64>,
    /// Where each sequence stands, and whether that number was given out.
    pub(super) sequences: BTreeMap<String, (i64, bool)>,
}

/// Writes a file; it takes its place when it is whole.
pub(super) struct Writer {
    path: PathBuf,
    part: PathBuf,
    out: GzEncoder<BufWriter<File>>,
}

impl Writer {
    pub(super) fn create(path: &Path, header: &Header) -> Result<Self, ArchiveError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let part = path.with_file_name(name);
        let file = open_alone(&part).map_err(|source| written(&part, source))?;
        let out = GzEncoder::new(BufWriter::new(file), Compression::default());
        let mut writer = Self { path: path.to_owned(), part, out };
        writer.line(header)?;
        Ok(writer)
    }

    fn line(&mut self, value: &impl Serialize) -> Result<(), ArchiveError> {
        // Texts, numbers and maps of them are always JSON.
        let mut text = serde_json::to_vec(value).unwrap_or_default();
        text.push(b'\n');
        self.rows(&text)
    }

    pub(super) fn begin_table(&mut self, table: &Table) -> Result<(), ArchiveError> {
        self.line(table)
    }

    /// Takes whole rows as COPY writes them.
    pub(super) fn rows(&mut self, rows: &[u8]) -> Result<(), ArchiveError> {
        self.out.write_all(rows).map_err(|source| written(&self.part, source))
    }

    pub(super) fn end_table(&mut self) -> Result<(), ArchiveError> {
        self.rows(END_OF_ROWS)?;
        self.rows(b"\n")
    }

    /// Ends the file, sees it on the disk and puts it into its place; its size in bytes.
    pub(super) fn finish(mut self, end: &End) -> Result<u64, ArchiveError> {
        self.line(end)?;
        let Self { path, part, out } = self;
        let put = || -> io::Result<u64> {
            let file = out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            let size = file.metadata()?.len();
            fs::rename(&part, &path)?;
            // The name is in its folder only when the folder is on the disk too.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
            Ok(size)
        };
        put().map_err(|source| {
            // A full disk is not kept full.
            let _ = fs::remove_file(&part);
            written(&path, source)
        })
    }

    /// Removes what was written of a file that is not wanted any more.
    pub(super) fn discard(self) {
        // What stays is overwritten by the next attempt.
        let _ = fs::remove_file(&self.part);
    }
}

/// Opens the unfinished file for one writer, empty: two backups into one file at a time would write
/// a mixture of both.
fn open_alone(part: &Path) -> io::Result<File> {
    // It holds hashes of keys, sealed secrets and payloads: nobody else's business.
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(part)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => io::Error::other("another backup is being written there"),
        TryLockError::Error(error) => error,
    })?;
    // Whoever had it open before may have finished it, and it is the backup now.
    let (open, named) = (file.metadata()?, fs::metadata(part));
    if named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino())) {
        file.set_len(0)?;
        return Ok(file);
    }
    Err(io::Error::other("another backup was finished there at this moment; try again"))
}

fn written(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::File { path: path.to_owned(), what: "written", source }
}

/// Reads a file from its begin to its end.
pub(super) struct Reader {
    path: PathBuf,
    lines: BufReader<GzDecoder<BufReader<File>>>,
    line: Vec<u8>,
}

/// What comes next in a file.
pub(super) enum Item {
    /// Rows of this table follow, to be read by [`Reader::row`].
    Table(Table),
    /// That was all.
    End(End),
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<(Self, Header), ArchiveError> {
        let file = File::open(path).map_err(|source| ArchiveError::File {
            path: path.to_owned(),
            what: "read",
            source,
        })?;
        let lines = BufReader::with_capacity(1 << 16, GzDecoder::new(BufReader::new(file)));
        let mut reader = Self { path: path.to_owned(), lines, line: Vec::new() };
        #[derive(Deserialize)]
        struct Format {
            relevo_state: u32,
        }
        let stranger = || ArchiveError::Stranger(path.to_owned());
        reader.next_line().map_err(|_| stranger())?;
        let Format { relevo_state: format } =
            serde_json::from_slice(&reader.line).map_err(|_| stranger())?;
        if format != FORMAT {
            return Err(ArchiveError::Format { path: path.to_owned(), format });
        }
        let header = serde_json::from_slice(&reader.line).map_err(|_| stranger())?;
        Ok((reader, header))
    }

    /// Reads a whole file for nothing but to see that it is whole; its header and its end.
    pub(super) fn check(path: &Path) -> Result<(Header, End), ArchiveError> {
        let (mut reader, header) = Self::open(path)?;
        let mut counted = BTreeMap::new();
        loop {
            match reader.item()? {
                Item::Table(table) => {
                    let mut rows = 0;
                    while reader.row()?.is_some() {
                        rows += 1;
                    }
                    counted.insert(table.table, rows);
                }
                Item::End(end) if end.rows == counted => return Ok((header, end)),
                Item::End(_) => {
                    return Err(reader.damaged(&"its rows are not as many as it says"));
                }
            }
        }
    }

    /// The next table, or the end; after the rows of the table before.
    pub(super) fn item(&mut self) -> Result<Item, ArchiveError> {
        self.next_line()?;
        if let Ok(table) = serde_json::from_slice(&self.line) {
            return Ok(Item::Table(table));
        }
        let end = serde_json::from_slice(&self.line)
            .map_err(|_| self.damaged(&"a line is neither a table nor the end"))?;
        // The checksum comes after the last line.
        let mut rest = [0];
        match self.lines.read(&mut rest) {
            Ok(0) => Ok(Item::End(end)),
            Ok(_) => Err(self.damaged(&"something follows its end")),
            Err(error) => Err(self.damaged(&error)),
        }
    }

    /// The next row of a table with its line end, `None` after the last.
    pub(super) fn row(&mut self) -> Result<Option<&[u8]>, ArchiveError> {
        self.next_line()?;
        if self.line == END_OF_ROWS {
            return Ok(None);
        }
        self.line.push(b'\n');
        Ok(Some(&self.line))
    }

    /// Reads a line, without its end.
    fn next_line(&mut self) -> Result<(), ArchiveError> {
        self.line.clear();
        let mut bounded = (&mut self.lines).take(LINE_BYTES_MAX);
        let read = bounded.read_until(b'\n', &mut self.line);
        if let Err(error) = read {
            return Err(self.damaged(&error));
        }
        if self.line.pop() == Some(b'\n') {
            return Ok(());
        }
        Err(self.damaged(&"it ends in the middle"))
    }

    fn damaged(&self, reason: &dyn fmt::Display) -> ArchiveError {
        ArchiveError::Damaged { path: self.path.clone(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header::new(20_261_122_100_000, "c0ffee00".to_owned(), 1, DateTime::UNIX_EPOCH, true)
    }

    fn write(path: &Path) -> u64 {
        let mut writer = Writer::create(path, &header()).expect("opens");
        let columns = vec!["id".to_owned(), "text".to_owned()];
        writer.begin_table(&Table { table: "run".to_owned(), columns }).expect("writes");
        writer.rows(b"1\ta \\\\. b\n2\t\\N\n").expect("writes");
        writer.end_table().expect("writes");
        let rows = BTreeMap::from([("run".to_owned(), 2)]);
        let sequences = BTreeMap::from([("job_id_seq".to_owned(), (7, true))]);
        writer.finish(&End { rows, sequences }).expect("finishes")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state");
        write(&path);
        let (read, end) = Reader::check(&path).expect("is whole");
        assert_eq!(read, header());
        assert_eq!(end.sequences["job_id_seq"], (7, true));
        let (mut reader, _) = Reader::open(&path).expect("opens");
        let Ok(Item::Table(table)) = reader.item() else { panic!("a table comes first") };
        assert_eq!(table.columns, ["id", "text"]);
        assert_eq!(reader.row().expect("reads"), Some(&b"1\ta \\\\. b\n"[..]));
        assert_eq!(reader.row().expect("reads"), Some(&b"2\t\\N\n"[..]));
        assert_eq!(reader.row().expect("reads"), None);
        assert!(matches!(reader.item(), Ok(Item::End(_))));
        let names: Vec<_> = fs::read_dir(folder.path()).expect("lists").collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn two_backups_do_not_write_into_one_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state");
        let first = Writer::create(&path, &header()).expect("opens");
        let Err(error) = Writer::create(&path, &header()) else { panic!("both write") };
        assert!(format!("{error:?}").contains("another backup"), "{error:?}");
        first.finish(&End::default()).expect("finishes");
        Reader::check(&path).expect("is whole");
        // One that was killed leaves its part, which the next one takes over.
        fs::write(folder.path().join("state.part"), b"the beginning of a longer file")
            .expect("writes");
        write(&path);
        Reader::check(&path).expect("is whole");
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("state");
        let size = usize::try_from(write(&path)).expect("is small");
        let whole = fs::read(&path).expect("reads");
        for keep in [size - 1, size - 8, size / 2] {
            fs::write(&path, &whole[..keep]).expect("writes");
            let error = Reader::check(&path).expect_err("is cut off");
            let said = error.to_string();
            assert!(said.contains("damaged") || said.contains("no backup"), "{keep}: {said}");
        }
        let mut bent = whole;
        bent[size - 5] ^= 1;
        fs::write(&path, &bent).expect("writes");
        Reader::check(&path).expect_err("its checksum is wrong");
        fs::write(&path, b"a text").expect("writes");
        assert!(matches!(Reader::check(&path), Err(ArchiveError::Stranger(_))));
        let missing = Reader::check(&folder.path().join("missing"));
        assert!(matches!(missing, Err(ArchiveError::File { .. })));
    }
}
