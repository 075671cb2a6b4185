//! The command's environment.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::ResolveError;

/// `PATH` of a command unless `-e` or a file sets it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files first, then `-e`; later settings win. `PATH`, and `TERM` with a terminal, have defaults. Names are text; values are
/// any bytes but NUL.
pub fn resolve(
    typed: &[OsString],
    files: &[PathBuf],
    tty: bool,
    own: &dyn Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<(String, OsString)>, ResolveError> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH.as_ref());
    if tty {
        env.set("TERM", &own("TERM".as_ref()).unwrap_or_else(|| "xterm".into()));
    }
    for path in files {
        read_file(path, &mut env, own)?;
    }
    for text in typed {
        set(&mut env, text, own, || ResolveError::EnvSyntax(text.clone()))?;
    }
    Ok(env.0)
}

fn read_file(path: &Path, env: &mut Environment, own: &dyn Fn(&OsStr) -> Option<OsString>) -> Result<(), ResolveError> {
    let text = fs::read_to_string(path).map_err(|source| ResolveError::EnvFile { path: path.to_owned(), source })?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        set(env, line.as_ref(), own, || ResolveError::EnvFileLine {
            path: path.to_owned(),
            line: number + 1,
            text: line.to_owned(),
        })?;
    }
    Ok(())
}

/// `NAME=VALUE`, split at the first `=` (P-125), or `NAME` for a variable of hutch's environment; one that is not set
/// there is not set in the guest.
fn set(
    env: &mut Environment,
    text: &OsStr,
    own: &dyn Fn(&OsStr) -> Option<OsString>,
    syntax: impl Fn() -> ResolveError,
) -> Result<(), ResolveError> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (&bytes[..at], Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (bytes, None),
    };
    let name = std::str::from_utf8(name).map_err(|_| syntax())?;
    if name.is_empty() || name.contains(char::is_whitespace) || bytes.contains(&0) {
        return Err(syntax());
    }
    match value {
        Some(value) => env.set(name, value),
        None => match own(name.as_ref()) {
            Some(value) => env.set(name, &value),
            None => env.0.retain(|(other, _)| other != name),
        },
    }
    Ok(())
}

#[derive(Default)]
struct Environment(Vec<(String, OsString)>);

impl Environment {
    fn set(&mut self, name: &str, value: &OsStr) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}
