//! The agent to embed: where it is, and whether it can be a guest's only program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::image::check_agent;
use super::store::manifest::{AgentRecord, Stamp};
use super::GuestError;

/// The environment variable that names the agent's file.
pub const AGENT_VARIABLE: &str = "HUTCH_AGENT";
/// The agent's name beside the `hutch` executable.
const FILE_NAME: &str = "hutch-agent";
/// What precedes the version inside the agent's file, up to a character that no version has.
const VERSION_MARK: &[u8] = b"hutch-agent-version:";

/// Where an agent is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentPath {
    pub(crate) path: PathBuf,
    /// By the caller or the environment, so it has to be there.
    pub(crate) given: bool,
}

impl AgentPath {
    /// `given`, else `HUTCH_AGENT`, else beside this executable.
    pub(crate) fn locate(given: Option<&Path>) -> AgentPath {
        let variable = || std::env::var_os(AGENT_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        if let Some(path) = given.map(Path::to_owned).or_else(variable) {
            let path = std::path::absolute(&path).unwrap_or(path);
            return AgentPath { path, given: true };
        }
        let executable = std::env::current_exe().unwrap_or_default();
        AgentPath { path: executable.with_file_name(FILE_NAME), given: false }
    }
}

/// An agent read and checked.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) record: AgentRecord,
}

impl Agent {
    pub(crate) fn load(from: &AgentPath) -> Result<Agent, GuestError> {
        let path = from.path.clone();
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => GuestError::NoAgent { path: path.clone() },
            _ => GuestError::ReadAgent { path: path.clone(), source },
        };
        // The identity first: if the file changes in between, the next look sees another one.
        let stamp = Stamp::of(&path).map_err(read)?;
        let bytes = fs::read(&path).map_err(read)?;
        check_agent(&bytes).map_err(|source| GuestError::BadAgent { path: path.clone(), source })?;
        let (sha256, version) = (Digest::of(&bytes), version(&bytes));
        Ok(Agent { bytes, record: AgentRecord { path, given: from.given, sha256, stamp, version } })
    }
}

fn version(bytes: &[u8]) -> Option<String> {
    let at = memchr::memmem::find(bytes, VERSION_MARK)?;
    let text = bytes.get(at + VERSION_MARK.len()..)?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+');
    let version: String = text.iter().take(64).take_while(|b| plain(b)).map(|&b| char::from(b)).collect();
    (!version.is_empty()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_behind_its_mark() {
        assert_eq!(version(b"\x7fELF..hutch-agent-version:0.1.0-rc.1\0more"), Some("0.1.0-rc.1".into()));
        assert_eq!(version(b"hutch-agent-version:"), None);
        assert_eq!(version(b"nothing"), None);
    }

    #[test]
    fn a_given_path_wins_and_becomes_absolute() {
        let found = AgentPath::locate(Some(Path::new("some/agent")));
        assert!(found.given && found.path.is_absolute() && found.path.ends_with("some/agent"));
    }
}
