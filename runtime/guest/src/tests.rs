//! Assets from build to boot, with a shim for the package archive.

use std::fs;
use std::path::{Path, PathBuf};

use super::assets;
use super::build::build_with;
use super::initramfs::{Archive, Node};
use super::inspect::inspect_with;
use super::store::{lock::Lock, Store};
use super::testing::{agent, agent_file, bzimage, executable, vmlinux, FakeArchive};
use super::*;

const PACKAGE: &str = "linux-image-6.12.5+deb12-cloud-amd64";

/// A guest directory, an agent and an archive for one test.
struct Place {
    archive: FakeArchive,
    dir: tempfile::TempDir,
    agent: PathBuf,
}

impl Place {
    fn new() -> Place {
        let (archive, dir) = (FakeArchive::new(), tempfile::tempdir().unwrap());
        archive.offer_kernel(PACKAGE, "6.12.5-1", false);
        let agent = agent_file(dir.path(), "first");
        Place { archive, agent, dir }
    }

    fn guest(&self) -> PathBuf {
        self.dir.path().join("guest")
    }

    fn request(&self, kernel: KernelChoice) -> BuildRequest {
        BuildRequest { dir: self.guest(), kernel, agent: Some(self.agent.clone()), modules: None, force: false }
    }

    fn build(&self, kernel: KernelChoice) -> Result<BuildReport, GuestError> {
        build_with(&self.request(kernel), &self.archive.apt(), &mut |_: BuildEvent<'_>| {})
    }

    fn open(&self) -> Result<GuestAssets, GuestError> {
        GuestAssets::open_with_agent(&self.guest(), KernelChoice::Distro, Some(&self.agent))
    }

    fn inspect(&self) -> Inspection {
        inspect_with(&self.guest(), &AssetKind::Distro, Some(&self.agent), &self.archive.apt()).unwrap()
    }

    fn manifest_path(&self) -> PathBuf {
        self.guest().join("distro/manifest.json")
    }
}

fn init_of(assets: &GuestAssets) -> Vec<u8> {
    match Archive::read(&fs::read(&assets.initrd).unwrap()).unwrap().get("init") {
        Some(Node::File(0o755, bytes)) => bytes.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_asset_is_built_then_opened_and_a_second_build_finds_nothing_to_do() {
    let place = Place::new();
    let report = place.build(KernelChoice::Distro).unwrap();
    assert_eq!(report.action, BuildAction::All);
    let assets = place.open().unwrap();
    assert_eq!(assets.kind, AssetKind::Distro);
    assert_eq!(fs::read(&assets.kernel).unwrap(), vmlinux("6.12.5+deb12-cloud-amd64"));
    assert_eq!(init_of(&assets), agent("first"));
    assert_eq!(
        assets.manifest.modules,
        ["virtio_mmio.ko", "vsock.ko", "vmw_vsock_virtio_transport.ko", "virtio-rng.ko"]
    );
    assert_eq!(assets.manifest.agent.version.as_deref(), Some("1.2.3"));
    assert_eq!(place.build(KernelChoice::Distro).unwrap().action, BuildAction::Nothing);
    let forced = BuildRequest { force: true, ..place.request(KernelChoice::Distro) };
    assert_eq!(
        build_with(&forced, &place.archive.apt(), &mut |_: BuildEvent<'_>| {}).unwrap().action,
        BuildAction::All
    );
    place.archive.offer_kernel("linux-image-6.12.6+deb12-cloud-amd64", "6.12.6-1", false);
    assert_eq!(
        place.inspect().stale,
        [Stale::Package { available: "linux-image-6.12.6+deb12-cloud-amd64 6.12.6-1".into() }]
    );
    assert_eq!(place.build(KernelChoice::Distro).unwrap().action, BuildAction::All, "a newer package");
}

#[test]
fn an_asset_that_was_not_built_is_reported_with_the_remedy() {
    let place = Place::new();
    let error = place.open().unwrap_err();
    assert!(matches!(error, GuestError::NotBuilt { .. }));
    assert!(error.to_string().contains("hutch guest build --kernel distro"), "{error}");
    assert!(GuestAssets::list(&place.guest()).unwrap().is_empty());
}

#[test]
fn opening_puts_a_changed_agent_in() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let before = place.open().unwrap();
    agent_file(place.dir.path(), "second");
    assert!(matches!(place.inspect().stale[..], [Stale::Agent { .. }]));
    let after = place.open().unwrap();
    assert_eq!(init_of(&after), agent("second"));
    assert_eq!(init_of(&before), agent("first"), "an opened asset does not change");
    assert_eq!(after.manifest.agent.sha256, Digest::of(&agent("second")));
    assert_eq!(after.manifest.modules, before.manifest.modules);
    let inspection = place.inspect();
    assert!(inspection.is_intact() && inspection.stale.is_empty(), "{inspection:?}");
}

#[test]
fn building_with_another_agent_only_replaces_the_agent() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    agent_file(place.dir.path(), "second");
    let downloads = place.archive.apt_get_log();
    let report = place.build(KernelChoice::Distro).unwrap();
    assert_eq!(report.action, BuildAction::Agent);
    assert_eq!(init_of(&report.assets), agent("second"));
    assert_eq!(place.archive.apt_get_log(), downloads, "no second download");
}

#[test]
fn building_with_an_equal_agent_elsewhere_follows_that_one_from_then_on() {
    let mut place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let elsewhere = place.dir.path().join("elsewhere");
    fs::copy(&place.agent, &elsewhere).unwrap();
    place.agent = elsewhere.clone();
    let report = place.build(KernelChoice::Distro).unwrap();
    assert_eq!(report.action, BuildAction::Nothing);
    assert_eq!(report.assets.manifest.agent.path, elsewhere);
}

#[test]
fn an_agent_that_was_only_touched_is_read_once() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let before = place.open().unwrap();
    fs::write(&place.agent, agent("first")).unwrap();
    let touched = place.open().unwrap();
    assert_ne!(touched.manifest.agent.stamp, before.manifest.agent.stamp);
    assert_eq!(touched.manifest.files, before.manifest.files);
    let again = place.open().unwrap();
    assert_eq!(again.kernel, touched.kernel, "no third generation");
}

#[test]
fn a_stale_agent_in_a_directory_that_cannot_be_changed_is_an_error() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    agent_file(place.dir.path(), "second");
    // A directory in the place of the lock stops root too.
    let lock = place.guest().join(".distro.install.lock");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(error, GuestError::StaleAgent { .. }), "{error}");
    assert!(error.to_string().contains("hutch guest build"), "{error}");
}

