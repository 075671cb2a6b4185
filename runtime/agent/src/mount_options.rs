//! Parses mount options. Pure functions.

use crate::failure::{invalid, Outcome};

/// `MOUNT_ATTR_…` of mount_setattr(2).
pub mod attribute {
    /// Read-only mount.
    pub const RDONLY: u64 = 0x1;
    /// Ignore set-user-id and set-group-id bits.
    pub const NOSUID: u64 = 0x2;
    /// Refuse access to device nodes.
    pub const NODEV: u64 = 0x4;
    /// Refuse to execute programs.
    pub const NOEXEC: u64 = 0x8;
    /// Mask of the access time policy.
    pub const ATIME: u64 = 0x70;
    /// Never update access times.
    pub const NOATIME: u64 = 0x10;
    /// Always update access times.
    pub const STRICTATIME: u64 = 0x20;
    /// Do not update access times of directories.
    pub const NODIRATIME: u64 = 0x80;
}
use attribute::*;

/// Longest single option in bytes.
const MAX_OPTION: usize = 64 << 10;
/// Longest value that `fsconfig` accepts, in bytes without the NUL.
const MAX_VALUE: usize = 255;

/// Mount options, sorted by their addressee: the mount, its propagation, the file system.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Attributes of the mount to set.
    pub set: u64,
    /// Attributes to clear; a bind mount inherits some.
    pub clear: u64,
    /// Make the file system itself read-only, not just this mount of it.
    pub read_only: bool,
    /// Bind mount with everything below.
    pub recursive: bool,
    /// `MS_PRIVATE`, `MS_SHARED`, …; 0 leaves the propagation alone.
    pub propagation: u64,
    /// Apply the propagation to everything below, too.
    pub propagation_recursive: bool,
    /// Options of the file system: key, and value unless it is a flag.
    pub data: Vec<(String, Option<String>)>,
}

/// Sorts options by addressee. An unknown option belongs to the file system.
///
/// # Errors
/// `Invalid` for an option that is empty, too long or contains a NUL byte.
pub fn parse(options: &[String]) -> Outcome<MountOptions> {
    let mut parsed = MountOptions::default();
    for option in options {
        if option.is_empty() || option.len() > MAX_OPTION || option.contains('\0') {
            return Err(invalid(format!(
                "mount option of {} bytes: empty, too long, or with a NUL byte",
                option.len()
            )));
        }
        if !parsed.take_attribute(option) && !parsed.take_propagation(option) {
            parsed.take_other(option)?;
        }
    }
    Ok(parsed)
}

impl MountOptions {
    fn take_attribute(&mut self, option: &str) -> bool {
        let (set, clear) = match option {
            "ro" => (RDONLY, 0),
            "rw" => (0, RDONLY),
            "nosuid" => (NOSUID, 0),
            "suid" => (0, NOSUID),
            "nodev" => (NODEV, 0),
            "dev" => (0, NODEV),
            "noexec" => (NOEXEC, 0),
            "exec" => (0, NOEXEC),
            "noatime" => (NOATIME, ATIME),
            "strictatime" => (STRICTATIME, ATIME),
            "relatime" | "atime" => (0, ATIME),
            "nodiratime" => (NODIRATIME, 0),
            "diratime" => (0, NODIRATIME),
            "defaults" => (0, 0),
            _ => return false,
        };
        // The last one wins.
        self.set = (self.set & !clear) | set;
        self.clear = (self.clear & !set) | clear;
        self.read_only = self.set & RDONLY != 0;
        true
    }

    fn take_propagation(&mut self, option: &str) -> bool {
        let (flag, recursive) = match option {
            "private" => (libc::MS_PRIVATE, false),
            "rprivate" => (libc::MS_PRIVATE, true),
            "slave" => (libc::MS_SLAVE, false),
            "rslave" => (libc::MS_SLAVE, true),
            "shared" => (libc::MS_SHARED, false),
            "rshared" => (libc::MS_SHARED, true),
            "unbindable" => (libc::MS_UNBINDABLE, false),
            "runbindable" => (libc::MS_UNBINDABLE, true),
            _ => return false,
        };
        self.propagation = flag;
        self.propagation_recursive = recursive;
        true
    }

