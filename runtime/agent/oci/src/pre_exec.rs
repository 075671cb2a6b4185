//! The last steps of a container's process before it executes its program, after those of libcontainer: StartContainer
//! hooks and the seccomp filter. The agent writes them to a file beside the configuration. The helper reads the file,
//! since a process inside the container cannot reach it.

use std::fs;
use std::path::Path;

use hutch_agent::failure::{io, Outcome};
use hutch_agent_proto::{RemoteError, RemoteErrorKind};
use hutch_hook::state_file;
use serde::{Deserialize, Serialize};

use crate::hooks::{self, OciHook, OciState};
use crate::seccomp::Filter;

/// Name of the file in the bundle.
const FILE: &str = "exec-prep.json";

/// The last steps before the program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecPrep {
    /// Filter of every process of the container.
    pub filter: Option<Filter>,
    /// StartContainer hooks; only the first process runs them.
    pub hooks: Vec<OciHook>,
    /// State that the hooks read; its status and pid are filled in.
    pub state: OciState,
}

impl ExecPrep {
    /// Reads the file in `bundle`.
    pub fn read(bundle: &Path) -> Outcome<Self> {
        let file = bundle.join(FILE);
        let text = fs::read(&file).map_err(|error| io(file.display(), &error))?;
        serde_json::from_slice(&text).map_err(|error| RemoteError::system(file.display(), &error.into()))
    }

    /// Writes the file to `bundle`.
    pub fn write(&self, bundle: &Path) -> Outcome<()> {
        let file = bundle.join(FILE);
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::write(&file, text).map_err(|error| io(file.display(), &error))
    }

    /// The steps of a process that enters the container later.
    pub fn for_later(self) -> Self {
        Self { hooks: Vec::new(), ..self }
    }

    /// Runs the hooks, then puts the calling process under the filter.
    pub fn run(&self) -> Outcome<()> {
        if !self.hooks.is_empty() {
            let pid = i32::try_from(std::process::id()).ok();
            let text = self.state.text("created", pid);
            for hook in &self.hooks {
                let state = state_file(text.as_bytes()).map_err(|error| io("startContainer hooks", &error))?;
                hooks::run(hook, state, self.filter.as_ref())
                    .map_err(|why| RemoteError::new(RemoteErrorKind::System, format!("startContainer {why}")))?;
            }
        }
        match &self.filter {
            Some(filter) => filter.load().map_err(|errno| {
                let message = format!("loading the seccomp filter: {}", errno.desc());
                RemoteError { kind: RemoteErrorKind::System, message, errno: Some(errno as i32) }
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_survive_their_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ExecPrep::read(dir.path()).is_err());
        let hook = OciHook { path: "/x".into(), ..OciHook::default() };
        let prep = ExecPrep { filter: Some(Filter::default()), hooks: vec![hook], ..ExecPrep::default() };
        prep.write(dir.path()).unwrap();
        assert_eq!(ExecPrep::read(dir.path()).unwrap(), prep);
        assert_eq!(prep.clone().for_later(), ExecPrep { hooks: Vec::new(), ..prep });
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(ExecPrep::read(dir.path()).is_err());
    }

    #[test]
    fn p_166_the_first_hook_that_fails_ends_the_list() {
        let dir = tempfile::tempdir().unwrap();
        let mark = |name: &str| dir.path().join(name);
        let hook = |script: String| OciHook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script],
            ..OciHook::default()
        };
        let state = OciState { id: "c".into(), ..OciState::default() };
        let hooks = vec![
            hook(format!("cat > {}", mark("one").display())),
            hook("echo no way; exit 4".into()),
            hook(format!("touch {}", mark("three").display())),
        ];
        let error = ExecPrep { hooks, state, filter: None }.run().unwrap_err();
        assert!(error.message.contains("startContainer hook") && error.message.contains("no way"), "{error:?}");
        let seen: serde_json::Value = serde_json::from_slice(&fs::read(mark("one")).unwrap()).unwrap();
        assert_eq!((&seen["id"], &seen["status"]), (&"c".into(), &"created".into()));
        assert_eq!(seen["pid"], std::process::id());
        assert!(!mark("three").exists());
    }
}
