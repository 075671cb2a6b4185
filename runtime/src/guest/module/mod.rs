//! The kernel modules a guest needs, with what they need in turn, ready for the initramfs.
//!
//! Only for kernels that have modules: our own (`--kernel source`) has none.

mod modinfo;
mod tree;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::image::ImageError;
pub(crate) use tree::ModuleTree;

/// The largest module accepted, unpacked, in bytes.
pub(crate) const MAX_MODULE: usize = 64 << 20;

/// Modules that could not be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ModuleError {
    #[error("cannot read {}", path.display())]
    Scan { path: PathBuf, source: io::Error },
    #[error("cannot unpack the module {module}")]
    Unpack { module: String, source: ImageError },
    #[error("cannot read what the module {module} depends on")]
    Modinfo { module: String, source: ImageError },
    #[error("the kernel has no {module}, neither built in nor as a module; hutch needs it: {why}. Use another kernel (`hutch guest build --kernel distro`)")]
    Missing { module: &'static str, why: &'static str },
    #[error("the module {module} needs {needed}, which is not there; install the kernel's modules completely or give their directory (`--modules DIR`)")]
    MissingDependency { module: String, needed: String },
}

/// A module in the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file name, `virtio_mmio.ko`.
    pub(crate) file: String,
    /// The file, unpacked.
    pub(crate) bytes: Vec<u8>,
}

/// A module the guest is given, unless it is built into the kernel.
struct Wanted {
    name: &'static str,
    /// The guest is of no use without it.
    required: bool,
    why: &'static str,
}

/// All modules a guest gets, and why. Each costs boot time, so the list is short: containers share the pod's
/// network, hence no veth, bridge or nf_tables; what only some guests use, they can have with the kernel built
/// from source.
const WANTED: &[Wanted] = &[
    Wanted { name: "virtio_mmio", required: true, why: "every device is on this bus" },
    Wanted { name: "vmw_vsock_virtio_transport", required: true, why: "the agent is reached through vsock" },
    Wanted { name: "virtiofs", required: true, why: "the root file system comes through it" },
    Wanted { name: "overlay", required: false, why: "throw-away upper layer of a read-only root" },
    Wanted { name: "virtio_blk", required: false, why: "block devices" },
    Wanted { name: "ext4", required: false, why: "root file systems and volumes on block devices" },
    Wanted { name: "virtio_net", required: false, why: "network" },
    Wanted { name: "virtio_rng", required: false, why: "seeds the random pool on CPUs without RDRAND" },
];

/// Which modules [`select`] looks for; part of the key that tells whether an asset is up to date.
pub(crate) fn wanted_names() -> Vec<&'static str> {
    WANTED.iter().map(|wanted| wanted.name).collect()
}

/// Picks the wanted modules and all they depend on, each after those it needs.
pub(crate) fn select(tree: &ModuleTree) -> Result<Vec<Module>, ModuleError> {
    let mut selection = Selection { tree, seen: BTreeSet::new(), modules: Vec::new() };
    for wanted in WANTED {
        if tree.is_builtin(wanted.name) {
            continue;
        }
        if tree.contains(wanted.name) {
            selection.add(wanted.name)?;
        } else if wanted.required {
            return Err(ModuleError::Missing { module: wanted.name, why: wanted.why });
        }
    }
    Ok(selection.modules)
}

struct Selection<'a> {
    tree: &'a ModuleTree,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Selection<'_> {
    /// Adds `name` after what it needs. A module seen already is done, or (in a circle, which the kernel's build
    /// refuses) being done further up.
    fn add(&mut self, name: &str) -> Result<(), ModuleError> {
        if self.tree.is_builtin(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some((file, bytes)) = self.tree.read(name)? else { return Ok(()) };
        let needs = modinfo::needs(&bytes).map_err(|source| ModuleError::Modinfo { module: file.clone(), source })?;
        for needed in &needs.hard {
            if !self.tree.contains(needed) && !self.tree.is_builtin(needed) {
                return Err(ModuleError::MissingDependency { module: file, needed: needed.clone() });
            }
            self.add(needed)?;
        }
        for needed in needs.soft.iter().filter(|needed| self.tree.contains(needed)) {
            self.add(needed)?;
        }
        self.modules.push(Module { file, bytes });
        Ok(())
    }
}

/// Module names are the same with `-` and `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests;
