//! Kernels in files of this host: the running kernel, or a file of the user.

use std::fs;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::image;
use super::module::{self, ModuleTree, Modules};
use super::new_kernel::{NewKernel, Vmlinux};
use super::store::manifest::{KernelOrigin, Stamp};
use super::store::AssetKind;
use super::GuestError;

/// Incremented when the same file gives another asset: part of the key.
const METHOD: u32 = 2;

/// A kernel file in memory.
#[derive(Debug)]
pub(crate) struct LocalKernel {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: Digest,
    stamp: Stamp,
    /// Directory of its modules, given or found.
    modules: Option<PathBuf>,
}

impl LocalKernel {
    /// Reads the kernel at `path`, with the modules in `modules`.
    pub(crate) fn read(path: &Path, modules: Option<&Path>) -> Result<LocalKernel, GuestError> {
        let failed = |source| GuestError::ReadKernel { path: path.to_owned(), source };
        let path = fs::canonicalize(path).map_err(failed)?;
        let stamp = Stamp::of(&path).map_err(failed)?;
        if stamp.size > image::MAX_VMLINUX as u64 {
            let source = image::ImageError::TooLarge { limit: image::MAX_VMLINUX };
            return Err(GuestError::BadKernel { path, source });
        }
        let bytes = fs::read(&path).map_err(failed)?;
        let sha256 = Digest::of(&bytes);
        Ok(LocalKernel { path, bytes, sha256, stamp, modules: modules.map(Path::to_owned) })
    }

    /// The kernel that this host runs, from its /boot.
    pub(crate) fn of_host(modules: Option<&Path>) -> Result<LocalKernel, GuestError> {
        let release =
            nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default();
        let path = PathBuf::from(format!("/boot/vmlinuz-{release}"));
        if !path.exists() {
            return Err(GuestError::NoHostKernel { path });
        }
        let own = PathBuf::from(format!("/lib/modules/{release}"));
        LocalKernel::read(&path, Some(modules.unwrap_or(&own)))
    }

    /// Kind of the asset for a kernel file of the user.
    pub(crate) fn custom_kind(&self) -> AssetKind {
        AssetKind::Custom(self.sha256.short())
    }

    pub(crate) fn key(&self) -> String {
        let modules = self.modules.as_deref().unwrap_or(Path::new("")).display();
        format!("{METHOD} {} {modules} {}", self.sha256, module::wanted_names().join(","))
    }

    /// The present origin of a kernel with the same contents, if path or identity of the file have changed.
    pub(crate) fn moved_from(&self, then: &KernelOrigin) -> Option<KernelOrigin> {
        let KernelOrigin::File { path, stamp, modules, .. } = then else { return None };
        let moved = *path != self.path || *stamp != self.stamp;
        moved.then(|| KernelOrigin::File {
            path: self.path.clone(),
            sha256: self.sha256,
            stamp: self.stamp,
            modules: modules.clone(),
        })
    }

    /// Extracts kernel and modules. A kernel without a given or installed module directory is assumed to have
    /// everything built in.
    pub(crate) fn build(self) -> Result<NewKernel, GuestError> {
        let key = self.key();
        let kernel =
            image::open(&self.bytes).map_err(|source| GuestError::BadKernel { path: self.path.clone(), source })?;
        let installed = || {
            let dir = PathBuf::from(format!("/lib/modules/{}", kernel.release.as_ref()?));
            dir.is_dir().then_some(dir)
        };
        let dir = self.modules.or_else(installed);
        let modules = match &dir {
            Some(dir) => select_from(dir, &self.path, kernel.release.as_deref())?,
            None => Modules::default(),
        };
        let origin = KernelOrigin::File { path: self.path, sha256: self.sha256, stamp: self.stamp, modules: dir };
        let form = kernel.form.to_string();
        Ok(NewKernel { vmlinux: Vmlinux::Bytes(kernel.elf), release: kernel.release, form, key, origin, modules })
    }
}

fn select_from(dir: &Path, kernel: &Path, release: Option<&str>) -> Result<Modules, GuestError> {
    let mut tree = ModuleTree::scan(dir)?;
    if tree.is_empty() {
        return Ok(Modules::default());
    }
    // Debian has it beside the kernel, Fedora among the modules.
    let beside = kernel.with_file_name(format!("config-{}", release.unwrap_or_default()));
    if let Some(config) = [beside, dir.join("config")].iter().find_map(|path| fs::read_to_string(path).ok()) {
        tree.add_config(&config);
    }
    Ok(module::select(&tree)?)
}
