//! The command's environment.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use super::error::ResolveError;
use super::values::utf8;

/// `PATH` of a command unless `-e` or a file sets it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files first, then `-e`; later settings win. `PATH`, and `TERM` with a terminal, have defaults.
pub fn resolve(
    typed: &[OsString],
    files: &[PathBuf],
    tty: bool,
    own: &dyn Fn(&OsStr) -> Option<OsString>,
) -> Result<Vec<(String, String)>, ResolveError> {
    let mut env = Environment::default();
    env.set("PATH", DEFAULT_PATH);
    if tty {
        let term = own("TERM".as_ref()).and_then(|t| t.into_string().ok());
        env.set("TERM", term.as_deref().unwrap_or("xterm"));
    }
    for path in files {
        read_file(path, &mut env, own)?;
    }
    for text in typed {
        let line = utf8("-e", text)?;
        set(&mut env, line, own, || ResolveError::EnvSyntax(text.clone()))?;
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
        set(env, line, own, || ResolveError::EnvFileLine {
            path: path.to_owned(),
            line: number + 1,
            text: line.to_owned(),
        })?;
    }
    Ok(())
}

/// `NAME=VALUE`, split at the first `=` (P-125), or `NAME` for a variable of hutch's environment.
fn set(
    env: &mut Environment,
    text: &str,
    own: &dyn Fn(&OsStr) -> Option<OsString>,
    syntax: impl Fn() -> ResolveError,
) -> Result<(), ResolveError> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\0') {
        return Err(syntax());
    }
    match value {
        Some(value) => env.set(name, value),
        None => {
            let value = own(name.as_ref()).ok_or_else(|| ResolveError::EnvUnset(name.to_owned()))?;
            env.set(name, utf8("value of -e", &value)?);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Environment(Vec<(String, String)>);

impl Environment {
    fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }
}
