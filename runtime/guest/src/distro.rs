//! The distribution's kernel: Debian's cloud flavour, downloaded and read, not installed.

use std::io::{self, Read};

use super::apt::{version_key, Apt, Package};
use super::artifacts;
use super::image;
use super::module::{self, ModuleTree};
use super::new_kernel::{NewKernel, Vmlinux};
use super::progress::{phase, Progress};
use super::store::manifest::KernelOrigin;
use super::GuestError;

/// The preferred kernels, newest first; Debian 12's security suite and Debian 13 have them.
const FAVOURITE: &str = r"^linux-image-6\.12\.[0-9]+(\+deb[0-9]+)?-cloud-amd64$";
/// The package that depends on the archive's current cloud kernel, whatever its version.
const META: &str = "linux-image-cloud-amd64";
/// Incremented when the same package gives another asset: part of the key.
const METHOD: u32 = 2;
/// Upper bound of a file in a kernel package, in bytes.
const MAX_FILE: u64 = 256 << 20;
/// Upper bound of all modules together, compressed.
const MAX_TOTAL: u64 = 1 << 30;

/// The package that apt offers now. Updates the package lists if they have no kernel.
pub(crate) fn choose(apt: &Apt, progress: &mut dyn Progress) -> Result<Package, GuestError> {
    if let Some(package) = known(apt)? {
        return Ok(package);
    }
    apt.update(progress)?;
    known(apt)?.ok_or(GuestError::NoDistroKernel)
}

/// The package that apt offers now, from the present lists.
pub(crate) fn known(apt: &Apt) -> Result<Option<Package>, GuestError> {
    let mut names = apt.search(FAVOURITE)?;
    names.sort_by_key(|name| version_key(name));
    if let Some(name) = names.last()
        && let Some(package) = apt.candidate(name)?
    {
        return Ok(Some(package));
    }
    if apt.candidate(META)?.is_none() {
        return Ok(None);
    }
    let concrete = apt.dependencies(META)?.into_iter().find(|name| name.starts_with("linux-image-"));
    concrete.map_or(Ok(None), |name| Ok(apt.candidate(&name)?))
}

pub(crate) fn key(package: &Package) -> String {
    format!("{METHOD} {} {} {}", package.name, package.version, module::wanted_names().join(","))
}

/// Downloads `package` and extracts kernel and modules.
pub(crate) fn build(apt: &Apt, package: &Package, progress: &mut dyn Progress) -> Result<NewKernel, GuestError> {
    let dir = tempfile::tempdir().map_err(|source| GuestError::TemporaryDir { source })?;
    let name = format!("download {} {}", package.name, package.version);
    let deb = phase(progress, &name, |_| apt.download(package, dir.path()))?;
    artifacts::check_package(&package.name, &package.version, deb.sha256)?;
    let files = phase(progress, "read the package", |_| {
        let mut files = PackageFiles::default();
        apt.read_files(&deb.path, |path, size, contents| files.take(path, size, contents))?;
        Ok::<_, GuestError>(files)
    })?;
    let image = files.image.ok_or_else(|| GuestError::NoKernelInPackage { package: package.name.clone() })?;
    let kernel = phase(progress, "extract the kernel", |_| image::open(&image))
        .map_err(|source| GuestError::BadKernel { path: deb.path.clone(), source })?;
    let modules = phase(progress, "select the modules", |_| module::select(&files.modules))?;
    Ok(NewKernel {
        vmlinux: Vmlinux::Bytes(kernel.elf),
        release: kernel.release,
        form: kernel.form.to_string(),
        key: key(package),
        origin: KernelOrigin::Package {
            package: package.name.clone(),
            version: package.version.clone(),
            sha256: deb.sha256,
        },
        modules,
    })
}

/// The needed files of a kernel package, in memory.
#[derive(Default)]
struct PackageFiles {
    image: Option<Vec<u8>>,
    modules: ModuleTree,
    total: u64,
}

impl PackageFiles {
    fn take(&mut self, path: &str, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let path = path.trim_start_matches("./");
        let Some((dir, file)) = path.rsplit_once('/') else { return Ok(()) };
        let is_image = dir == "boot" && file.starts_with("vmlinuz-");
        let is_config = dir == "boot" && file.starts_with("config-");
        let in_modules = dir.strip_prefix("usr/").unwrap_or(dir).starts_with("lib/modules/");
        let is_list = file == "modules.builtin";
        if !is_image && !is_config && !(in_modules && (is_list || file.contains(".ko"))) {
            return Ok(());
        }
        self.total = self.total.saturating_add(size);
        if size > MAX_FILE || self.total > MAX_TOTAL {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} is larger than any kernel's")));
        }
        let mut bytes = Vec::new();
        contents.read_to_end(&mut bytes)?;
        if is_image {
            self.image = Some(bytes);
        } else if is_config {
            self.modules.add_config(&String::from_utf8_lossy(&bytes));
        } else if is_list {
            self.modules.add_builtin(&String::from_utf8_lossy(&bytes));
        } else {
            self.modules.add_bytes(file, bytes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
