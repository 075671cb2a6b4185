//! The jobs of a helper process ([`crate::run_job`]), and their form as its arguments.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// First argument of a helper.
pub const VERB: &str = "__container";
/// Replaces the path of the console socket if the process has no terminal.
const NO_CONSOLE: &str = "-";
/// How long one hook of the guest may take.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// A job that forks processes, and therefore cannot run in the agent itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Create a container whose init waits.
    Create {
        /// libcontainer's directory of states.
        root: PathBuf,
        id: String,
        /// Directory of the container's configuration.
        bundle: PathBuf,
        /// Socket that receives the terminal, if the process has one.
        console: Option<PathBuf>,
    },
    /// Start one more process in a container.
    Exec {
        /// libcontainer's directory of states.
        root: PathBuf,
        id: String,
        /// File with the OCI form of the process, in the container's bundle.
        process: PathBuf,
        /// Socket that receives the terminal, if the process has one.
        console: Option<PathBuf>,
    },
    /// Run a hook of the guest, with the helper's stdin as the state.
    Hook { program: PathBuf, point: HookPoint },
}

/// A point of a container's life at which hooks of the guest run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// The container's process exists and waits. A failure fails the creation.
    Prestart,
    /// The container's program runs. Failures are logged.
    Poststart,
    /// The container has been removed. Failures are logged.
    Poststop,
}

impl HookPoint {
    /// Name of the directory with the hooks; also their first argument.
    pub fn name(self) -> &'static str {
        match self {
            HookPoint::Prestart => "prestart",
            HookPoint::Poststart => "poststart",
            HookPoint::Poststop => "poststop",
        }
    }

    /// Status of the container in the state that the hooks read.
    pub fn status(self) -> &'static str {
        match self {
            HookPoint::Prestart => "created",
            HookPoint::Poststart => "running",
            HookPoint::Poststop => "stopped",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [HookPoint::Prestart, HookPoint::Poststart, HookPoint::Poststop].into_iter().find(|point| point.name() == name)
    }
}

impl Job {
    /// The arguments after the program's name, [`VERB`] first; `None` if a path is not text.
    pub fn to_args(&self) -> Option<Vec<String>> {
        let text = |path: &Path| path.to_str().map(str::to_owned);
        let console = |path: &Option<PathBuf>| path.as_deref().map_or(Some(NO_CONSOLE.to_owned()), text);
        let mut args = vec![VERB.to_owned()];
        match self {
            Job::Create { root, id, bundle, console: socket } => {
                args.extend(["create".to_owned(), text(root)?, id.clone(), text(bundle)?, console(socket)?]);
            }
            Job::Exec { root, id, process, console: socket } => {
                args.extend(["exec".to_owned(), text(root)?, id.clone(), text(process)?, console(socket)?]);
            }
            Job::Hook { program, point } => {
                args.extend(["hook".to_owned(), text(program)?, point.name().to_owned()]);
            }
        }
        Some(args)
    }

    /// Parses the arguments after the program's name; `None` unless they are those of a job.
    pub fn from_args(args: &[String]) -> Option<Self> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let console = |socket: &str| (socket != NO_CONSOLE).then(|| PathBuf::from(socket));
        match args[..] {
            [VERB, "create", root, id, bundle, socket] => Some(Job::Create {
                root: root.into(),
                id: id.to_owned(),
                bundle: bundle.into(),
                console: console(socket),
            }),
            [VERB, "exec", root, id, process, socket] => Some(Job::Exec {
                root: root.into(),
                id: id.to_owned(),
                process: process.into(),
                console: console(socket),
            }),
            [VERB, "hook", program, point] => {
                Some(Job::Hook { program: program.into(), point: HookPoint::from_name(point)? })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn jobs_survive_their_form_as_arguments() {
        let create = |console| Job::Create { root: "/s".into(), id: "c".into(), bundle: "/b/c".into(), console };
        for job in [
            create(None),
            create(Some("/b/c/console.sock".into())),
            Job::Exec { root: "/s".into(), id: "c".into(), process: "/b/c/process-1.json".into(), console: None },
            Job::Hook { program: "/hooks/prestart/a b".into(), point: HookPoint::Prestart },
            Job::Hook { program: "/hooks/poststop/a".into(), point: HookPoint::Poststop },
        ] {
            let args = job.to_args().unwrap();
            assert_eq!(args[0], VERB);
            assert_eq!(Job::from_args(&args), Some(job));
        }
    }

    #[test]
    fn other_arguments_are_not_a_job() {
        let args = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
        for words in [&[][..], &[VERB], &["create"], &[VERB, "fly"], &[VERB, "hook", "/h", "never"], &[VERB, "create"]]
        {
            assert_eq!(Job::from_args(&args(words)), None, "{words:?}");
        }
        let program = PathBuf::from(OsStr::from_bytes(b"/h/\xff"));
        assert_eq!(Job::Hook { program, point: HookPoint::Prestart }.to_args(), None);
    }
}
