//! Dependencies of a kernel module from its own metadata (`modinfo`).
//!
//! Read from the modules, not from `modules.dep`: packages lack that file, depmod makes it at installation.

use super::super::image::{modinfo, ImageError};

/// The modules to load before a module.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// `depends=`: required.
    pub(super) hard: Vec<String>,
    /// `softdep=pre:`: recommended; names or aliases.
    pub(super) soft: Vec<String>,
}

pub(super) fn needs(module: &[u8]) -> Result<Needs, ImageError> {
    Ok(parse(modinfo(module)?))
}

fn parse(section: &[u8]) -> Needs {
    let mut needs = Needs::default();
    for entry in section.split(|&b| b == 0).filter_map(|entry| std::str::from_utf8(entry).ok()) {
        if let Some(list) = entry.strip_prefix("depends=") {
            needs.hard.extend(list.split(',').filter(|name| !name.is_empty()).map(super::canonical));
        } else if let Some(list) = entry.strip_prefix("softdep=") {
            let mut before = false;
            for word in list.split_whitespace() {
                match word {
                    "pre:" => before = true,
                    "post:" => before = false,
                    name if before => needs.soft.push(super::canonical(name)),
                    _ => {}
                }
            }
        }
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_and_pre_softdeps_are_found() {
        let section = b"license=GPL\0depends=vsock,vmw-vsock_common\0softdep=pre: crc32c a post: b\0depends=\0";
        let needs = parse(section);
        assert_eq!(needs.hard, ["vsock", "vmw_vsock_common"]);
        assert_eq!(needs.soft, ["crc32c", "a"]);
    }

    #[test]
    fn garbage_needs_nothing() {
        assert_eq!(parse(b"\xff\xfe\0\0=\0depend"), Needs::default());
    }
}