    fn take_other(&mut self, option: &str) -> Outcome<()> {
        match option.split_once('=') {
            _ if option == "bind" => {}
            _ if option == "rbind" => self.recursive = true,
            // A long list of layers goes one layer at a time (Linux 6.5): the kernel accepts no value over 255 bytes.
            Some(("lowerdir", value)) if value.len() > MAX_VALUE => {
                self.data.extend(layers(value).map(|layer| ("lowerdir+".to_string(), Some(layer))));
            }
            Some((key, value)) => self.data.push((key.to_string(), Some(value.to_string()))),
            None => self.data.push((option.to_string(), None)),
        }
        match self.data.iter().find(|(_, value)| value.as_ref().is_some_and(|value| value.len() > MAX_VALUE)) {
            Some((key, _)) => Err(invalid(format!("mount option {key}: the value is over {MAX_VALUE} bytes"))),
            None => Ok(()),
        }
    }

    /// Value of the file system's option `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.data.iter().rev().find(|(name, _)| name == key).and_then(|(_, value)| value.as_deref())
    }
}

/// The layers of an overlay's `lowerdir`, separated by colons; a backslash escapes the next byte.
fn layers(value: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = value.chars().peekable();
    std::iter::from_fn(move || {
        rest.peek()?;
        let mut layer = String::new();
        while let Some(c) = rest.next() {
            match c {
                ':' => break,
                '\\' => layer.extend(rest.next()),
                c => layer.push(c),
            }
        }
        Some(layer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(options: &[&str]) -> MountOptions {
        parse(&options.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn attributes_go_to_the_mount_and_the_rest_to_the_file_system() {
        let options = parsed(&["ro", "nosuid", "noatime", "size=64m", "mode=1777", "huge"]);
        assert_eq!(options.set, RDONLY | NOSUID | NOATIME);
        assert_eq!(options.clear, ATIME);
        assert!(options.read_only);
        assert_eq!(options.value("size"), Some("64m"));
        assert_eq!(options.data[2], ("huge".into(), None));
    }

    #[test]
    fn the_last_option_counts() {
        let options = parsed(&["ro", "noexec", "noatime", "rw", "exec", "strictatime"]);
        assert_eq!((options.set, options.read_only), (STRICTATIME, false));
        assert_eq!(options.clear, RDONLY | NOEXEC | ATIME);
    }

    #[test]
    fn bind_and_propagation_are_understood() {
        let options = parsed(&["rbind", "rslave"]);
        assert!(options.recursive && options.propagation_recursive);
        assert_eq!(options.propagation, libc::MS_SLAVE);
        assert!(options.data.is_empty() && !parsed(&["bind"]).recursive);
    }

    #[test]
    fn long_layer_lists_are_taken_apart() {
        let long = "x".repeat(200);
        let options = parsed(&[&format!("lowerdir=/{long}:/a\\:b:/c")]);
        let layers: Vec<_> = options.data.iter().map(|(k, v)| (k.as_str(), v.as_deref().unwrap())).collect();
        assert_eq!(layers, [("lowerdir", format!("/{long}:/a\\:b:/c").as_str())], "short enough for one");
        let options = parsed(&[&format!("lowerdir=/{long}:/{long}:/a\\:b")]);
        assert_eq!(options.data.len(), 3);
        assert_eq!(options.data[2], ("lowerdir+".into(), Some("/a:b".into())));
    }

    #[test]
    fn impossible_options_are_refused() {
        for bad in ["", "a\0b", &format!("upperdir={}", "x".repeat(256)), &"x".repeat(MAX_OPTION + 1)] {
            assert!(parse(&[bad.to_string()]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_options_are_survived(options in proptest::collection::vec(".{0,30}", 0..8)) {
            let _ = parse(&options);
        }

        #[test]
        fn set_and_clear_never_contradict(picks in proptest::collection::vec(0usize..13, 0..20)) {
            let names = ["ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "relatime",
                         "strictatime", "nodiratime", "diratime"];
            let options = parsed(&picks.iter().map(|&i| names[i]).collect::<Vec<_>>());
            // The policy field is a value, not a bit: it is cleared and set at once.
            prop_assert_eq!(options.set & options.clear & !ATIME, 0);
        }
    }
}
