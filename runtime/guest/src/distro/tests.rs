//! The choice of the package and of its files. The archive is a shim; the programs around it are real.

use super::super::progress::BuildEvent;
use super::super::testing::FakeArchive;
use super::*;

fn silent(_: BuildEvent<'_>) {}

#[test]
fn the_newest_6_12_cloud_kernel_is_chosen() {
    let archive = FakeArchive::new();
    for (name, version) in [
        ("linux-image-6.12.9+deb12-cloud-amd64", "9"),
        ("linux-image-6.12.117+deb12-cloud-amd64", "117"),
        ("linux-image-6.12.86+deb12-cloud-amd64", "86"),
    ] {
        archive.record(name, &format!("Version: {version}\n"), false);
    }
    for other in [
        "linux-image-6.12.200+deb12-cloud-amd64-dbg",
        "linux-image-6.12.200+deb12-amd64",
        "linux-image-6.99.0-cloud-amd64",
    ] {
        archive.record(other, "Version: 1\n", false);
    }
    let package = choose(&archive.apt(), &mut silent).unwrap();
    assert_eq!((package.name.as_str(), package.version.as_str()), ("linux-image-6.12.117+deb12-cloud-amd64", "117"));
    assert_eq!(archive.apt_get_log(), "", "nothing to update");
}

#[test]
fn without_6_12_the_archives_own_cloud_kernel_is_chosen() {
    let archive = FakeArchive::new();
    archive.record("linux-image-cloud-amd64", "Version: 6.1.1\nDepends: linux-image-6.1.0-9-cloud-amd64\n", false);
    archive.record("linux-image-6.1.0-9-cloud-amd64", "Version: 6.1.9-1\n", false);
    let package = choose(&archive.apt(), &mut silent).unwrap();
    assert_eq!(package.name, "linux-image-6.1.0-9-cloud-amd64");
}

#[test]
fn empty_lists_are_renewed_once_after_saying_so() {
    let archive = FakeArchive::new();
    archive.offer_kernel("linux-image-6.12.5+deb12-cloud-amd64", "5", true);
    let mut notes = Vec::new();
    let package = choose(&archive.apt(), &mut |event: BuildEvent<'_>| {
        if let BuildEvent::Note(text) = event {
            notes.push(text.to_owned());
        }
    });
    assert_eq!(package.unwrap().version, "5");
    assert!(notes.len() == 1 && notes[0].contains("apt-get update"), "{notes:?}");
}

#[test]
fn an_archive_without_cloud_kernels_is_reported_with_the_remedy() {
    let error = choose(&FakeArchive::new().apt(), &mut silent).unwrap_err();
    assert!(matches!(error, GuestError::NoDistroKernel));
    assert!(error.to_string().contains("--kernel host"), "{error}");
}

#[test]
fn kernel_and_modules_come_out_of_the_package() {
    let archive = FakeArchive::new();
    let name = "linux-image-6.12.5+deb12-cloud-amd64";
    archive.offer_kernel(name, "6.12.5-1", false);
    let apt = archive.apt();
    let package = choose(&apt, &mut silent).unwrap();
    let kernel = build(&apt, &package, &mut silent).unwrap();
    assert_eq!(kernel.release.as_deref(), Some("6.12.5+deb12-cloud-amd64"));
    assert_eq!(kernel.form, "bzImage, zstd");
    let modules: Vec<_> = kernel.modules.all.iter().map(|module| module.file.as_str()).collect();
    assert_eq!(modules, ["virtio_mmio.ko", "vsock.ko", "vmw_vsock_virtio_transport.ko", "virtio-rng.ko"]);
    assert!(matches!(kernel.origin, KernelOrigin::Package { version, .. } if version == "6.12.5-1"));
}

#[test]
fn a_package_changed_on_the_way_is_refused() {
    let archive = FakeArchive::new();
    let name = "linux-image-6.12.5+deb12-cloud-amd64";
    archive.offer_kernel(name, "1", false);
    let deb = archive.path("pool").join(format!("{name}.deb"));
    let mut bytes = std::fs::read(&deb).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&deb, bytes).unwrap();
    let apt = archive.apt();
    let error = build(&apt, &choose(&apt, &mut silent).unwrap(), &mut silent).unwrap_err();
    assert!(matches!(error, GuestError::Apt(super::super::AptError::WrongSum { .. })), "{error}");
}

#[test]
fn a_package_without_a_kernel_is_refused() {
    let archive = FakeArchive::new();
    let name = "linux-image-6.12.5+deb12-cloud-amd64";
    archive.offer(name, "1", &[("./usr/share/doc/x", b"x".to_vec())], false);
    let apt = archive.apt();
    let error = build(&apt, &choose(&apt, &mut silent).unwrap(), &mut silent).unwrap_err();
    assert!(matches!(error, GuestError::NoKernelInPackage { .. }), "{error}");
}

#[test]
fn sizes_no_kernel_has_are_refused_unread() {
    let mut files = PackageFiles::default();
    let mut unread: &[u8] = b"";
    let path = "./boot/vmlinuz-6.12";
    assert!(files.take(path, MAX_FILE + 1, &mut unread).is_err());
    let mut files = PackageFiles { total: MAX_TOTAL, ..PackageFiles::default() };
    assert!(files.take(path, 1, &mut unread).is_err());
}
