//! Bad input and bad guests: each failure has its own error, which names the cause, and exit code 125.

use std::fs;
use std::time::Duration;

use hutch_e2e::{guest_file, hutch_path, readable_guest_assets, Hutch, RootFs, TinyKernel, HANG_TIMEOUT};
use nix::sys::signal::Signal;

/// Runs `true` with these options and expects hutch's own failure, with these words in the complaint.
#[track_caller]
fn refused(options: &[&str], words: &[&str]) {
    let root = RootFs::new();
    let ended = Hutch::run(&root).args(options).sh("echo ran").end();
    ended.expect_code(125).expect_text("").expect_complaint(words);
}

#[test]
fn a_missing_rootfs_or_one_that_is_a_file_is_named() {
    let run = |path: &str| Hutch::new("run").args(["--rootfs", path, "--", "/bin/true"]).end().expect_code(125);
    run("/no/such/root").expect_complaint(&["/no/such/root", "rootfs"]);
    run("/etc/passwd").expect_complaint(&["/etc/passwd", "director"]);
}

#[test]
fn impossible_sizes_are_refused() {
    refused(&["--memory", "0"], &["memory"]);
    refused(&["--memory", "100T"], &["memory"]);
    refused(&["--memory", "much"], &["memory", "much"]);
    refused(&["--cpus", "0"], &["cpu"]);
    refused(&["--cpus", "1000"], &["cpu", "1000"]);
    refused(&["--cpus", "-1"], &["cpu"]);
}

#[test]
fn bad_kernels_are_refused() {
    let root = RootFs::new();
    let vmlinux = fs::read(guest_file("vmlinux")).expect("a kernel");
    let with = |name: &str, bytes: &[u8], words: &[&str]| {
        let path = root.at(name);
        fs::write(&path, bytes).expect("a file");
        let run = Hutch::run(&root).kernel(&path);
        run.sh("echo ran").end().expect_code(125).expect_text("").expect_complaint(words);
    };
    for path in ["/no/such/kernel", "/etc"] {
        Hutch::run(&root).kernel(path).sh("echo ran").end().expect_code(125).expect_text("").expect_complaint(&[path]);
    }
    with("/empty", b"", &["/empty"]);
    with("/garbage", &[0x5a; 100_000], &["/garbage"]);
    with("/text", b"#!/bin/sh\necho not a kernel\n", &["/text"]);
    with("/header-only", &vmlinux[..64], &["/header-only"]);
    with("/truncated", &vmlinux[..vmlinux.len() / 2], &["/truncated"]);
}

#[test]
fn bad_initrds_are_refused_or_reported() {
    let root = RootFs::new();
    refused(&["--initrd", "/no/such/initrd"], &["/no/such/initrd"]);
    refused(&["--initrd", "/etc"], &["/etc"]);
    for (name, bytes) in [("/empty", Vec::new()), ("/garbage", vec![0x5a; 100_000])] {
        let path = root.at(name);
        fs::write(&path, bytes).expect("a file");
        let run = Hutch::run(&root).args(["--initrd".as_ref(), path.as_os_str()]);
        run.sh("echo ran").end().expect_code(125).expect_text("").expect_complaint(&[]);
    }
}

#[test]
fn a_kernel_larger_than_memory_is_refused() {
    refused(&["--memory", "16M"], &["memory"]);
}

#[test]
fn an_unwritable_console_file_is_named() {
    refused(&["--console", "/no/such/dir/console"], &["/no/such/dir/console"]);
    refused(&["--console", "/etc"], &["/etc"]);
}

#[test]
fn missing_guest_assets_come_with_the_command_that_makes_them() {
    refused(&["--guest-dir", "/no/such/guest"], &["/no/such/guest", "hutch guest build"]);
}

#[test]
fn a_host_without_kvm_is_told_so() {
    let root = RootFs::new();
    let hide = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec \"$0\" \"$@\"";
    let run = Hutch::program("/usr/bin/unshare").args(["-m", "sh", "-c", hide]);
    let run = run.args([hutch_path().as_os_str()]).args(["run", "--rootfs"]).args([root.path()]);
    run.sh("echo ran").end().expect_code(125).expect_text("").expect_complaint(&["/dev/kvm"]);
}

