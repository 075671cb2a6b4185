//! `hutch guest build`: builds an asset, or the missing parts of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::agent::{Agent, AgentPath};
use super::apt::Apt;
use super::assets::{self, GuestAssets, KernelChoice};
use super::distro;
use super::image;
use super::initramfs;
use super::kernel::{SourceBuild, SourceKernel, GUEST_CONFIG};
use super::local::LocalKernel;
use super::module::Modules;
use super::new_kernel::{NewKernel, Vmlinux};
use super::progress::{phase, BuildEvent, Progress};
use super::store::manifest::{
    FileRecord, KernelOrigin, KernelRecord, Manifest, ManifestError, FORMAT, INITRAMFS, VMLINUX,
};
use super::store::{AssetKind, Contents, Store};
use super::GuestError;

/// Directory within the guest directory that keeps a kernel compiled from source between builds.
const SOURCE_DIR: &str = ".source-kernel";

/// A build request.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The guest directory, usually `/var/lib/hutch/guest`.
    pub dir: PathBuf,
    /// Kernel of the asset.
    pub kernel: KernelChoice,
    /// The agent to embed; `None`: `HUTCH_AGENT`, or `hutch-agent` beside this executable.
    pub agent: Option<PathBuf>,
    /// The modules of a kernel file, if they are not in `/lib/modules/RELEASE`.
    pub modules: Option<PathBuf>,
    /// Builds even an asset that is up to date.
    pub force: bool,
}

/// Amount of work of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildAction {
    /// The asset was up to date.
    Nothing,
    /// Only the agent in the initramfs was replaced.
    Agent,
    /// Everything was built.
    All,
}

/// A finished build.
#[derive(Debug)]
pub struct BuildReport {
    /// The asset, ready to boot.
    pub assets: GuestAssets,
    /// Amount of work.
    pub action: BuildAction,
    /// Duration of the build.
    pub elapsed: Duration,
}

/// Builds the asset that `request` describes, unless it exists and is up to date; embeds the present agent.
///
/// Other processes see the old asset until the new one is complete. Two builds of one kind wait for each other.
///
/// # Errors
/// [`GuestError`]; an old asset is unchanged then.
pub fn build(request: &BuildRequest, progress: &mut dyn Progress) -> Result<BuildReport, GuestError> {
    build_with(request, &Apt::default(), progress)
}

pub(crate) fn build_with(
    request: &BuildRequest,
    apt: &Apt,
    progress: &mut dyn Progress,
) -> Result<BuildReport, GuestError> {
    let start = Instant::now();
    let agent = Agent::load(&AgentPath::locate(request.agent.as_deref()))?;
    let store = Store::at(&request.dir);
    store.create()?;
    let plan = Plan::make(request, apt, progress)?;
    let kind = plan.kind();
    let _lock = store.lock_build(&kind, &mut |who| {
        progress.event(BuildEvent::Note(&format!("{who} is building the asset `{kind}`; waiting for it")));
    })?;
    let action = match reusable(&store, &kind, request.force)? {
        Some(old) if plan.is_done_in(&old, apt)? => {
            let origin = plan.moved_from(&old.kernel.origin);
            if old.agent != agent.record || origin.is_some() {
                assets::refresh(&store, &kind, &agent, origin)?; // same contents: only the paths change
            }
            let same = old.agent.sha256 == agent.record.sha256;
            if same {
                BuildAction::Nothing
            } else {
                BuildAction::Agent
            }
        }
        _ => {
            let started = Instant::now();
            let kernel = plan.build(&request.dir, request.force, apt, progress)?;
            phase(progress, "write the asset", |_| install(&store, &kind, &kernel, &agent, started.elapsed()))?;
            BuildAction::All
        }
    };
    let assets = assets::load(&store, &kind)?;
    Ok(BuildReport { assets, action, elapsed: start.elapsed() })
}

