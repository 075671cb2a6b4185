//! The captured output of a hook. Runs on the thread of the hook's caller.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

use nix::fcntl::{fcntl, FcntlArg, OFlag};

/// The captured output of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capture {
    /// stdout and stderr each, at most this number of bytes.
    Separate(usize),
    /// stdout and stderr in the order of the writes, at most this number of bytes. They become
    /// [`crate::HookFailure::stdout`].
    Merged(usize),
}

/// The read end of a pipe, and the bytes that came out of it.
pub(crate) struct Output {
    /// `None` at the end of the stream.
    pipe: Option<File>,
    bytes: Vec<u8>,
    limit: usize,
}

impl Output {
    /// The outputs of a hook, and its stdout and stderr.
    pub(crate) fn new(capture: Capture) -> io::Result<(Vec<Self>, [Stdio; 2])> {
        match capture {
            Capture::Separate(limit) => {
                let ((stdout, out), (stderr, err)) = (Self::pipe_pair(limit)?, Self::pipe_pair(limit)?);
                Ok((vec![stdout, stderr], [out.into(), err.into()]))
            }
            Capture::Merged(limit) => {
                let (output, theirs) = Self::pipe_pair(limit)?;
                Ok((vec![output], [theirs.try_clone()?.into(), theirs.into()]))
            }
        }
    }

    fn pipe_pair(limit: usize) -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = io::pipe()?;
        let ours = OwnedFd::from(ours);
        fcntl(&ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Self { pipe: Some(ours.into()), bytes: Vec::new(), limit }, theirs.into()))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// The pipe to wait for.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads a bufferful, if one has arrived, and drops bytes over the limit.
    pub(crate) fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut buffer = [0; 4096];
        match pipe.read(&mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                let room = self.limit.saturating_sub(self.bytes.len()).min(count);
                self.bytes.extend_from_slice(&buffer[..room]);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
