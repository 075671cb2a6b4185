//! Kernels for the testbed, as a cache directory has them. The program `testbed-kernel` puts them there.
//!
//! * `distro`: Debian's cloud kernel package, ready in seconds. One CPU: with two, the kernel's run-time text patching
//!   races with QEMU's multi-threaded translation, and the emulated host dies now and then.
//! * `own`: built from Debian's kernel source with `resources/kernel/testbed.config`, everything built in, no run-time
//!   text patching: two CPUs and a faster start, for minutes of building.

use std::fs;
use std::path::{Path, PathBuf};

/// A kernel ready to boot the testbed.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `distro`, `own` or `given`.
    pub name: &'static str,
    /// The uncompressed ELF image.
    pub vmlinux: PathBuf,
    /// The directory `lib/modules/RELEASE`; `None` if everything is built in.
    pub modules: Option<PathBuf>,
    /// CPUs it is known to survive.
    pub max_cpus: u32,
}

/// What a distribution's kernel package and its directory in the cache are called, before the release.
pub const DISTRO_PREFIX: &str = "linux-image-";

/// The request `own` was built from, in its directory; written last.
pub const OWN_REQUEST: &str = "request.config";

/// The newest of the distribution's kernels in the cache.
pub fn distro() -> Option<Kernel> {
    let cache = cache_dir();
    let entries = fs::read_dir(&cache).ok()?;
    let names: Vec<String> = entries.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned())).collect();
    let name = newest(names.iter().map(String::as_str).filter(|n| n.starts_with(DISTRO_PREFIX)))?;
    let dir = cache.join(name);
    Some(Kernel {
        name: "distro",
        vmlinux: dir.join("vmlinux"),
        modules: Some(dir.join("lib/modules").join(name.trim_start_matches(DISTRO_PREFIX))),
        max_cpus: 1,
    })
}

/// Our own kernel, if the one in the cache was built from this request.
pub fn own(request: &[u8]) -> Option<Kernel> {
    let dir = own_dir();
    let built_from = fs::read(dir.join(OWN_REQUEST)).ok()?;
    (built_from == request).then(|| Kernel { name: "own", ..given(&dir.join("vmlinux")) })
}

/// A kernel image somebody else built, with everything built in and no run-time text patching.
pub fn given(vmlinux: &Path) -> Kernel {
    Kernel { name: "given", vmlinux: vmlinux.to_owned(), modules: None, max_cpus: 2 }
}

/// The testbed's kernels.
pub fn cache_dir() -> PathBuf {
    crate::cache_dir().join("testbed")
}

/// Where our own kernel is kept.
pub fn own_dir() -> PathBuf {
    cache_dir().join("own")
}

/// The name whose numbers are the greatest, compared as numbers.
pub fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.max_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        numbers.map(|n| n.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.12+bpo-cloud-amd64",
        ];
        assert_eq!(newest(names.into_iter()), Some(names[1]));
        assert_eq!(newest([].into_iter()), None);
    }
}