#[test]
fn an_agent_found_by_chance_does_not_replace_one_that_was_named() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    fs::remove_file(&place.agent).unwrap();
    // No agent is given now: the named one is gone, so the asset is used as it is.
    let assets = GuestAssets::open(&place.guest(), KernelChoice::Distro).unwrap();
    assert_eq!(init_of(&assets), agent("first"));
    let error = place.open().unwrap_err();
    assert!(matches!(error, GuestError::NoAgent { .. }), "given but gone: {error}");
}

#[test]
fn an_unusable_agent_is_refused_before_anything_is_built() {
    let place = Place::new();
    fs::write(&place.agent, executable(b"x", Some("/lib64/ld-linux-x86-64.so.2"))).unwrap();
    let error = place.build(KernelChoice::Distro).unwrap_err();
    assert!(matches!(error, GuestError::BadAgent { .. }), "{error}");
    fs::remove_file(&place.agent).unwrap();
    let error = place.build(KernelChoice::Distro).unwrap_err().to_string();
    assert!(error.contains("--agent"), "{error}");
    assert!(!place.guest().exists());
}

#[test]
fn damaged_files_are_noticed() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let assets = place.open().unwrap();
    // Same length: only reading the whole file finds it.
    let mut bytes = fs::read(&assets.kernel).unwrap();
    bytes[500] ^= 1;
    fs::write(&assets.kernel, &bytes).unwrap();
    let inspection = place.inspect();
    assert!(!inspection.is_intact());
    let problem = inspection.files.iter().find(|file| file.name == "vmlinux").unwrap().problem.clone();
    assert!(problem.unwrap().contains("has changed"));
    // Another length: every boot finds it.
    fs::write(&assets.kernel, b"short").unwrap();
    let error = place.open().unwrap_err();
    assert!(matches!(&error, GuestError::Damaged { path, .. } if path.ends_with("vmlinux")), "{error}");
    assert!(!place.inspect().is_intact());
    assert!(GuestAssets::list(&place.guest()).unwrap()[0].manifest.is_err());
    // A build repairs it.
    assert_eq!(place.build(KernelChoice::Distro).unwrap().action, BuildAction::All);
    assert!(place.inspect().is_intact());
}

#[test]
fn a_changed_initramfs_is_not_used_for_the_next_one() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let assets = place.open().unwrap();
    let mut bytes = fs::read(&assets.initrd).unwrap();
    bytes[200] ^= 1;
    fs::write(&assets.initrd, &bytes).unwrap();
    agent_file(place.dir.path(), "second");
    let error = place.open().unwrap_err();
    let GuestError::StaleAgent { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("changed since it was built"), "{source}");
}

