//! `hutch boot`: kernels and initrds that hutch did not build, in each format, without the agent.

use std::path::PathBuf;

use hutch_e2e::{guest_dir, kernels, Hutch, RootFs};

/// An init that says hello and powers off.
const INIT: &str = "#!/bin/sh
mount -t proc none /proc
echo hello from $(uname -r) with $(grep -c ^processor /proc/cpuinfo) cpus
poweroff -f
";

fn images() -> Vec<PathBuf> {
    let mut images: Vec<PathBuf> = kernels().iter().map(|kind| guest_dir().join(kind).join("vmlinux")).collect();
    let image = std::env::var_os("HUTCH_E2E_BZIMAGE");
    images.push(image.expect("HUTCH_E2E_BZIMAGE is set: run `cargo xtask test`").into());
    images
}

#[test]
fn elf_files_and_bzimages_boot_with_one_cpu_and_with_four() {
    let root = RootFs::new();
    let initrd = root.initrd(INIT);
    for kernel in images() {
        for cpus in ["1", "4"] {
            let run = Hutch::new("boot").args(["--kernel".as_ref(), kernel.as_os_str()]).args(["--cpus", cpus]);
            let run = run.args(["--initrd".as_ref(), initrd.as_os_str()]).args(["--append", "console=ttyS0 quiet"]);
            let ended = run.end().expect_code(0);
            let hello =
                ended.text().lines().any(|l| l.contains("hello from") && l.contains(&format!("with {cpus} cpus")));
            assert!(hello, "{}: {ended}", kernel.display());
        }
    }
}

#[test]
fn a_kernel_without_a_root_panics_and_that_is_reported() {
    for kernel in images() {
        let run = Hutch::new("boot").args(["--kernel".as_ref(), kernel.as_os_str()]);
        run.args(["--append", "console=ttyS0"]).end().expect_code(125).expect_complaint(&["panic", "root"]);
    }
}

/// Only our own kernel has virtio-blk built in and knows both ways. (`--quick` skips tests named `source_kernel_…`.)
#[test]
fn source_kernel_finds_devices_through_acpi_and_on_the_command_line() {
    let root = RootFs::new();
    // Without ACPI the guest cannot power off; it can only use the keyboard controller's reset.
    let initrd =
        root.initrd("#!/bin/sh\nmount -t proc none /proc\nmount -t sysfs none /sys\nls /sys/block\nreboot -f\n");
    let disk = root.at("/disk");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a disk image");
    let kernel = guest_dir().join("source/vmlinux");
    for discovery in ["acpi", "cmdline"] {
        let run = Hutch::new("boot").args(["--kernel".as_ref(), kernel.as_os_str()]);
        let run = run.args(["--initrd".as_ref(), initrd.as_os_str()]).args(["--discovery", discovery]);
        let run = run.args(["--disk".as_ref(), disk.as_os_str()]).args(["--append", "console=ttyS0 quiet"]);
        let ended = run.end().expect_code(0);
        assert!(ended.text().contains("vda"), "{discovery}: {ended}");
    }
}
