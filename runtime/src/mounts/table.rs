//! The mount table of the calling thread: `/proc/thread-self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Number of the mount.
    pub(crate) id: u64,
    /// The mount point, with links resolved.
    pub(crate) point: PathBuf,
    /// This mount is read-only, whatever its file system is.
    pub(crate) read_only: bool,
    /// Type of the file system.
    pub(crate) kind: String,
    /// The upper layer of an overlay that has one, as the mounter named it.
    pub(crate) upper: Option<PathBuf>,
}

/// Reads all mounts, in the order in which they were made.
pub(crate) fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/thread-self/mountinfo")?))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    // Optional fields end with a lone dash; a line without one is malformed and skipped. No field before them is one.
    let end = fields.iter().position(|field| *field == b"-")?;
    let (kind, options) = (text(fields.get(end + 1)?), fields.get(end + 3).copied().unwrap_or_default());
    Some(Mount {
        id: text(fields.first()?).parse().ok()?,
        point: unescape(fields.get(4)?),
        read_only: fields.get(5)?.split(|byte| *byte == b',').any(|option| option == b"ro"),
        upper: (kind == "overlay").then(|| option(options, b"upperdir=")).flatten().map(unescape),
        kind,
    })
}

/// The value of an option, up to the next comma.
fn option<'a>(options: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(name))
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn lines_with_optional_fields_and_odd_names_are_read() {
        let text = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
                     40 35 0:5 / /a\\040b\\134c ro,nodev shared:2 master:3 - tmpfs tmpfs rw\n\
                     41 35 0:6 / /o rw - overlay none rw,lowerdir=/l,upperdir=/u\\040p,workdir=/w\n\
                     nonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[0].id, mounts[0].read_only, mounts[1].read_only), (36, false, true));
        assert_eq!((mounts[0].kind.as_str(), mounts[0].upper.as_deref()), ("ext3", None));
        assert_eq!((mounts[2].kind.as_str(), mounts[2].upper.as_deref()), ("overlay", Some(Path::new("/u p"))));
        assert_eq!((&*mounts[0].point, &*mounts[1].point), (Path::new("/mnt2"), Path::new("/a b\\c")));
        assert_eq!(unescape(b"a\\04"), Path::new("a\\04"), "no escape");
    }

    #[test]
    fn the_live_table_has_a_root() {
        let mounts = read().unwrap();
        assert!(mounts.iter().any(|mount| mount.point == Path::new("/proc")));
    }
}
