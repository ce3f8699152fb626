//! Translates a dump on standard input to SQL for psql on standard output.
//!
//! `zcat dump.sql.gz | cargo run --example translate -- [SCHEMA] | psql …`

use std::io::{Read, Write};

use relevo_mysqldump::sql::SqlTranslator;
use relevo_mysqldump::{DumpSplitter, SplitOptions, TranslateOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schema = std::env::args().nth(1);
    let mut translator = SqlTranslator::new(schema, TranslateOptions::default());
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (mut buffer, mut out) = (vec![0; 1 << 20], Vec::new());
    loop {
        let length = input.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        splitter.feed(&buffer[..length], &mut |event| Ok(translator.event(&event, &mut out)?))?;
        output.write_all(&out)?;
        out.clear();
    }
    let summary = splitter.finish(&mut |event| Ok(translator.event(&event, &mut out)?))?;
    let (stats, _) = translator.finish(&mut out);
    output.write_all(&out)?;
    eprintln!("{summary:?}\n{stats:?}");
    Ok(())
}