#[test]
fn a_manifest_of_a_newer_hutch_is_left_alone() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    fs::write(place.manifest_path(), r#"{"format": 2, "kind": {"of another": "form"}}"#).unwrap();
    let error = place.open().unwrap_err();
    assert!(error.to_string().contains("newer hutch"), "{error}");
    assert!(place.build(KernelChoice::Distro).unwrap_err().to_string().contains("--force"));
    let forced = BuildRequest { force: true, ..place.request(KernelChoice::Distro) };
    build_with(&forced, &place.archive.apt(), &mut |_: BuildEvent<'_>| {}).unwrap();
    place.open().unwrap();
}

#[test]
fn a_damaged_manifest_is_reported_and_built_anew() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let good = fs::read_to_string(place.manifest_path()).unwrap();
    let bad = [
        String::new(),
        "null".into(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"format\": 1", "\"format\": -1"),
        good.replace("\"sha256\": \"", "\"sha256\": \"x"),
        good.replace("\"kind\": \"distro\"", "\"kind\": \"../../etc\""),
    ];
    for text in bad {
        fs::write(place.manifest_path(), &text).unwrap();
        let error = place.open().unwrap_err();
        assert!(matches!(error, GuestError::Manifest(ManifestError::Corrupt { .. })), "{text}: {error}");
        assert!(error.to_string().contains("--force"), "{error}");
    }
    fs::write(place.manifest_path(), good.replace("\"kind\": \"distro\"", "\"kind\": \"source\"")).unwrap();
    assert!(matches!(place.open(), Err(GuestError::Manifest(ManifestError::WrongKind { .. }))));
    fs::remove_file(place.manifest_path()).unwrap();
    assert!(matches!(place.open(), Err(GuestError::Manifest(ManifestError::Read { .. }))));
    assert_eq!(place.build(KernelChoice::Distro).unwrap().action, BuildAction::All);
    place.open().unwrap();
}

#[test]
fn a_failed_build_leaves_the_old_asset() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let newer = "linux-image-6.12.6+deb12-cloud-amd64";
    place.archive.offer(newer, "6.12.6-1", &[("./boot/vmlinuz-6.12.6", b"no kernel".to_vec())], false);
    let error = place.build(KernelChoice::Distro).unwrap_err();
    assert!(matches!(error, GuestError::BadKernel { .. }), "{error}");
    assert_eq!(place.open().unwrap().manifest.kernel.release.as_deref(), Some("6.12.5+deb12-cloud-amd64"));
    assert!(place.inspect().is_intact());
}

#[test]
fn two_builds_at_once_build_once() {
    let place = Place::new();
    let actions: Vec<BuildAction> = std::thread::scope(|scope| {
        let builds: Vec<_> =
            (0..3).map(|_| scope.spawn(|| place.build(KernelChoice::Distro).unwrap().action)).collect();
        builds.into_iter().map(|build| build.join().unwrap()).collect()
    });
    assert_eq!(actions.iter().filter(|action| **action == BuildAction::All).count(), 1, "{actions:?}");
    assert_eq!(place.archive.apt_get_log().lines().count(), 1);
}

#[test]
fn a_boot_does_not_wait_for_a_long_build() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let store = Store::at(&place.guest());
    let _building: Lock = store.lock_build(&AssetKind::Distro, &mut |_| {}).unwrap();
    agent_file(place.dir.path(), "second");
    assert_eq!(init_of(&place.open().unwrap()), agent("second"));
}

#[test]
fn many_boots_after_a_change_of_the_agent_change_the_asset_once() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    agent_file(place.dir.path(), "second");
    let kernels: Vec<PathBuf> = std::thread::scope(|scope| {
        let opens: Vec<_> = (0..8).map(|_| scope.spawn(|| place.open().unwrap())).collect();
        opens.into_iter().map(|open| open.join().unwrap()).map(|assets| assets.kernel).collect()
    });
    assert!(kernels.windows(2).all(|pair| pair[0] == pair[1]), "{kernels:?}");
}

