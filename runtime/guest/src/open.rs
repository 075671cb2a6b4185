//! Opens an asset. Every boot does that, so it reads one small file and the sizes of three others.

use std::fs;
use std::path::{Path, PathBuf};

use super::agent::{Agent, AgentPath};
use super::apt::Apt;
use super::assets::{load, refresh, GuestAssets, KernelChoice};
use super::build::{build_with, BuildRequest};
use super::progress::BuildEvent;
use super::store::manifest::{KernelOrigin, Manifest, Stamp};
use super::store::{AssetKind, Store};
use super::GuestError;

impl GuestAssets {
    /// Opens the asset for `kernel` in `dir`, with the agent that `HUTCH_AGENT` names or that lies beside this
    /// executable. If the initramfs has another agent, it is rebuilt first (milliseconds). A kernel given by path
    /// becomes an asset at its first use.
    ///
    /// # Errors
    /// [`GuestError::NotBuilt`] and others; each message has a remedy.
    pub fn open(dir: &Path, kernel: KernelChoice) -> Result<GuestAssets, GuestError> {
        GuestAssets::open_with_agent(dir, kernel, None)
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
}

/// Finds the asset made of the kernel file at `path`. A file that is the same as then is not read.
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

/// Makes an asset of a kernel file, or finds the asset with the same contents.
fn adopt(dir: &Path, path: PathBuf, agent: Option<&Path>) -> Result<GuestAssets, GuestError> {
    let request = BuildRequest {
        dir: dir.to_owned(),
        kernel: KernelChoice::Path(path),
        agent: agent.map(Path::to_owned),
        modules: None,
        force: false,
    };
    Ok(build_with(&request, &Apt::default(), &mut |_: BuildEvent<'_>| {})?.assets)
}

/// The agent to use; `None` if it is known to be the one in the asset.
fn changed_agent(manifest: &Manifest, given: Option<&Path>) -> Result<Option<Agent>, GuestError> {
    let mut from = AgentPath::locate(given);
    if !from.given && manifest.agent.given {
        // The asset was built with an explicitly named agent; one that was merely found here does not replace it.
        from = AgentPath { path: manifest.agent.path.clone(), given: true };
        if !from.path.exists() {
            return Ok(None);
        }
    }
    match Stamp::of(&from.path) {
        Ok(stamp) if stamp == manifest.agent.stamp && from.path == manifest.agent.path => return Ok(None),
        Err(_) if !from.given => return Ok(None), // installed without an agent: use the asset's own
        _ => {}
    }
    Agent::load(&from).map(Some)
}

/// Puts `agent` into the initramfs. If it is there already, puts the identity of its file into the manifest, so that
/// the next boot need not read it.
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
