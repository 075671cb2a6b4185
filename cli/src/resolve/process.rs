//! The command of a guest: words, working directory, user, limits.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use hutch_agent_proto::{ProcessSpec, Rlimit};

use super::error::ResolveError;
use super::values::utf8;
use crate::args::run::RunArgs;

/// Resource limits, by the names that shells and container tools use.
const ULIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The process that the agent starts, without its terminal.
pub fn resolve(args: &RunArgs, env: Vec<(String, OsString)>) -> Result<ProcessSpec, ResolveError> {
    let words: Vec<String> =
        args.command.iter().map(|word| utf8("command word", word).map(str::to_owned)).collect::<Result<_, _>>()?;
    if words.first().is_none_or(|program| program.is_empty()) {
        return Err(ResolveError::EmptyCommand);
    }
    let (mut text, mut bytes) = (Vec::new(), Vec::new());
    for (name, value) in env {
        match value.into_string() {
            Ok(value) => text.push((name, value)),
            Err(value) => bytes.push((name, value.into_vec())),
        }
    }
    Ok(ProcessSpec {
        args: words,
        env: text,
        env_bytes: bytes,
        cwd: workdir(args.workdir.as_deref())?,
        user: user(args.user.as_deref())?,
        stdin: args.interactive,
        rlimits: args.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
        ..ProcessSpec::default()
    })
}

pub(super) fn workdir(text: Option<&OsStr>) -> Result<String, ResolveError> {
    let Some(text) = text else { return Ok("/".to_owned()) };
    let text = utf8("-w", text)?;
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err(ResolveError::Workdir(text.to_owned())),
    }
}

/// `USER` or `USER:GROUP`, neither empty (P-124). The guest looks the names up.
pub(super) fn user(text: Option<&OsStr>) -> Result<String, ResolveError> {
    let Some(text) = text else { return Ok(String::new()) };
    let text = utf8("-u", text)?;
    let parts: Vec<&str> = text.split(':').collect();
    match parts.len() <= 2 && parts.iter().all(|part| !part.is_empty() && !part.contains(char::is_whitespace)) {
        true => Ok(text.to_owned()),
        false => Err(ResolveError::User(text.to_owned())),
    }
}

/// `NAME=SOFT[:HARD]`.
pub fn ulimit(text: &OsStr) -> Result<Rlimit, ResolveError> {
    let syntax = || ResolveError::UlimitSyntax(text.to_owned());
    let (name, limits) = text.to_str().and_then(|t| t.split_once('=')).ok_or_else(syntax)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (limit(soft).ok_or_else(syntax)?, limit(hard).ok_or_else(syntax)?);
    if !ULIMITS.contains(&name) {
        return Err(ResolveError::UlimitName(name.to_owned(), ULIMITS.join(", ")));
    }
    if soft > hard {
        return Err(ResolveError::UlimitOrder(name.to_owned()));
    }
    Ok(Rlimit { kind: format!("RLIMIT_{}", name.to_ascii_uppercase()), soft, hard })
}

fn limit(text: &str) -> Option<u64> {
    match text {
        "unlimited" | "-1" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}
