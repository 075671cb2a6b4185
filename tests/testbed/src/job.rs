//! The job: the command that the testbed runs, and its surroundings. The host half writes it, `testbed-init` reads it once.
//!
//! On the wire it is a list of records `key NUL value NUL`. No argument, path or variable can contain a NUL, so
//! there is nothing to escape and any other byte survives.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A host directory the command may write to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// virtio-fs tag.
    pub tag: String,
    /// Absolute path, the same on the host and in the testbed.
    pub path: PathBuf,
}

/// A command and its surroundings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Program and arguments; a program without `/` is looked up in `PATH`.
    pub args: Vec<OsString>,
    /// The whole environment, as `KEY=VALUE`.
    pub env: Vec<OsString>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Directories writable through to the host.
    pub shares: Vec<Share>,
    /// Host directory with the kernel's modules, shown as `/lib/modules/RELEASE`.
    pub modules: Option<PathBuf>,
    /// Run on a terminal of this many rows and columns instead of pipes.
    pub terminal: Option<(u16, u16)>,
    /// Whether the host sends stdin frames; if not, stdin is /dev/null.
    pub stdin: bool,
}

/// Why a job could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum JobError {
    /// The bytes end inside a record.
    Truncated,
    /// An unknown key, or a value that the key does not allow.
    Record(String),
}

impl std::fmt::Display for JobError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JobError::Truncated => write!(f, "job file ends inside a record"),
            JobError::Record(what) => write!(f, "job file has a bad record: {what}"),
        }
    }
}

impl std::error::Error for JobError {}

impl Job {
    /// The job as bytes.
    ///
    /// # Panics
    /// If a string contains a NUL, which the kernel would refuse too.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut record = |key: &str, value: &OsStr| {
            assert!(!value.as_bytes().contains(&0), "a job's {key} contains a NUL byte");
            out.extend_from_slice(key.as_bytes());
            out.push(0);
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        };
        self.args.iter().for_each(|arg| record("arg", arg));
        self.env.iter().for_each(|var| record("env", var));
        record("cwd", self.cwd.as_os_str());
        for share in &self.shares {
            record("tag", share.tag.as_ref());
            record("share", share.path.as_os_str());
        }
        if let Some(path) = &self.modules {
            record("modules", path.as_os_str());
        }
        if let Some((rows, cols)) = self.terminal {
            record("terminal", format!("{rows}x{cols}").as_ref());
        }
        if self.stdin {
            record("stdin", "yes".as_ref());
        }
        out
    }

    /// Reads what [`Job::encode`] wrote.
    ///
    /// # Errors
    /// As [`JobError`] says.
    pub fn decode(bytes: &[u8]) -> Result<Job, JobError> {
        let mut job = Job::default();
        let mut tag = None;
        let Some(body) = bytes.strip_suffix(&[0]) else {
            return if bytes.is_empty() { Ok(job) } else { Err(JobError::Truncated) };
        };
        let mut fields = body.split(|b| *b == 0);
        while let Some(key) = fields.next() {
            let value = OsString::from_vec(fields.next().ok_or(JobError::Truncated)?.to_vec());
            let bad = || JobError::Record(format!("{}={}", String::from_utf8_lossy(key), value.to_string_lossy()));
            match key {
                b"arg" => job.args.push(value),
                b"env" => job.env.push(value),
                b"cwd" => job.cwd = value.into(),
                b"tag" => tag = Some(value.clone().into_string().map_err(|_| bad())?),
                b"share" => job.shares.push(Share { tag: tag.take().ok_or_else(bad)?, path: value.into() }),
                b"modules" => job.modules = Some(value.into()),
                b"terminal" => job.terminal = Some(parse_size(&value).ok_or_else(bad)?),
                b"stdin" => job.stdin = true,
                _ => return Err(bad()),
            }
        }
        Ok(job)
    }
}

fn parse_size(text: &OsStr) -> Option<(u16, u16)> {
    let (rows, cols) = text.to_str()?.split_once('x')?;
    Some((rows.parse().ok()?, cols.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Job {
        Job {
            args: vec!["sh".into(), "-c".into(), OsString::from_vec(vec![b'\xff', b'\n', b'=']), "".into()],
            env: vec!["A=b c".into(), "EMPTY=".into()],
            cwd: "/some where".into(),
            shares: vec![Share { tag: "w0".into(), path: "/a".into() }, Share { tag: "w1".into(), path: "/b".into() }],
            modules: Some("/m".into()),
            terminal: Some((24, 80)),
            stdin: true,
        }
    }

    #[test]
    fn any_job_survives_the_trip() {
        for job in [sample(), Job { cwd: "/".into(), ..Job::default() }] {
            assert_eq!(Job::decode(&job.encode()).unwrap(), job);
        }
    }

    #[test]
    fn a_cut_job_never_panics_and_a_cut_record_is_noticed() {
        let bytes = sample().encode();
        for cut in 1..bytes.len() {
            if bytes[cut - 1] != 0 {
                assert_eq!(Job::decode(&bytes[..cut]), Err(JobError::Truncated), "cut at {cut}");
            } else {
                let _ = Job::decode(&bytes[..cut]);
            }
        }
    }

    #[test]
    fn unknown_and_malformed_records_are_named() {
        assert_eq!(Job::decode(b"what\0ever\0"), Err(JobError::Record("what=ever".into())));
        assert_eq!(Job::decode(b"terminal\0big\0"), Err(JobError::Record("terminal=big".into())));
        assert_eq!(Job::decode(b"share\0/untagged\0"), Err(JobError::Record("share=/untagged".into())));
    }
}
