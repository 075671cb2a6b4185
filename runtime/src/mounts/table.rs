//! The mount table of this process: `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// `major:minor` of the file system's device.
    pub(super) device: String,
    /// Directory of the file system that is mounted.
    pub(super) root: PathBuf,
    /// Where.
    pub(super) point: PathBuf,
    /// Kind of file system.
    pub(super) fstype: String,
}

/// All mounts, in the order in which they were made.
pub(super) fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Optional fields end with a lone dash; the kind of file system follows.
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |index: usize| String::from_utf8(fields.get(index)?.to_vec()).ok();
    Some(Mount {
        device: text(2)?,
        root: unescape(fields.get(3)?),
        point: unescape(fields.get(4)?),
        fstype: text(dash + 1)?,
    })
}

/// Blanks, tabs, newlines and backslashes are written as `\ooo`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0u32, |value, digit| {
                (b'0'..=b'7').contains(digit).then(|| value * 8 + u32::from(digit - b'0'))
            })
        };
        match tail.get(..3).filter(|_| byte == b'\\').and_then(octal).and_then(|value| u8::try_from(value).ok()) {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The mount that `path` (without links) is in.
pub(super) fn containing<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    // Of several on one point the last covers the others.
    mounts.iter().rev().filter(|mount| path.starts_with(&mount.point)).max_by_key(|mount| mount.point.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_optional_fields_and_odd_names_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                     40 35 0:5 / /a\\040b\\134c rw shared:2 master:3 - tmpfs tmpfs rw\n\
                     nonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].root.as_path(), mounts[0].fstype.as_str()), (Path::new("/mnt1"), "ext3"));
        assert_eq!(mounts[1].point, Path::new("/a b\\c"));
        assert_eq!(containing(&mounts, Path::new("/mnt2/x/y")).unwrap().device, "98:0");
        assert!(containing(&mounts, Path::new("/mnt20")).is_none());
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"), "no escape");
    }

    #[test]
    fn the_live_table_has_a_root() {
        let mounts = read().unwrap();
        assert!(containing(&mounts, Path::new("/proc/self")).is_some_and(|mount| mount.fstype == "proc"));
    }
}
