//! Where the standard streams of a guest process lead on the host.
//!
//! The process's shim relays them. It inherits the caller's descriptors, unless the command says otherwise in
//! [`Command::stdio`](crate::spec::Command::stdio).

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::process;
use std::sync::{Arc, Mutex};

use crate::sync;

/// One standard stream of a guest process, as in [`std::process::Stdio`].
///
/// A [`File`], an end of a [pipe](std::io::pipe()) or any other [`OwnedFd`] converts into one. This process keeps its
/// copy of such a descriptor until the `Stdio` and its clones are dropped; the reader of a pipe sees the end only then.
#[derive(Debug, Clone, Default)]
pub struct Stdio(Kind);

#[derive(Debug, Clone, Default)]
enum Kind {
    #[default]
    Inherit,
    Null,
    /// The caller's end, from the spawn until the caller takes it.
    Piped(Arc<Mutex<Option<OwnedFd>>>),
    Fd(Arc<OwnedFd>),
}

impl Stdio {
    /// The caller's own stream; with [`Command::detach`](crate::spec::Command::detach), `/dev/null`. The default.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// `/dev/null`.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A new pipe, whose other end the caller gets.
    pub fn piped() -> Self {
        Self(Kind::Piped(Arc::default()))
    }

    /// Whether it is the caller's own.
    pub fn is_inherited(&self) -> bool {
        matches!(self.0, Kind::Inherit)
    }

    /// The stream for the shim; `None`: the default.
    fn open(&self, input: bool) -> io::Result<Option<process::Stdio>> {
        Ok(Some(match &self.0 {
            Kind::Inherit => return Ok(None),
            Kind::Null => process::Stdio::null(),
            Kind::Fd(fd) => fd.try_clone()?.into(),
            Kind::Piped(slot) => {
                let (reader, writer) = io::pipe()?;
                let (theirs, ours) = match input {
                    true => (process::Stdio::from(reader), OwnedFd::from(writer)),
                    false => (process::Stdio::from(writer), OwnedFd::from(reader)),
                };
                *sync::lock(slot) = Some(ours);
                theirs
            }
        }))
    }

    fn take(&self) -> Option<OwnedFd> {
        match &self.0 {
            Kind::Piped(slot) => sync::lock(slot).take(),
            _ => None,
        }
    }

    /// The same without the pipe that its clones share.
    fn renewed(&self) -> Self {
        match &self.0 {
            Kind::Piped(_) => Self::piped(),
            _ => self.clone(),
        }
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Fd(Arc::new(fd)))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        OwnedFd::from(file).into()
    }
}

impl From<PipeReader> for Stdio {
    fn from(reader: PipeReader) -> Self {
        OwnedFd::from(reader).into()
    }
}

impl From<PipeWriter> for Stdio {
    fn from(writer: PipeWriter) -> Self {
        OwnedFd::from(writer).into()
    }
}