#[test]
fn a_kernel_file_becomes_an_asset_at_its_first_use() {
    let place = Place::new();
    let path = place.dir.path().join("bzImage");
    fs::write(&path, bzimage(Compression::Gzip, &vmlinux("6.9.9-mine"), "6.9.9-mine")).unwrap();
    let open = |path: &Path| {
        GuestAssets::open_with_agent(&place.guest(), KernelChoice::Path(path.to_owned()), Some(&place.agent))
    };
    let assets = open(&path).unwrap();
    assert!(matches!(&assets.kind, AssetKind::Custom(hash) if hash.len() == 12));
    assert_eq!(assets.manifest.kernel.form, "bzImage, gzip");
    assert_eq!(open(&path).unwrap().kernel, assets.kernel, "the second use finds it");
    let copy = place.dir.path().join("copy");
    fs::copy(&path, &copy).unwrap();
    let found = open(&copy).unwrap();
    assert_eq!(found.kernel, assets.kernel, "by its contents");
    assert!(matches!(&found.manifest.kernel.origin, KernelOrigin::File { path, .. } if *path == copy), "read once");
    fs::write(&path, vmlinux("6.9.10-mine")).unwrap();
    let changed = open(&path).unwrap();
    assert_ne!(changed.kind, assets.kind);
    assert_eq!(changed.manifest.kernel.form, "ELF");
    assert_eq!(GuestAssets::list(&place.guest()).unwrap().len(), 2);
}

#[test]
fn a_kernel_with_modules_takes_them_from_the_directory_given() {
    let place = Place::new();
    let (path, modules) = (place.dir.path().join("vmlinux"), place.dir.path().join("modules"));
    fs::write(&path, vmlinux("6.9.9-mine")).unwrap();
    fs::create_dir(&modules).unwrap();
    fs::write(modules.join("modules.builtin"), "kernel/virtiofs.ko\nkernel/vmw_vsock_virtio_transport.ko\n").unwrap();
    fs::write(modules.join("virtio_mmio.ko"), testing::module("depends=")).unwrap();
    let request = BuildRequest { modules: Some(modules), ..place.request(KernelChoice::Path(path)) };
    let report = build_with(&request, &place.archive.apt(), &mut |_: BuildEvent<'_>| {}).unwrap();
    assert_eq!(report.assets.manifest.modules, ["virtio_mmio.ko"]);
}

#[test]
fn unusable_kernel_files_are_named() {
    let place = Place::new();
    let error = place.build(KernelChoice::Path("/nonexistent/vmlinux".into())).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/vmlinux"), "{error}");
    let path = place.dir.path().join("garbage");
    fs::write(&path, [7; 3000]).unwrap();
    let error = place.build(KernelChoice::Path(path.clone())).unwrap_err();
    assert!(matches!(error, GuestError::BadKernel { .. }), "{error}");
    let truncated = bzimage(Compression::Xz, &vmlinux("6"), "6");
    fs::write(&path, &truncated[..truncated.len() / 2]).unwrap();
    let error = place.build(KernelChoice::Path(path)).unwrap_err();
    assert!(matches!(error, GuestError::BadKernel { source: ImageError::Truncated { .. }, .. }), "{error:?}");
    assert!(GuestAssets::list(&place.guest()).unwrap().is_empty());
}

#[test]
fn words_and_paths_are_told_apart() {
    let parse = |word: &str| word.parse::<KernelChoice>().unwrap();
    assert_eq!(parse("distro"), KernelChoice::Distro);
    assert_eq!(parse("source"), KernelChoice::Source);
    assert_eq!(parse("./source"), KernelChoice::Path("./source".into()));
    assert_eq!(assets::guest_dir(Some(Path::new("/x"))), Path::new("/x"));
}

#[test]
fn pods_boot_files_that_outlive_the_asset_they_were_made_of() {
    let place = Place::new();
    place.build(KernelChoice::Distro).unwrap();
    let oci = place.dir.path().join("hutch-agent-oci");
    fs::write(&oci, super::testing::agent("oci")).unwrap();
    let agent = super::agent::AgentPath { path: oci.clone(), given: true };
    let make = || super::pod::PodAssets::of(&place.guest(), &place.open().unwrap(), &agent, || Some(Vec::new()));
    let first = make().unwrap();
    match Archive::read(&fs::read(&first.initrd).unwrap()).unwrap().get("init") {
        Some(Node::File(0o755, bytes)) => assert_eq!(*bytes, fs::read(&oci).unwrap()),
        other => panic!("{other:?}"),
    }
    assert_eq!(make().unwrap(), first, "it is found again");
    // The ordinary agent is replaced, twice; the contents for pods stay the same.
    for name in ["second", "third"] {
        fs::write(&place.agent, super::testing::agent(name)).unwrap();
        assert_eq!(make().unwrap(), first);
    }
    fs::write(&oci, super::testing::agent("other")).unwrap();
    let other = make().unwrap();
    assert_ne!(other, first);
    assert!(first.kernel.exists() && first.initrd.exists() && other.kernel.exists());
    fs::remove_file(&oci).unwrap();
    let error = make().unwrap_err();
    assert!(matches!(error, GuestError::NoOciAgent { .. }) && error.to_string().contains("HUTCH_AGENT_OCI"));
}
