//! The `log` back end: writes one line per record to stderr or a file, without a buffer.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;

use log::{LevelFilter, Log, Metadata, Record};

use crate::args::logging::LogArgs;
use crate::failure::Failure;

/// Level unless an option or `HUTCH_LOG` sets another.
const DEFAULT: LevelFilter = LevelFilter::Warn;

struct Logger {
    file: Option<File>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

#[derive(Debug, thiserror::Error)]
enum LogError {
    #[error("HUTCH_LOG: unknown log level {0:?}; use off, error, warn, info, debug or trace")]
    Level(String),
    #[error("cannot open the log file {}", .path.display())]
    Open { path: PathBuf, source: io::Error },
}

/// Sets logging up from the arguments, else from `HUTCH_LOG`.
pub fn init(args: &LogArgs) -> Result<(), Failure> {
    let level = match args.log_level {
        Some(level) => level,
        None => match std::env::var("HUTCH_LOG") {
            Ok(text) if !text.is_empty() => text.parse().map_err(|_| Failure::from(LogError::Level(text)))?,
            _ => DEFAULT,
        },
    };
    let file = match &args.log_file {
        Some(path) => Some(
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(|source| LogError::Open { path: path.clone(), source })?,
        ),
        None => None,
    };
    let logger = LOGGER.get_or_init(|| Logger { file });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(level);
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = record.level().as_str().to_lowercase();
        let line = format!("hutch: {level}: {}: {}\n", record.target(), record.args());
        // There is no other place to report a log that cannot be written.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {}
}
