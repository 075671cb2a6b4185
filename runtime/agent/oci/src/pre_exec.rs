//! What is left to do for a container's process when libcontainer is done with it: hooks, the seccomp filter, the
//! program. The agent writes it down beside the configuration; the helper reads it, since the file is out of reach once
//! the process is inside of the container.

use std::fs;
use std::path::Path;

use hutch_agent::failure::{io, Outcome};
use hutch_agent_proto::{ErrorKind, RemoteError};
use serde::{Deserialize, Serialize};

use crate::hooks::{self, Hook, State};
use crate::seccomp::Filter;

/// Name of the file.
const FILE: &str = "finish.json";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    /// Under this filter; not only the first process.
    pub filter: Option<Filter>,
    /// StartContainer hooks, before the first process's program.
    pub hooks: Vec<Hook>,
    /// What they are told.
    pub state: State,
}

impl Finish {
    /// Reads what is in `bundle`.
    ///
    /// # Errors
    /// `System`.
    pub fn read(bundle: &Path) -> Outcome<Self> {
        let file = bundle.join(FILE);
        let text = fs::read(&file).map_err(|error| io(file.display(), &error))?;
        serde_json::from_slice(&text).map_err(|error| RemoteError::system(file.display(), &error.into()))
    }

    /// Writes it to `bundle`.
    ///
    /// # Errors
    /// `System`.
    pub fn write(&self, bundle: &Path) -> Outcome<()> {
        let file = bundle.join(FILE);
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::write(&file, text).map_err(|error| io(file.display(), &error))
    }

    /// The same without what only the first process does.
    pub fn for_later(self) -> Self {
        Self { hooks: Vec::new(), ..self }
    }

    /// Runs the hooks, then puts the calling process under the filter.
    ///
    /// # Errors
    /// What the host is to be told.
    pub fn run(&self) -> Outcome<()> {
        if !self.hooks.is_empty() {
            let pid = i32::try_from(std::process::id()).ok();
            let text = self.state.text("created", pid);
            for hook in &self.hooks {
                let state = hooks::text_file(&text).map_err(|error| io("startContainer hooks", &error))?;
                hooks::run(hook, state, self.filter.as_ref())
                    .map_err(|why| RemoteError::new(ErrorKind::System, format!("startContainer {why}")))?;
            }
        }
        match &self.filter {
            Some(filter) => filter.load().map_err(|errno| {
                let message = format!("loading the seccomp filter: {}", errno.desc());
                RemoteError { kind: ErrorKind::System, message, errno: Some(errno as i32) }
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Finish::read(dir.path()).is_err());
        let hook = Hook { path: "/x".into(), ..Hook::default() };
        let finish = Finish { filter: Some(Filter::default()), hooks: vec![hook], ..Finish::default() };
        finish.write(dir.path()).unwrap();
        assert_eq!(Finish::read(dir.path()).unwrap(), finish);
        assert_eq!(finish.clone().for_later(), Finish { hooks: Vec::new(), ..finish });
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Finish::read(dir.path()).is_err());
    }

    #[test]
    fn p_166_the_first_hook_that_fails_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let mark = |name: &str| dir.path().join(name);
        let hook = |script: String| Hook {
            path: "/bin/sh".into(),
            args: vec!["sh".into(), "-c".into(), script],
            ..Hook::default()
        };
        let state = State { id: "c".into(), ..State::default() };
        let hooks = vec![
            hook(format!("cat > {}", mark("one").display())),
            hook("echo no way; exit 4".into()),
            hook(format!("touch {}", mark("three").display())),
        ];
        let error = Finish { hooks, state, filter: None }.run().unwrap_err();
        assert!(error.message.contains("startContainer hook") && error.message.contains("no way"), "{error:?}");
        let seen: serde_json::Value = serde_json::from_slice(&fs::read(mark("one")).unwrap()).unwrap();
        assert_eq!((&seen["id"], &seen["status"]), (&"c".into(), &"created".into()));
        assert_eq!(seen["pid"], std::process::id());
        assert!(!mark("three").exists());
    }
}
