//! The assets of a guest directory: loading one, listing all, and replacing the agent of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::agent::Agent;
use super::digest::Digest;
use super::initramfs;
use super::store::manifest::{FileRecord, KernelOrigin, Manifest, INITRAMFS, VMLINUX};
use super::store::{AssetKind, Contents, Store, StoreError};
use super::GuestError;

/// The default guest directory.
pub const DEFAULT_DIR: &str = "/var/lib/hutch/guest";
/// Environment variable with the path of the guest directory.
pub const DIR_VARIABLE: &str = "HUTCH_GUEST_DIR";

/// The guest directory: `given`, else `HUTCH_GUEST_DIR`, else [`DEFAULT_DIR`].
pub fn guest_dir(given: Option<&Path>) -> PathBuf {
    let variable = || std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_DIR))
}

/// Kernel of a guest (`--kernel`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The distribution's cloud kernel.
    #[default]
    Distro,
    /// The kernel this host runs.
    Host,
    /// Our own kernel, compiled from the distribution's source.
    Source,
    /// A kernel file, ELF or bzImage.
    Path(PathBuf),
}

impl FromStr for KernelChoice {
    type Err = std::convert::Infallible;

    /// `distro`, `host` and `source` are words (`./source` is a file); anything else is a path.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Ok(match word {
            "distro" => KernelChoice::Distro,
            "host" => KernelChoice::Host,
            "source" => KernelChoice::Source,
            path => KernelChoice::Path(PathBuf::from(path)),
        })
    }
}

/// An asset that can be booted. Its files do not change, even if the asset is built again.
#[derive(Debug, Clone)]
pub struct GuestAssets {
    /// The ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The initramfs, uncompressed, with the agent as `/init`.
    pub initrd: PathBuf,
    /// The kind of asset.
    pub kind: AssetKind,
    /// Contents and origin of the asset.
    pub manifest: Manifest,
}

/// One line of `hutch guest ls`.
#[derive(Debug)]
pub struct ListedAsset {
    /// The kind of asset.
    pub kind: AssetKind,
    /// Contents and origin, or the reason for which the asset cannot be used.
    pub manifest: Result<Manifest, GuestError>,
}

impl GuestAssets {
    /// Whether the kernel supports hot-plugged memory: only if hutch compiled it from its own configuration, which
    /// requests the options for that. The build checks that they were set.
    pub fn can_grow(&self) -> bool {
        matches!(self.manifest.kernel.origin, KernelOrigin::Source { .. })
    }

    /// Lists all assets in `dir`, broken ones too. A directory that does not exist has none.
    pub fn list(dir: &Path) -> Result<Vec<ListedAsset>, GuestError> {
        let store = Store::at(dir);
        let listed = |kind| ListedAsset { manifest: load(&store, &kind).map(|assets| assets.manifest), kind };
        Ok(store.kinds()?.into_iter().map(listed).collect())
    }
}

/// Reads the manifest of `kind` and checks the sizes of the files.
pub(crate) fn load(store: &Store, kind: &AssetKind) -> Result<GuestAssets, GuestError> {
    let not_built = || GuestError::NotBuilt { kind: kind.clone(), dir: store.dir().to_owned() };
    let dir = store.current(kind)?.ok_or_else(not_built)?;
    let manifest = Manifest::load(&dir, kind)?;
    for name in [VMLINUX, INITRAMFS] {
        let path = dir.join(name);
        let damaged = |what: String| GuestError::Damaged { path: path.clone(), what };
        let record = manifest.files.get(name).ok_or_else(|| damaged("not in the manifest".to_owned()))?;
        let size = fs::metadata(&path).map_err(|error| damaged(format!("unreadable ({error})")))?.len();
        if size != record.size {
            return Err(damaged(format!("{size} bytes long instead of {}", record.size)));
        }
    }
    Ok(GuestAssets { kernel: dir.join(VMLINUX), initrd: dir.join(INITRAMFS), kind: kind.clone(), manifest })
}

/// Puts `agent` into the asset `kind` and records the present paths of agent and kernel file (`origin`, if it moved).
/// Changes the generation that is newest under the lock.
pub(crate) fn refresh(
    store: &Store,
    kind: &AssetKind,
    agent: &Agent,
    origin: Option<KernelOrigin>,
) -> Result<(), GuestError> {
    let lock = store.lock_install(kind)?;
    let old = load(store, kind)?;
    let mut manifest = old.manifest.clone();
    manifest.agent = agent.record.clone();
    manifest.kernel.origin = origin.unwrap_or(manifest.kernel.origin);
    if manifest == old.manifest {
        return Ok(()); // another process was faster
    }
    if manifest.agent.sha256 == old.manifest.agent.sha256 {
        return Ok(lock.amend(&manifest.to_json())?);
    }
    let initramfs = renewed_initramfs(&old.initrd, &manifest, agent)?;
    manifest.files.insert(INITRAMFS.to_owned(), FileRecord::of(&initramfs));
    lock.install(Contents::Link(&old.kernel), Contents::Bytes(&initramfs), &manifest.to_json())?;
    Ok(())
}

fn renewed_initramfs(path: &Path, manifest: &Manifest, agent: &Agent) -> Result<Vec<u8>, GuestError> {
    let read = |source| StoreError::Read { path: path.to_owned(), source };
    let bytes = fs::read(path).map_err(read)?;
    // Its modules are reused, so it must be the file that was built.
    if manifest.files.get(INITRAMFS).is_none_or(|record| record.sha256 != Digest::of(&bytes)) {
        return Err(GuestError::Damaged { path: path.to_owned(), what: "changed since it was built".to_owned() });
    }
    Ok(initramfs::replace_agent(&bytes, &agent.bytes)?)
}
