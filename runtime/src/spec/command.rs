//! A program to run in a container.

use std::path::PathBuf;

use hutch_agent_proto::{ProcessSpec, Rlimit, WindowSize};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Capabilities;
use crate::capture::StdioConfig;
use crate::error::{Error, Result};

/// One variable of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// Not empty, without `=`.
    pub name: String,
    /// Value; may be empty.
    pub value: String,
}

/// A program with its arguments and environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Command {
    /// Program and arguments.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<EnvVar>,
    /// Absolute; empty means `/`.
    pub cwd: String,
    /// `uid` or `uid:gid`, numbers or names; names are looked up inside the image (P-124).
    pub user: String,
    /// Replaces the group of `user`.
    pub primary_group: String,
    /// Supplementary groups, numbers or names.
    pub supplementary_groups: Vec<String>,
    /// Gives the process a terminal.
    pub interactive: bool,
    /// Host terminal that the shim connects to the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console: Option<PathBuf>,
    /// The caller does not wait, so the process gets none of its standard streams.
    pub detach: bool,
    /// Keeps the process's stdin open for the host.
    pub stdin: bool,
    /// Set `no_new_privs`.
    pub no_new_privileges: bool,
    /// Capability sets; absent: the runtime's default set, or for an exec those of its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Where its standard streams lead. Not part of a configuration on disk.
    #[serde(skip)]
    pub stdio: StdioConfig,
}

impl Command {
    /// Checks all fields that can be checked without the image.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the field.
    pub fn validate(&self) -> Result<()> {
        if self.args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("command.args", "has no program; give at least one argument"));
        }
        for var in &self.env {
            check_env(&var.name, &var.value)?;
        }
        if !self.cwd.is_empty() && !self.cwd.starts_with('/') {
            return Err(Error::invalid(format!("command.cwd {:?}", self.cwd), "must be an absolute path"));
        }
        parse_user(&self.user)?;
        if self.console.is_some() && !self.stdio.is_inherited() {
            return Err(Error::invalid("command.console", "is the process's streams; leave command.stdio as it is"));
        }
        if self.args.iter().any(|arg| arg.contains('\0')) {
            return Err(Error::invalid("command.args", "has a NUL byte"));
        }
        Ok(())
    }

    /// Whether the guest process has a stdin that the host feeds.
    pub(crate) fn has_stdin(&self) -> bool {
        self.stdin || self.interactive || !self.stdio.stdin.is_inherited()
    }

    /// User and primary group for the guest: `user[:group]`; `primary_group` wins (P-124).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if `user` has more than one colon.
    pub fn guest_user(&self) -> Result<String> {
        let (user, group) = parse_user(&self.user)?;
        let group = match self.primary_group.as_str() {
            "" => group,
            explicit => explicit,
        };
        Ok(match group {
            "" => user.to_owned(),
            group => format!("{}:{group}", if user.is_empty() { "0" } else { user }),
        })
    }

    /// The process in the form of the agent protocol.
    pub(crate) fn to_process(&self, terminal: Option<WindowSize>, rlimits: Vec<Rlimit>) -> Result<ProcessSpec> {
        self.validate()?;
        Ok(ProcessSpec {
            args: self.args.clone(),
            env: self.env.iter().map(|var| (var.name.clone(), var.value.clone())).collect(),
            // Records are text.
            env_bytes: Vec::new(),
            cwd: self.cwd.clone(),
            user: self.guest_user()?,
            groups: self.supplementary_groups.clone(),
            terminal: self.interactive.then(|| terminal.unwrap_or_default()),
            stdin: self.has_stdin(),
            rlimits,
            no_new_privileges: self.no_new_privileges,
            capabilities: self.capabilities.as_ref().map(Capabilities::to_sets),
        })
    }
}

/// Splits `NAME=VALUE` entries at the first `=` (P-125).
///
/// # Errors
/// [`Error::InvalidConfig`] for an entry without `=`, with an empty name, or with a NUL byte.
pub fn parse_env<S: AsRef<str>>(entries: &[S]) -> Result<Vec<EnvVar>> {
    let split = |entry: &S| {
        let entry = entry.as_ref();
        let (name, value) = entry
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("environment entry {entry:?}"), "has no '='; write NAME=VALUE"))?;
        check_env(name, value)?;
        Ok(EnvVar { name: name.to_owned(), value: value.to_owned() })
    };
    entries.iter().map(split).collect()
}

fn check_env(name: &str, value: &str) -> Result<()> {
    let reason = match () {
        () if name.is_empty() => "has an empty name",
        () if name.contains('=') => "has a '=' in its name",
        () if name.contains('\0') || value.contains('\0') => "has a NUL byte",
        () => return Ok(()),
    };
    Err(Error::invalid(format!("environment variable {name:?}"), reason))
}

/// Splits `user[:group]` (P-124). Both stay text: only the image can resolve names.
///
/// # Errors
/// [`Error::InvalidConfig`] if there is more than one colon.
pub fn parse_user(text: &str) -> Result<(&str, &str)> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    if group.contains(':') {
        return Err(Error::invalid(format!("user {text:?}"), "has more than one colon; write uid or uid:gid"));
    }
    Ok((user, group))
}
