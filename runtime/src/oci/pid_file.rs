//! The pid file of a container, written last (P-197).

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fault;

/// Writes `pid` in decimal to `path`, through a temporary file in the same directory; replaces an older file.
///
/// # Errors
/// [`Error::InvalidConfig`] with the path.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    fault::point("pid-file")?;
    let fail = |e: std::io::Error| Error::invalid(format!("PID file {}", path.display()), e.to_string());
    let name = path.file_name().ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary).map_err(fail)?;
    let written = file.write_all(pid.to_string().as_bytes()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(fail)
}
