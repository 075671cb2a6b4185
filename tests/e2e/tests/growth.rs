//! Machines that boot with a part of their memory and have the rest plugged in before the command starts.

use std::fs;
use std::time::Duration;

use hutch_e2e::{kernels, Ended, Hutch, RootFs};

/// Whether the last kind of kernel, which these tests run, is one that hutch lets grow by itself.
fn grows() -> bool {
    kernels().pop().is_some_and(|kernel| kernel == "source")
}

/// What `MemTotal` of /proc/meminfo says, in MiB.
fn total_mib(text: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).expect("a line of /proc/meminfo");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib >> 10
}

fn marks(root: &RootFs, run: Hutch) -> (Ended, String) {
    let file = root.at("/marks.json");
    let ended = run.args(["--marks".as_ref(), file.as_os_str()]);
    let ended = ended.args(["--", "/bin/cat", "/proc/meminfo"]).patience(Duration::from_secs(180)).end();
    (ended.expect_code(0), fs::read_to_string(file).expect("marks"))
}

#[test]
fn a_command_finds_all_its_memory_at_its_first_look() {
    let root = RootFs::new();
    let (ended, marks) = marks(&root, Hutch::run(&root).args(["--memory", "3G"]));
    let total = total_mib(&ended.text());
    assert!((2900..=3072).contains(&total), "{total} MiB of 3072; {ended}");
    assert_eq!(marks.contains("memory-plugged"), grows(), "{marks}");
}

#[test]
fn a_machine_does_not_grow_if_it_is_told_not_to_or_is_small() {
    for options in [["--memory", "3G", "--memory-growth", "off"], ["--memory", "256M", "--memory-growth", "auto"]] {
        let root = RootFs::new();
        let (ended, marks) = marks(&root, Hutch::run(&root).args(options));
        assert!(total_mib(&ended.text()) > 190, "{ended}");
        assert!(!marks.contains("memory-plugged"), "{options:?}: {marks}");
    }
}

/// Files go by virtio-fs into memory that was not there at boot, fill several times what was, and come out by vsock.
#[test]
fn plugged_memory_takes_files_and_gives_them_back() {
    let root = RootFs::new();
    let pattern: Vec<u8> = (0..96u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(root.at("/data"), &pattern).expect("a file");
    let script = "set -e; for n in 1 2 3 4; do cp /data /memory/$n; done; cat /memory/4 >&2; cat /memory/1";
    let run = Hutch::run(&root).args(["--memory", "1700M", "--tmpfs", "/memory:size=90%"]).sh(script);
    let ended = run.patience(Duration::from_secs(240)).end().expect_code(0);
    assert!(ended.stdout == pattern, "{} bytes came back, not the ones that went in", ended.stdout.len());
}

/// What the kernel derives from memory at boot is as with all of it.
#[test]
fn limits_of_the_guest_are_those_of_its_whole_memory() {
    let limits = |growth: &str| {
        let root = RootFs::new();
        let script = "cat /proc/sys/kernel/threads-max /proc/sys/fs/file-max; cut -f3 /proc/sys/net/ipv4/tcp_mem; \
                      ulimit -u; df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2";
        let run = Hutch::run(&root).args(["--memory", "2G", "--memory-growth", growth]).sh(script);
        let text = run.patience(Duration::from_secs(180)).end().expect_code(0).text();
        text.split_whitespace().map(|n| n.parse().expect("a number")).collect::<Vec<f64>>()
    };
    let (grown, whole) = (limits("auto"), limits("off"));
    assert_eq!((grown.len(), whole.len()), (5, 5));
    for (grown, whole) in grown.iter().zip(&whole) {
        assert!((0.85..=1.2).contains(&(grown / whole)), "{grown} and {whole} of {grown:?} and {whole:?}");
    }
}

/// The whole of a guest that cannot add memory is not started without it.
#[test]
fn a_guest_that_does_not_take_its_memory_is_told_apart() {
    if grows() {
        // Its driver is told to stay away.
        let root = RootFs::new();
        let options = ["--memory", "2G", "--append", "initcall_blacklist=virtio_mem_driver_init"];
        let ended = Hutch::run(&root).args(options).sh("echo ran").patience(Duration::from_secs(180)).end();
        ended.expect_code(125).expect_text("").expect_complaint(&["memory", "virtio_mem", "--memory-growth"]);
    } else {
        let root = RootFs::new();
        let ended = Hutch::run(&root).args(["--memory", "1G", "--memory-growth", "on"]).sh("echo ran").end();
        ended.expect_code(125).expect_text("").expect_complaint(&["memory", "virtio_mem", "--memory-growth"]);
    }
}
