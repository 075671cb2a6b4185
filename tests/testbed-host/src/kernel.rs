//! Kernels for the testbed, in a cache directory that the program `testbed-kernel` fills.
//!
//! * `distro`: Debian's cloud kernel package, ready in seconds. One CPU: with two, the kernel's run-time text patching
//!   races with QEMU's multi-threaded translation, and the emulated host sometimes crashes.
//! * `own`: built from Debian's kernel source with `resources/kernel/testbed.config`, everything built in, no run-time
//!   text patching. It has two CPUs and starts faster, but takes minutes to build.

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
    /// Largest number of CPUs on which it is stable.
    pub max_cpus: u32,
}

/// Prefix of the distribution's kernel packages, and of their directories in the cache. The release follows.
pub const DISTRO_PREFIX: &str = "linux-image-";

/// File with the configuration that `own` was built from. testbed-kernel writes it last.
pub const OWN_REQUEST: &str = "request.config";

/// The distribution's newest kernel in the cache.
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

/// Our own kernel, if the cached one was built from this configuration.
pub fn own(request: &[u8]) -> Option<Kernel> {
    let dir = own_dir();
    let built_from = fs::read(dir.join(OWN_REQUEST)).ok()?;
    (built_from == request).then(|| Kernel { name: "own", ..given(&dir.join("vmlinux")) })
}

/// A kernel image from elsewhere, with everything built in and no run-time text patching.
pub fn given(vmlinux: &Path) -> Kernel {
    Kernel { name: "given", vmlinux: vmlinux.to_owned(), modules: None, max_cpus: 2 }
}

/// Cache directory of the testbed's kernels.
pub fn cache_dir() -> PathBuf {
    crate::cache_dir().join("testbed")
}

/// Cache directory of our own kernel.
pub fn own_dir() -> PathBuf {
    cache_dir().join("own")
}

/// The name with the greatest version. Compares the numbers in the names one after another.
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
