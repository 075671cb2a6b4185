//! The guest's first file system: the agent as `/init`, and its modules.
//!
//! Uncompressed, since unpacking costs boot time and the VMM may map the file. Called by [`super::build`], and by
//! [`super::GuestAssets::open`] when only the agent has changed.

pub(crate) mod cpio;

use super::module::Modules;
pub use cpio::CpioError;
pub(crate) use cpio::{Archive, Node};

/// Mount points of the agent, and parents of the entries below.
const DIRECTORIES: [&str; 5] = ["dev", "modules", "proc", "run", "sys"];
/// File with the order of modules: one file name per line.
const ORDER: &str = "modules/order";
/// File with the modules of each occasion, one per line: `always`, `virtio:N` (the guest has a device of that type) or
/// `fs:NAME` (before a file system of that type is mounted), then the files to load in order. Loading by it instead of
/// by `order` saves the time for unused modules.
const DEMANDS: &str = "modules/demands";

/// Builds the archive for an agent and its modules, in the order they must be loaded.
pub(crate) fn assemble(agent: &[u8], modules: &Modules) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.insert(directory, Node::Directory(0o755))?;
    }
    // The kernel opens /dev/console for init before anything is mounted.
    archive.insert("dev/console", Node::CharDevice(0o600, 5, 1))?;
    archive.insert("dev/null", Node::CharDevice(0o666, 1, 3))?;
    let mut order = String::new();
    for module in &modules.all {
        archive.insert(&format!("modules/{}", module.file), Node::File(0o644, module.bytes.clone()))?;
        order.push_str(&module.file);
        order.push('\n');
    }
    archive.insert(ORDER, Node::File(0o644, order.into_bytes()))?;
    let demands: String = modules.demands.iter().map(|(when, files)| format!("{when} {}\n", files.join(" "))).collect();
    archive.insert(DEMANDS, Node::File(0o644, demands.into_bytes()))?;
    archive.insert("init", Node::File(0o755, agent.to_vec()))?;
    archive.write()
}

/// Returns the archive with another agent.
pub(crate) fn replace_agent(initramfs: &[u8], agent: &[u8]) -> Result<Vec<u8>, CpioError> {
    let mut archive = Archive::read(initramfs)?;
    archive.insert("init", Node::File(0o755, agent.to_vec()))?;
    archive.write()
}

#[cfg(test)]
mod tests;
