//! `relevo`, the binary: the library's command line with the kinds of this build.

use std::process::ExitCode;

fn main() -> ExitCode {
    relevo::builder().run()
}
