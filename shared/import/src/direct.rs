//! The whole import in one process.
use crate::certificate::Certificate;
use crate::error::ImportError;
use crate::options::DirectOptions;
use crate::progress::ImportProgress;
use std::io::Read;
use std::sync::Arc;

/// Imports a dump (gzip or plain).
///
/// # Errors
/// As in [`ImportError`]; the previous data are intact and nothing is left behind.
pub async fn import_file(
    _input: impl Read + Send + 'static,
    _options: DirectOptions,
    _progress: Arc<dyn ImportProgress>,
) -> Result<Certificate, ImportError> {
    todo!()
}
