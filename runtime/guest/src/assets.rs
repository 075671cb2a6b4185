//! Opening an asset: on the way to every boot, so it reads one small file and asks for the sizes of three others.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::agent::{Agent, AgentPath};
use super::apt::Apt;
use super::build::{build_with, BuildRequest};
use super::digest::Digest;
use super::initramfs;
use super::progress::Event;
use super::store::manifest::{FileRecord, KernelOrigin, Manifest, Stamp, INITRAMFS, VMLINUX};
use super::store::{AssetKind, Contents, Store, StoreError};
use super::GuestError;

/// The guest directory where nothing else was said.
pub const DEFAULT_DIR: &str = "/var/lib/hutch/guest";
/// The environment variable that names another one.
pub const DIR_VARIABLE: &str = "HUTCH_GUEST_DIR";

/// The guest directory: `given`, else `HUTCH_GUEST_DIR`, else [`DEFAULT_DIR`].
pub fn guest_dir(given: Option<&Path>) -> PathBuf {
    let variable = || std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from);
    given.map(Path::to_owned).or_else(variable).unwrap_or_else(|| PathBuf::from(DEFAULT_DIR))
}

/// Which kernel a guest boots (`--kernel`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum KernelChoice {
    /// The distribution's cloud kernel.
    #[default]
    Distro,
    /// The kernel this host runs.
    Host,
    /// Our own, compiled from the distribution's source.
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

/// An asset that can be booted. Its files stay as they are even if the asset is built again meanwhile.
#[derive(Debug, Clone)]
pub struct GuestAssets {
    /// The ELF `vmlinux`.
    pub kernel: PathBuf,
    /// The initramfs, uncompressed, with the agent as `/init`.
    pub initrd: PathBuf,
    /// Which asset this is.
    pub kind: AssetKind,
    /// What it is made of.
    pub manifest: Manifest,
}

/// One line of `hutch guest ls`.
#[derive(Debug)]
pub struct ListedAsset {
    /// Which asset.
    pub kind: AssetKind,
    /// What it is made of, or why it cannot be used.
    pub manifest: Result<Manifest, GuestError>,
}

impl GuestAssets {
    /// Opens the asset for `kernel` in `dir`, with the agent that `HUTCH_AGENT` names or that lies beside this
    /// executable: if that is not the one in the initramfs, the initramfs is made anew first (milliseconds).
    /// A kernel given by path becomes an asset at its first use.
    ///
    /// # Errors
    /// [`GuestError::NotBuilt`] and others, each with its remedy.
    pub fn open(dir: &Path, kernel: KernelChoice) -> Result<GuestAssets, GuestError> {
        GuestAssets::open_with_agent(dir, kernel, None)
    }

    /// Whether memory can be plugged into a guest with this kernel: only if hutch has built it from its own
    /// configuration, which asks for what that takes and of which the build checks that it was followed.
    pub fn can_grow(&self) -> bool {
        matches!(self.manifest.kernel.origin, KernelOrigin::Source { .. })
    }

    /// Like [`GuestAssets::open`], with the agent at `agent`.
    ///
    /// # Errors
    /// As [`GuestAssets::open`].
    pub fn open_with_agent(dir: &Path, kernel: KernelChoice, agent: Option<&Path>) -> Result<GuestAssets, GuestError> {
        let store = Store::at(dir);
        let kind = match kernel {
            KernelChoice::Distro => AssetKind::Distro,
            KernelChoice::Host => AssetKind::Host,
            KernelChoice::Source => AssetKind::Source,
            KernelChoice::Path(path) => match known_file(&store, &path)? {
                Some(kind) => kind,
                None => return adopt(dir, path, agent),
            },
        };
        let assets = load(&store, &kind)?;
        match changed_agent(&assets.manifest, agent)? {
            None => Ok(assets),
            Some(agent) => renew(&store, assets, &agent),
        }
    }

    /// All assets in `dir`, broken ones too. A directory that does not exist has none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(dir: &Path) -> Result<Vec<ListedAsset>, GuestError> {
        let store = Store::at(dir);
        let listed = |kind| ListedAsset { manifest: load(&store, &kind).map(|assets| assets.manifest), kind };
        Ok(store.kinds()?.into_iter().map(listed).collect())
    }
}

/// Reads the manifest of `kind` and looks whether the files have their sizes.
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

/// The asset made of the kernel file at `path`, if there is one. The file is not read if it is the same as then.
fn known_file(store: &Store, path: &Path) -> Result<Option<AssetKind>, GuestError> {
    let failed = |source| GuestError::ReadKernel { path: path.to_owned(), source };
    let path = &fs::canonicalize(path).map_err(failed)?;
    let now = Stamp::of(path).map_err(failed)?;
    let customs = store.kinds()?.into_iter().filter(|kind| matches!(kind, AssetKind::Custom(_)));
    for kind in customs {
        let Ok(assets) = load(store, &kind) else { continue };
        match &assets.manifest.kernel.origin {
            KernelOrigin::File { path: then, stamp, .. } if then == path && *stamp == now => return Ok(Some(kind)),
            _ => {}
        }
    }
    Ok(None)
}

/// Makes an asset of a kernel file, or finds the one of equal contents.
fn adopt(dir: &Path, path: PathBuf, agent: Option<&Path>) -> Result<GuestAssets, GuestError> {
    let request = BuildRequest {
        dir: dir.to_owned(),
        kernel: KernelChoice::Path(path),
        agent: agent.map(Path::to_owned),
        modules: None,
        force: false,
    };
    Ok(build_with(&request, &Apt::default(), &mut |_: Event<'_>| {})?.assets)
}

/// The agent to use, if it is not known to be the one in the asset.
fn changed_agent(manifest: &Manifest, given: Option<&Path>) -> Result<Option<Agent>, GuestError> {
    let mut from = AgentPath::locate(given);
    if !from.given && manifest.agent.given {
        // The asset was built with an agent named on purpose; one that happens to lie here does not replace it.
        from = AgentPath { path: manifest.agent.path.clone(), given: true };
        if !from.path.exists() {
            return Ok(None);
        }
    }
    match Stamp::of(&from.path) {
        Ok(stamp) if stamp == manifest.agent.stamp && from.path == manifest.agent.path => return Ok(None),
        Err(_) if !from.given => return Ok(None), // installed without an agent: the asset's own will do
        _ => {}
    }
    Agent::load(&from).map(Some)
}

/// Puts `agent` into the initramfs; or, if it is there already, its file's identity into the manifest, so that the
/// next boot need not read it.
fn renew(store: &Store, old: GuestAssets, agent: &Agent) -> Result<GuestAssets, GuestError> {
    let same = old.manifest.agent.sha256 == agent.record.sha256;
    match refresh(store, &old.kind, agent, None) {
        Ok(()) => load(store, &old.kind),
        Err(error) if same => {
            log::debug!("the guest asset {} keeps an old time of its agent: {error}", old.kind);
            Ok(old)
        }
        Err(error) => Err(GuestError::StaleAgent {
            agent: agent.record.path.clone(),
            dir: store.dir().to_owned(),
            source: Box::new(error),
        }),
    }
}

/// Puts `agent` into the asset `kind` and writes down where agent and kernel file (`origin`, if it moved) lie now;
/// what is newest under the lock is changed.
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
    // Its modules are taken over, so it has to be what was built.
    if manifest.files.get(INITRAMFS).is_none_or(|record| record.sha256 != Digest::of(&bytes)) {
        return Err(GuestError::Damaged { path: path.to_owned(), what: "changed since it was built".to_owned() });
    }
    Ok(initramfs::replace_agent(&bytes, &agent.bytes)?)
}
