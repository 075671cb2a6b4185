//! The kernel modules of a guest and their dependencies, ready for the initramfs.
//!
//! Our own kernel (`--kernel source`) has no modules.

mod modinfo;
mod slim;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use super::image::ImageError;
pub(crate) use slim::insists_on_signatures;
pub(crate) use tree::ModuleTree;

/// The largest module accepted, unpacked, in bytes.
pub(crate) const MAX_MODULE: usize = 64 << 20;

/// Modules that are not available.
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

/// The modules of a guest.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Modules {
    /// All of them, each after those it needs.
    pub(crate) all: Vec<Module>,
    /// Subsets for the occasions of [`Wanted::when`], each complete and in order.
    pub(crate) demands: Vec<(&'static str, Vec<String>)>,
}

/// A module the guest is given, unless it is built into the kernel.
struct Wanted {
    name: &'static str,
    /// Occasion to load it: `always`, `virtio:N` if the guest has a virtio device of that type, `fs:NAME` before a file
    /// system of that type is mounted.
    when: &'static str,
    /// The guest cannot work without it.
    required: bool,
    why: &'static str,
}

/// All modules of a guest, with reasons. Each costs boot time, so the list is short: containers share the pod's network
/// and need no veth, bridge or nf_tables. A kernel compiled from source has more.
const WANTED: &[Wanted] = &[
    Wanted { name: "virtio_mmio", when: "always", required: true, why: "every device is on this bus" },
    Wanted {
        name: "vmw_vsock_virtio_transport",
        when: "always",
        required: true,
        why: "the agent is reached through vsock",
    },
    Wanted { name: "virtiofs", when: "virtio:26", required: true, why: "the root file system comes through it" },
    Wanted { name: "overlay", when: "fs:overlay", required: false, why: "throw-away upper layer of a read-only root" },
    Wanted { name: "virtio_blk", when: "virtio:2", required: false, why: "block devices" },
    Wanted { name: "ext4", when: "fs:ext4", required: false, why: "root file systems and volumes on block devices" },
    Wanted { name: "virtio_net", when: "virtio:1", required: false, why: "network" },
    Wanted { name: "virtio_rng", when: "virtio:4", required: false, why: "seeds the random pool without RDRAND" },
];

/// The modules that [`select`] wants; part of the key of an asset.
pub(crate) fn wanted_names() -> Vec<&'static str> {
    WANTED.iter().map(|wanted| wanted.name).collect()
}

/// Selects the wanted modules and their dependencies, each after those it needs.
pub(crate) fn select(tree: &ModuleTree) -> Result<Modules, ModuleError> {
    let mut reader = Reader { tree, read: BTreeMap::new() };
    let mut modules = Modules::default();
    let mut order: Vec<String> = Vec::new();
    for wanted in WANTED {
        if tree.is_builtin(wanted.name) {
            continue;
        }
        if !tree.contains(wanted.name) {
            if wanted.required {
                return Err(ModuleError::Missing { module: wanted.name, why: wanted.why });
            }
            continue;
        }
        let mut needed = Vec::new();
        reader.collect(wanted.name, &mut BTreeSet::new(), &mut needed)?;
        let files = needed.iter().filter_map(|name| reader.read.get(name)).map(|(module, _)| module.file.clone());
        modules.demands.push((wanted.when, files.collect()));
        order.extend(needed);
    }
    for name in order {
        modules.all.extend(reader.read.remove(&name).map(|(module, _)| module));
        // at its first place only
    }
    Ok(modules)
}

/// Reads each module once.
struct Reader<'a> {
    tree: &'a ModuleTree,
    read: BTreeMap<String, (Module, modinfo::Needs)>,
}

impl Reader<'_> {
    /// Appends `name` to `order` after its dependencies. A module that was visited is done, or (in a circle, which the
    /// kernel's build refuses) in progress further up the stack.
    fn collect(&mut self, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) -> Result<(), ModuleError> {
        if self.tree.is_builtin(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some((file, needs)) = self.needs(name)? else { return Ok(()) };
        for needed in &needs.hard {
            if !self.tree.contains(needed) && !self.tree.is_builtin(needed) {
                return Err(ModuleError::MissingDependency { module: file, needed: needed.clone() });
            }
            self.collect(needed, seen, order)?;
        }
        for needed in needs.soft.iter().filter(|needed| self.tree.contains(needed)) {
            self.collect(needed, seen, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }

    fn needs(&mut self, name: &str) -> Result<Option<(String, modinfo::Needs)>, ModuleError> {
        if !self.read.contains_key(name) {
            let Some((file, mut bytes)) = self.tree.read(name)? else { return Ok(None) };
            let needs =
                modinfo::needs(&bytes).map_err(|source| ModuleError::Modinfo { module: file.clone(), source })?;
            if self.tree.may_drop_signatures() {
                slim::drop_signature(&mut bytes);
                slim::hide_types(&mut bytes);
            }
            self.read.insert(name.to_owned(), (Module { file, bytes }, needs));
        }
        Ok(self.read.get(name).map(|(module, needs)| (module.file.clone(), needs.clone())))
    }
}

/// In module names `-` and `_` are the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests;
