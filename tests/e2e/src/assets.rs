//! The guest assets that `hutch` uses, and broken ones made from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{kernels, RootFs};

/// The directory of guest assets.
pub fn guest_dir() -> PathBuf {
    std::env::var_os("HUTCH_GUEST_DIR").map_or_else(|| "/var/lib/hutch/guest".into(), PathBuf::from)
}

/// A file of the first kernel's assets: `vmlinux` or `initramfs.cpio`.
pub fn guest_file(name: &str) -> PathBuf {
    let kernel = kernels().into_iter().next().expect("a kind of kernel");
    let path = guest_dir().join(kernel).join(name);
    assert!(path.exists(), "{} is missing: run `hutch guest build`", path.display());
    path
}

/// An initramfs like the real one, but with an agent of another protocol version.
pub fn initrd_with_other_agent(root: &RootFs) -> PathBuf {
    let agent = std::env::var_os("HUTCH_E2E_OTHER_AGENT").map(PathBuf::from);
    let agent = agent.expect("HUTCH_E2E_OTHER_AGENT is set: run `cargo xtask test`");
    let (dir, archive) = (root.at("/tmp/initrd"), root.at("/tmp/initrd.cpio"));
    fs::create_dir(&dir).expect("a directory");
    fs::copy(agent, dir.join("init")).expect("a copy of the agent");
    // The kernel unpacks archives in order, so the later `init` replaces the earlier one.
    shell(
        "cat \"$1\" > \"$2\"; cd \"$3\" && echo init | cpio -o -H newc --quiet >> \"$2\"",
        &[&guest_file("initramfs.cpio"), &archive, &dir],
    );
    archive
}

/// A copy of the assets of this kind of kernel, and of the agent, that every user can read.
pub fn readable_guest_assets(root: &RootFs, kernel: &str) -> (PathBuf, PathBuf) {
    let (from, to, agent) = (guest_dir(), root.at("/guest"), root.at("/agent"));
    fs::create_dir(&to).expect("a directory");
    let files = fs::read_link(from.join(kernel)).expect("an asset is a link to its directory");
    let mut copy = Command::new("cp");
    copy.arg("-a").args([from.join(kernel), from.join(files)]).arg(&to);
    assert!(copy.status().expect("cp runs").success());
    let from = std::env::var_os("HUTCH_AGENT").expect("HUTCH_AGENT is set: run `cargo xtask test`");
    fs::copy(from, &agent).expect("a copy of the agent");
    (to, agent)
}

fn shell(script: &str, paths: &[&Path]) {
    let status = Command::new("sh").args(["-ec", script, "sh"]).args(paths).status().expect("sh runs");
    assert!(status.success(), "{script}: {status}");
}
