//! The agent to embed: finding its file, and checking that it can be a guest's only program.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::image::check_agent;
use super::store::manifest::{EmbeddedAgent, Stamp};
use super::GuestError;

/// Environment variable with the path of the agent's file.
pub const AGENT_VARIABLE: &str = "HUTCH_AGENT";
/// Environment variable with the path of the agent for pods, which supports containers.
pub const OCI_AGENT_VARIABLE: &str = "HUTCH_AGENT_OCI";
/// Name of the agent for pods, beside the `hutch` executable or beside the other agent.
const OCI_FILE_NAME: &str = "hutch-agent-oci";
/// Name of the agent beside the `hutch` executable.
const FILE_NAME: &str = "hutch-agent";
/// Precedes the version in the agent's file. The version ends at the first character that no version has.
const VERSION_MARK: &[u8] = b"hutch-agent-version:";

/// Path of an agent, and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentPath {
    pub(crate) path: PathBuf,
    /// The caller or the environment named the path, so the file must exist.
    pub(crate) given: bool,
}

impl AgentPath {
    /// The agent at `given`, else at `HUTCH_AGENT`, else beside this executable.
    pub(crate) fn locate(given: Option<&Path>) -> AgentPath {
        if let Some(path) = given.map(Path::to_owned).or_else(|| variable(AGENT_VARIABLE)) {
            return AgentPath { path: absolute(path), given: true };
        }
        let executable = std::env::current_exe().unwrap_or_default();
        AgentPath { path: executable.with_file_name(FILE_NAME), given: false }
    }

    /// The agent for pods: at `HUTCH_AGENT_OCI`, else beside this executable, else beside `HUTCH_AGENT`.
    pub(crate) fn locate_oci() -> AgentPath {
        if let Some(path) = variable(OCI_AGENT_VARIABLE) {
            return AgentPath { path: absolute(path), given: true };
        }
        let beside = std::env::current_exe().unwrap_or_default().with_file_name(OCI_FILE_NAME);
        let other = variable(AGENT_VARIABLE).map(|agent| absolute(agent).with_file_name(OCI_FILE_NAME));
        let path = other.filter(|other| !beside.exists() && other.exists()).unwrap_or(beside);
        AgentPath { path, given: false }
    }
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// An agent read and checked.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) bytes: Vec<u8>,
    pub(crate) record: EmbeddedAgent,
}

impl Agent {
    pub(crate) fn load(from: &AgentPath) -> Result<Agent, GuestError> {
        let path = from.path.clone();
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => GuestError::NoAgent { path: path.clone() },
            _ => GuestError::ReadAgent { path: path.clone(), source },
        };
        // Take the identity first: if the file changes in between, the next check sees the difference.
        let stamp = Stamp::of(&path).map_err(read)?;
        let bytes = fs::read(&path).map_err(read)?;
        check_agent(&bytes).map_err(|source| GuestError::BadAgent { path: path.clone(), source })?;
        let (sha256, version) = (Digest::of(&bytes), version(&bytes));
        Ok(Agent { bytes, record: EmbeddedAgent { path, given: from.given, sha256, stamp, version } })
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