/// The manifest of an asset whose files all exist; `None` if nothing can be reused.
fn reusable(store: &Store, kind: &AssetKind, force: bool) -> Result<Option<Manifest>, GuestError> {
    if force {
        return Ok(None);
    }
    match assets::load(store, kind) {
        Ok(assets) => Ok(Some(assets.manifest)),
        // Never replaces an asset of a newer program, unless forced.
        Err(error @ GuestError::Manifest(ManifestError::Newer { .. })) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The exact kernel to build, determined before any long step.
enum Plan {
    Distro(super::apt::Package),
    Source,
    Local(AssetKind, LocalKernel),
}

impl Plan {
    fn make(request: &BuildRequest, apt: &Apt, progress: &mut dyn Progress) -> Result<Plan, GuestError> {
        let modules = request.modules.as_deref();
        Ok(match &request.kernel {
            KernelChoice::Distro => Plan::Distro(distro::choose(apt, progress)?),
            KernelChoice::Source => Plan::Source,
            KernelChoice::Host => Plan::Local(AssetKind::Host, LocalKernel::of_host(modules)?),
            KernelChoice::Path(path) => {
                let kernel = LocalKernel::read(path, modules)?;
                Plan::Local(kernel.custom_kind(), kernel)
            }
        })
    }

    fn kind(&self) -> AssetKind {
        match self {
            Plan::Distro(_) => AssetKind::Distro,
            Plan::Source => AssetKind::Source,
            Plan::Local(kind, _) => kind.clone(),
        }
    }

    fn is_done_in(&self, old: &Manifest, apt: &Apt) -> Result<bool, GuestError> {
        let key = match self {
            Plan::Distro(package) => Some(distro::key(package)),
            Plan::Source => super::kernel::source_key(GUEST_CONFIG, apt)?,
            Plan::Local(_, kernel) => Some(kernel.key()),
        };
        Ok(key.is_some_and(|key| key == old.kernel.key))
    }

    /// The present path of the kernel's file, if its contents are known from another path or time.
    fn moved_from(&self, then: &KernelOrigin) -> Option<KernelOrigin> {
        match self {
            Plan::Local(_, kernel) => kernel.moved_from(then),
            Plan::Distro(_) | Plan::Source => None,
        }
    }

    fn build(self, dir: &Path, force: bool, apt: &Apt, progress: &mut dyn Progress) -> Result<NewKernel, GuestError> {
        match self {
            Plan::Distro(package) => distro::build(apt, &package, progress),
            Plan::Local(_, kernel) => phase(progress, "extract the kernel", |_| kernel.build()),
            Plan::Source => {
                let build = SourceBuild { config: GUEST_CONFIG.to_owned(), out_dir: dir.join(SOURCE_DIR), force };
                from_source(build.run_with(apt, progress)?)
            }
        }
    }
}

fn from_source(kernel: SourceKernel) -> Result<NewKernel, GuestError> {
    let path = kernel.vmlinux;
    let bytes = std::fs::read(&path).map_err(|source| GuestError::ReadKernel { path: path.clone(), source })?;
    let opened = image::open(&bytes).map_err(|source| GuestError::BadKernel { path: path.clone(), source })?;
    Ok(NewKernel {
        vmlinux: Vmlinux::File(path, FileRecord::of(&bytes)),
        release: Some(kernel.release),
        form: opened.form.to_string(),
        key: kernel.key,
        origin: KernelOrigin::Source {
            package: kernel.package.0,
            version: kernel.package.1,
            sha256: kernel.source_sha256,
            config_sha256: kernel.config_sha256,
            compiler: kernel.compiler,
        },
        modules: Modules::default(),
    })
}

fn install(
    store: &Store,
    kind: &AssetKind,
    kernel: &NewKernel,
    agent: &Agent,
    took: Duration,
) -> Result<(), GuestError> {
    let initramfs = initramfs::assemble(&agent.bytes, &kernel.modules)?;
    let (vmlinux, contents) = match &kernel.vmlinux {
        Vmlinux::Bytes(bytes) => (FileRecord::of(bytes), Contents::Bytes(bytes)),
        Vmlinux::File(path, record) => (*record, Contents::Link(path)),
    };
    let manifest = Manifest {
        format: FORMAT,
        kind: kind.clone(),
        kernel: KernelRecord {
            release: kernel.release.clone(),
            form: kernel.form.clone(),
            key: kernel.key.clone(),
            origin: kernel.origin.clone(),
        },
        agent: agent.record.clone(),
        modules: kernel.modules.all.iter().map(|module| module.file.clone()).collect(),
        files: [(VMLINUX.to_owned(), vmlinux), (INITRAMFS.to_owned(), FileRecord::of(&initramfs))].into(),
        built_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        built_in_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        builder: concat!("hutch ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    store.lock_install(kind)?.install(contents, Contents::Bytes(&initramfs), &manifest.to_json())?;
    Ok(())
}
