//! Selection and order of modules.

use std::fs;

use super::super::image::Compression;
use super::super::testing::{compress, module};
use super::*;

/// The required modules, and the given ones.
fn tree(more: &[(&str, &str)]) -> ModuleTree {
    let mut tree = ModuleTree::default();
    tree.add_builtin("kernel/fs/fuse/virtiofs.ko\n");
    for (file, info) in
        [("virtio_mmio.ko", "depends="), ("vmw_vsock_virtio_transport.ko", "depends=")].iter().chain(more)
    {
        tree.add_bytes(file, module(info));
    }
    tree
}

fn names(tree: &ModuleTree) -> Vec<String> {
    select(tree).unwrap().all.into_iter().map(|module| module.file).collect()
}

#[test]
fn a_module_comes_after_all_it_needs() {
    let tree = tree(&[
        ("vmw_vsock_virtio_transport.ko", "depends=vmw_vsock_virtio_transport_common,vsock"),
        ("vmw_vsock_virtio_transport_common.ko", "depends=vsock"),
        ("vsock.ko", "depends="),
        ("virtio_net.ko", "depends=net_failover"),
        ("net_failover.ko", "depends=failover"),
        ("failover.ko", ""),
        ("unrelated.ko", "depends=absent"),
    ]);
    let expected = [
        "virtio_mmio.ko",
        "vsock.ko",
        "vmw_vsock_virtio_transport_common.ko",
        "vmw_vsock_virtio_transport.ko",
        "failover.ko",
        "net_failover.ko",
        "virtio_net.ko",
    ];
    assert_eq!(names(&tree), expected);
}

#[test]
fn what_is_built_in_is_neither_loaded_nor_missed() {
    let mut tree = tree(&[("virtio_blk.ko", "depends=virtio,virtio_ring"), ("overlay.ko", "depends=")]);
    tree.add_builtin("kernel/drivers/virtio/virtio.ko\nkernel/drivers/virtio/virtio_ring.ko\nkernel/fs/overlay.ko\n");
    assert_eq!(names(&tree), ["virtio_mmio.ko", "vmw_vsock_virtio_transport.ko", "virtio_blk.ko"]);
}

#[test]
fn dashes_and_underscores_are_the_same() {
    let tree = tree(&[("virtio-rng.ko", "depends=rng-core"), ("rng_core.ko", "")]);
    assert_eq!(names(&tree)[2..], ["rng_core.ko", "virtio-rng.ko"]);
}

#[test]
fn soft_dependencies_come_first_if_they_are_there() {
    let tree = tree(&[("ext4.ko", "depends=jbd2|softdep=pre: crc32c other"), ("jbd2.ko", ""), ("crc32c.ko", "")]);
    assert_eq!(names(&tree)[2..], ["jbd2.ko", "crc32c.ko", "ext4.ko"]);
}

#[test]
fn a_circle_ends() {
    let tree = tree(&[("virtio_blk.ko", "depends=a"), ("a.ko", "depends=b"), ("b.ko", "depends=a")]);
    assert_eq!(names(&tree)[2..], ["b.ko", "a.ko", "virtio_blk.ko"]);
}

#[test]
fn missing_modules_are_named() {
    let mut bare = ModuleTree::default();
    bare.add_bytes("virtio_mmio.ko", module(""));
    let error = select(&bare).unwrap_err();
    assert!(matches!(error, ModuleError::Missing { module: "vmw_vsock_virtio_transport", .. }), "{error}");
    assert!(error.to_string().contains("--kernel distro"), "{error}");
    let error = select(&tree(&[("virtio_net.ko", "depends=net_failover")])).unwrap_err();
    assert!(matches!(&error, ModuleError::MissingDependency { needed, .. } if needed == "net_failover"), "{error}");
}

#[test]
fn a_damaged_module_is_named() {
    let mut tree = tree(&[]);
    tree.add_bytes("virtio_blk.ko.xz", b"garbage".to_vec());
    assert!(matches!(select(&tree), Err(ModuleError::Unpack { module, .. }) if module == "virtio_blk.ko"));
    tree.add_bytes("virtio_blk.ko.xz", compress(Compression::Xz, b"\x7fELFgarbage"));
    assert!(matches!(select(&tree), Err(ModuleError::Modinfo { module, .. }) if module == "virtio_blk.ko"));
}

#[test]
fn a_directory_of_modules_packed_in_any_way_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel/drivers");
    fs::create_dir_all(&kernel).unwrap();
    fs::write(dir.path().join("modules.builtin"), "kernel/fs/fuse/virtiofs.ko\n").unwrap();
    let plain = module("depends=");
    fs::write(kernel.join("virtio_mmio.ko"), &plain).unwrap();
    fs::write(kernel.join("vmw_vsock_virtio_transport.ko.zst"), compress(Compression::Zstd, &plain)).unwrap();
    fs::write(kernel.join("virtio_blk.ko.gz"), compress(Compression::Gzip, &plain)).unwrap();
    fs::write(kernel.join("overlay.ko.xz"), compress(Compression::Xz, &plain)).unwrap();
    // As in a real tree: links that lead out of it, or in a circle.
    std::os::unix::fs::symlink("..", dir.path().join("build")).unwrap();
    let modules = select(&ModuleTree::scan(dir.path()).unwrap()).unwrap().all;
    assert_eq!(modules.len(), 4);
    assert!(modules.iter().all(|module| module.bytes == plain && module.file.ends_with(".ko")));
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    let error = ModuleTree::scan(std::path::Path::new("/nonexistent")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}

#[test]
fn each_occasion_lists_all_it_needs() {
    let tree = tree(&[
        ("virtio_net.ko", "depends=net_failover"),
        ("net_failover.ko", "depends=failover"),
        ("failover.ko", ""),
        ("overlay.ko", "depends=failover"),
    ]);
    let demands = select(&tree).unwrap().demands;
    let expected = [
        ("always", vec!["virtio_mmio.ko"]),
        ("always", vec!["vmw_vsock_virtio_transport.ko"]),
        ("fs:overlay", vec!["failover.ko", "overlay.ko"]),
        ("virtio:1", vec!["failover.ko", "net_failover.ko", "virtio_net.ko"]),
    ];
    assert_eq!(demands.len(), expected.len());
    for (got, expected) in demands.iter().zip(expected) {
        assert_eq!(got.0, expected.0);
        assert_eq!(got.1, expected.1);
    }
    let all = ["failover.ko", "overlay.ko", "net_failover.ko", "virtio_net.ko"];
    assert_eq!(names(&tree)[2..], all, "each once");
}

#[test]
fn signatures_go_only_if_the_kernel_is_known_to_do_without() {
    let mut signed = module("depends=");
    let plain = signed.clone();
    signed.extend_from_slice(&[7; 10]);
    signed.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
    signed.extend_from_slice(b"~Module signature appended~\n");
    for (config, expected) in [
        (None, &signed),
        (Some("CONFIG_MODULE_SIG_FORCE=y"), &signed),
        (Some("CONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set"), &plain),
    ] {
        let mut tree = tree(&[]);
        tree.add_bytes("virtio_mmio.ko", signed.clone());
        if let Some(config) = config {
            tree.add_config(config);
        }
        assert!(select(&tree).unwrap().all[0].bytes == *expected, "{config:?}");
    }
}