/// Equal if both lead to the same place.
impl PartialEq for Stdio {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kind::Inherit, Kind::Inherit) | (Kind::Null, Kind::Null) => true,
            (Kind::Piped(a), Kind::Piped(b)) => Arc::ptr_eq(a, b),
            (Kind::Fd(a), Kind::Fd(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl Eq for Stdio {}

/// The standard streams of a guest process. They are a matter between the caller and the process: no record holds them.
/// A container that starts again after a stop gets them again if its handle, or its pod's, starts it: the one that the
/// creating call returned, or one that came from it. Otherwise it inherits the streams of the caller that starts it.
///
/// A process with a terminal has no stderr of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StdioConfig {
    /// Read for the process. Anything but [`Stdio::inherit`] implies [`Command::stdin`](crate::spec::Command::stdin).
    pub stdin: Stdio,
    /// Gets what the process writes to its stdout.
    pub stdout: Stdio,
    /// Gets what the process writes to its stderr.
    pub stderr: Stdio,
}

impl StdioConfig {
    /// All three are the caller's.
    pub fn inherit() -> Self {
        Self::default()
    }

    /// Stdout and stderr are pipes; there is no stdin.
    pub fn captured() -> Self {
        Self { stdin: Stdio::inherit(), stdout: Stdio::piped(), stderr: Stdio::piped() }
    }

    /// All three are pipes.
    pub fn piped() -> Self {
        Self { stdin: Stdio::piped(), ..Self::captured() }
    }

    /// Takes the caller's ends of the pipes of the process that was started last with this configuration. A second call
    /// finds none.
    pub fn take_pipes(&self) -> StdioPipes {
        StdioPipes {
            stdin: self.stdin.take().map(PipeWriter::from),
            stdout: self.stdout.take().map(PipeReader::from),
            stderr: self.stderr.take().map(PipeReader::from),
        }
    }

    /// Whether all three are the caller's.
    pub(crate) fn is_inherited(&self) -> bool {
        self.stdin.is_inherited() && self.stdout.is_inherited() && self.stderr.is_inherited()
    }

    /// The same with new pipes.
    pub(crate) fn renewed(&self) -> Self {
        Self { stdin: self.stdin.renewed(), stdout: self.stdout.renewed(), stderr: self.stderr.renewed() }
    }

    /// Makes the pipes, and returns the streams of the shim: stdin, stdout, stderr. For backends; the caller's ends can
    /// be taken from now on.
    #[doc(hidden)]
    pub fn open(&self) -> io::Result<[Option<process::Stdio>; 3]> {
        Ok([self.stdin.open(true)?, self.stdout.open(false)?, self.stderr.open(false)?])
    }

    /// Gives `command` the streams that are not inherited.
    pub(crate) fn give_to(&self, command: &mut process::Command) -> io::Result<()> {
        let [stdin, stdout, stderr] = self.open()?;
        stdin.map(|stdin| command.stdin(stdin));
        stdout.map(|stdout| command.stdout(stdout));
        stderr.map(|stderr| command.stderr(stderr));
        Ok(())
    }
}

/// The caller's ends of the pipes to a guest process. `None` where a stream is not [piped](Stdio::piped).
#[derive(Debug, Default)]
pub struct StdioPipes {
    /// Feeds the process's stdin, which ends when this is dropped.
    pub stdin: Option<PipeWriter>,
    /// The process's stdout. Ends with the process, after what it has written.
    pub stdout: Option<PipeReader>,
    /// The same for stderr.
    pub stderr: Option<PipeReader>,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn run(stdio: &StdioConfig, script: &str) -> process::Child {
        let mut command = process::Command::new("/bin/sh");
        command.args(["-c", script]).stdin(process::Stdio::null()).stdout(process::Stdio::null());
        stdio.give_to(&mut command).unwrap();
        command.spawn().unwrap()
    }

    fn text(mut from: impl Read) -> String {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_caller_gets_the_other_ends_of_pipes() {
        let stdio = StdioConfig::piped();
        let mut child = run(&stdio, "cat; echo error >&2");
        let pipes = stdio.take_pipes();
        pipes.stdin.unwrap().write_all(b"through").unwrap();
        assert_eq!(text(pipes.stdout.unwrap()), "through");
        assert_eq!(text(pipes.stderr.unwrap()), "error\n");
        assert!(child.wait().unwrap().success());
        let again = stdio.take_pipes();
        assert!(again.stdin.is_none() && again.stdout.is_none() && again.stderr.is_none(), "taken once");
    }

    #[test]
    fn a_descriptor_of_the_caller_is_used_as_it_is() {
        let (reader, writer) = io::pipe().unwrap();
        let stdio = StdioConfig { stdout: writer.into(), stderr: Stdio::null(), ..StdioConfig::inherit() };
        run(&stdio, "echo out; echo lost >&2").wait().unwrap();
        assert!(stdio.take_pipes().stdout.is_none());
        drop(stdio);
        assert_eq!(text(reader), "out\n");
    }

    #[test]
    fn clones_share_a_pipe_until_they_are_renewed() {
        let stdio = StdioConfig::captured();
        assert_eq!(stdio, stdio.clone());
        assert_ne!(stdio, stdio.renewed());
        assert!(!stdio.is_inherited() && StdioConfig::inherit().renewed().is_inherited());
        let renewed = stdio.renewed();
        run(&renewed, "true").wait().unwrap();
        assert!(stdio.take_pipes().stdout.is_none() && renewed.take_pipes().stdout.is_some());
    }
}
