//! What the fuzz targets and the normal tests feed: every input must end in an answer, without a
//! panic, in memory bounded by the limits.

use relevo_mysqldump::sql::SqlTranslator;
use relevo_mysqldump::{DumpSplitter, SplitOptions, TableDef, TranslateOptions, ddl};

/// The longest row and statement that may be held.
const LIMIT_BYTES: usize = 64 << 10;

/// A dump of any bytes, fed in slices whose length its first byte tells.
pub fn tokenizer(data: &[u8]) {
    let step = data.first().map_or(1, |&byte| usize::from(byte) + 1);
    translate(data, step);
}

/// Any bytes where definitions stand.
pub fn ddl(data: &[u8]) {
    for (before, after) in [
        (&b"CREATE TABLE `t` (`id` int, "[..], &b");\n"[..]),
        (b"CREATE TABLE `t` (`a` int, `b` text);\nALTER TABLE `t` ", b";\n"),
        (b"CREATE TABLE `t` (`a` int, `b` text, CHECK (", b"));\n"),
        (b"CREATE TABLE `t` (`a` int, `b` text);\nCREATE VIEW `v` AS SELECT ", b" FROM `t`;\n"),
    ] {
        let dump = [before, data, after, b"INSERT INTO `t` VALUES (1,'x');\n"].concat();
        translate(&dump, dump.len());
    }
}

/// Cuts, encodes and translates a dump as far as it goes.
fn translate(dump: &[u8], step: usize) {
    let options = TranslateOptions::default();
    let mut splitter = DumpSplitter::new(SplitOptions {
        row_limit_bytes: LIMIT_BYTES,
        statement_limit_bytes: LIMIT_BYTES,
        ..SplitOptions::of(&options)
    });
    let mut translator = SqlTranslator::new(None, options.clone());
    let (mut tables, mut out) = (Vec::new(), Vec::new());
    let mut sink = |event: relevo_mysqldump::Event<'_>| {
        if let relevo_mysqldump::Event::Table(table) = &event {
            tables.push(TableDef::clone(table));
        }
        out.clear();
        translator.event(&event, &mut out).map_err(Into::into)
    };
    for slice in dump.chunks(step.max(1)) {
        if splitter.feed(slice, &mut sink).is_err() {
            return;
        }
    }
    if splitter.finish(&mut sink).is_ok() {
        translator.finish(&mut out);
    }
    ddl::post_load(&tables, "s", &options);
}