#[test]
fn a_user_without_permission_is_told_so() {
    let root = RootFs::new();
    // The build directory may be readable by root only.
    let program = root.at("/hutch");
    fs::copy(hutch_path(), &program).expect("a copy of hutch");
    let (guest, agent) = readable_guest_assets(&root, "distro");
    let run = Hutch::program("/usr/bin/setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    let run = run.args([program.as_os_str()]).args(["run", "--rootfs"]).args([root.path()]);
    let run = run
        .args(["--kernel", "distro"])
        .args(["--guest-dir".as_ref(), guest.as_os_str()])
        .env("HUTCH_AGENT", &agent.to_string_lossy());
    let ended = run.sh("echo ran").end();
    ended.expect_code(125).expect_text("").expect_complaint(&["/dev/kvm", "permission"]);
}

#[test]
fn a_guest_panic_is_reported_with_the_last_console_lines() {
    let root = RootFs::new();
    // Our own kernel has no sysrq.
    let run = Hutch::run(&root).kernel("distro");
    let ended = run.sh("echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger; sleep 60").end();
    ended.expect_code(125).expect_complaint(&["kernel panicked", "last lines of the guest's console"]);
}

/// Inside the guest, SIGKILL does nothing to pid 1. Zeros over its code crash it when the end of the command wakes it.
#[test]
fn the_death_of_the_guests_init_is_reported() {
    let root = RootFs::new();
    let script = "start=$(grep -m1 r-xp /proc/1/maps); start=${start%%-*}; pages=$((0x$start / 4096))
        dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$pages count=100 conv=notrunc; echo $?; exit 3";
    Hutch::run(&root).sh(script).end().expect_code(125).expect_complaint(&["panic"]);
}

#[test]
fn a_guest_that_powers_itself_off_is_reported() {
    let root = RootFs::new();
    let run = Hutch::run(&root).kernel("distro");
    let ended = run.sh("echo 1 > /proc/sys/kernel/sysrq; echo o > /proc/sysrq-trigger; sleep 60").end();
    ended.expect_code(125).expect_complaint(&["guest"]);
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_124() {
    let root = RootFs::new();
    let ended = Hutch::run(&root).args(["--timeout", "6"]).sh("trap '' TERM; sleep 10000").end();
    assert!(ended.time.as_secs_f64() >= 6.0, "{ended}");
    ended.expect_code(124).expect_complaint(&["6"]);
}

#[test]
fn a_guest_that_hangs_in_its_kernel_is_ended_by_the_timeout() {
    let root = RootFs::new();
    let kernel = TinyKernel::HANGS.write_to(&root);
    let run = Hutch::run(&root).kernel(&kernel).args(["--timeout", "3"]);
    let ended = run.sh("echo ran").end();
    ended.expect_code(124).expect_text("");
}

#[test]
fn a_triple_fault_is_reported_as_one() {
    let root = RootFs::new();
    let kernel = TinyKernel::TRIPLE_FAULTS.write_to(&root);
    let run = Hutch::run(&root).kernel(&kernel);
    let ended = run.sh("echo ran").end();
    ended.expect_code(125).expect_text("").expect_complaint(&["triple fault"]);
}

#[test]
fn an_interrupt_during_boot_ends_hutch_at_once() {
    let root = RootFs::new();
    let kernel = TinyKernel::HANGS.write_to(&root);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let run = Hutch::run(&root).kernel(&kernel).sh("echo ran").start();
        std::thread::sleep(Duration::from_secs(2));
        run.signal(signal);
        let ended = run.end(HANG_TIMEOUT);
        let by_signal = std::os::unix::process::ExitStatusExt::signal(&ended.status) == Some(signal as i32);
        assert!(by_signal || ended.code() == Some(128 + signal as i32), "{ended}");
    }
}

#[test]
fn an_agent_of_another_protocol_version_is_refused() {
    let root = RootFs::new();
    let initrd = hutch_e2e::initrd_with_other_agent(&root);
    let run = Hutch::run(&root).args(["--initrd".as_ref(), initrd.as_os_str()]);
    run.sh("echo ran").end().expect_code(125).expect_text("").expect_complaint(&["version", "agent"]);
}
