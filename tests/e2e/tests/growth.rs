//! Hotplug: memory that hutch plugs in before a command starts, and pods that grow with their containers.

use std::fs;
use std::time::{Duration, Instant};

use hutch_e2e::{kernels, Ended, Hutch, Pods, RootFs, HANG_TIMEOUT};

/// Whether hutch grows machines by default with the last kind of kernel, which these tests use.
fn grows() -> bool {
    kernels().pop().is_some_and(|kernel| kernel == "source")
}

/// `MemTotal` of /proc/meminfo, in MiB.
fn total_mib(text: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).expect("a line of /proc/meminfo");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib >> 10
}

fn marks(root: &RootFs, run: Hutch) -> (Ended, String) {
    let file = root.at("/marks.json");
    let ended = run.args(["--marks".as_ref(), file.as_os_str()]);
    let ended = ended.args(["--", "/bin/cat", "/proc/meminfo"]).end();
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

/// virtio-fs writes files into hotplugged memory, several times the boot size, and vsock reads them back.
#[test]
fn plugged_memory_takes_files_and_gives_them_back() {
    let root = RootFs::new();
    let pattern: Vec<u8> = (0..96u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(root.at("/data"), &pattern).expect("a file");
    let script = "set -e; for n in 1 2 3 4; do cp /data /memory/$n; done; cat /memory/4 >&2; cat /memory/1";
    let run = Hutch::run(&root).args(["--memory", "1700M", "--tmpfs", "/memory:size=90%"]).sh(script);
    let ended = run.end().expect_code(0);
    assert!(ended.stdout == pattern, "{} bytes came back, not the ones that went in", ended.stdout.len());
}

/// Limits that the kernel derives from memory at boot are those of the full size.
#[test]
fn limits_of_the_guest_are_those_of_its_whole_memory() {
    let limits = |growth: &str| {
        let root = RootFs::new();
        let script = "cat /proc/sys/kernel/threads-max /proc/sys/fs/file-max; cut -f3 /proc/sys/net/ipv4/tcp_mem; \
                      ulimit -u; df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2";
        let run = Hutch::run(&root).args(["--memory", "2G", "--memory-growth", growth]).sh(script);
        let text = run.end().expect_code(0).text();
        text.split_whitespace().map(|n| n.parse().expect("a number")).collect::<Vec<f64>>()
    };
    let (grown, whole) = (limits("auto"), limits("off"));
    assert_eq!((grown.len(), whole.len()), (5, 5));
    for (grown, whole) in grown.iter().zip(&whole) {
        assert!((0.85..=1.2).contains(&(grown / whole)), "{grown} and {whole} of {grown:?} and {whole:?}");
    }
}

/// hutch does not start a command in a guest that cannot add its memory.
#[test]
fn a_guest_that_does_not_take_its_memory_is_told_apart() {
    if grows() {
        // This option disables the guest's driver.
        let root = RootFs::new();
        let options = ["--memory", "2G", "--append", "initcall_blacklist=virtio_mem_driver_init"];
        let ended = Hutch::run(&root).args(options).sh("echo ran").end();
        ended.expect_code(125).expect_text("").expect_complaint(&["memory", "virtio_mem", "--memory-growth"]);
    } else {
        let root = RootFs::new();
        let ended = Hutch::run(&root).args(["--memory", "1G", "--memory-growth", "on"]).sh("echo ran").end();
        ended.expect_code(125).expect_text("").expect_complaint(&["memory", "virtio_mem", "--memory-growth"]);
    }
}

/// A pod with one container that sleeps.
fn sleeping(kernel: &str, options: &[&str]) -> Pods {
    let pods = Pods::new();
    let root = pods.root().path().to_string_lossy().into_owned();
    let words = ["pod", "run", "--kernel", kernel, "-m", "192M", "--name", "p", "--rootfs", &root, "-d"];
    let run = pods.hutch(&words).args(options).sh("exec sleep 1000");
    run.end().expect_code(0);
    pods
}

fn create(pods: &Pods, name: &str, limits: &[&str]) {
    let root = pods.root().path().to_string_lossy().into_owned();
    let words = ["container", "create", "p", "--name", name, "--rootfs", &root];
    pods.hutch(&words).args(limits).sh("exec sleep 1000").end().expect_code(0);
}

/// The guest's online processors, and the number of vCPU threads of the VMM process.
fn processors(pods: &Pods) -> (String, usize) {
    let online = pods.exec("p", "p", "cat /sys/devices/system/cpu/online").expect_code(0).text();
    let pid = pods.status("p", "/vmm_pid").as_i64().expect("a process");
    let names = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").filter_map(|task| {
        let name = fs::read_to_string(task.ok()?.path().join("comm")).ok()?;
        name.starts_with("vcpu").then_some(())
    });
    (online.trim().to_owned(), names.count())
}

/// P-183, with every kind of kernel.
#[test]
fn p_183_vcpus_of_a_pods_machine_follow_its_containers() {
    for kernel in kernels() {
        let pods = sleeping(&kernel, &[]);
        let expect = |online: &str, threads: usize| {
            assert_eq!(processors(&pods), (online.to_owned(), threads), "{kernel}");
        };
        expect("0", 1);
        create(&pods, "a", &["--cpus", "0.5"]);
        create(&pods, "b", &["--cpus", "1.2"]);
        expect("0-2", 3);
        pods.ok(&["container", "start", "p", "b"]);
        assert_eq!(pods.exec("p", "b", "nproc").text(), "3\n", "{kernel}");
        // All new processors compute at the same time.
        let busy = "for n in 1 2 3; do seq 20000 | tail -n 1 & done; wait";
        assert_eq!(pods.exec("p", "b", busy).text(), "20000\n".repeat(3), "{kernel}");
        pods.ok(&["container", "rm", "-f", "p", "b"]);
        // The vCPU's thread stays and sleeps.
        expect("0-1", 3);
        pods.ok(&["container", "update", "p", "a", "--cpus", "2"]);
        expect("0-2", 3);
        pods.ok(&["pod", "pause", "p"]);
        pods.ok(&["pod", "resume", "p"]);
        expect("0-2", 3);
        pods.ok(&["container", "rm", "-f", "p", "a"]);
        expect("0", 3);
        pods.ok(&["pod", "rm", "-f", "p"]);
        pods.expect_none();
    }
}

/// A pod never has more vCPUs than it announced at boot; an explicit number is used as it is.
#[test]
fn p_183_a_machine_has_no_more_vcpus_than_its_most() {
    let kernel = kernels().pop().expect("a kind of kernel");
    let pods = sleeping(&kernel, &["--max-cpus", "2"]);
    create(&pods, "a", &["--cpus", "6"]);
    assert_eq!(processors(&pods), ("0-1".to_owned(), 2));
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
}

/// P-184. (`--quick` skips tests named `source_kernel_…`.)
#[test]
fn source_kernel_p_184_memory_of_a_pods_machine_follows_its_containers() {
    let pods = sleeping("source", &["--max-memory", "1G"]);
    let total = || total_mib(&pods.exec("p", "p", "cat /proc/meminfo").expect_code(0).text());
    let plugged = || {
        let record = fs::read_to_string(pods.state("p").join("hypervisor.json")).expect("a record");
        let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
        record.pointer("/data/hotplugged_mib").cloned()
    };
    let first = total();
    assert!((130..=192).contains(&first), "{first} MiB of 192");
    create(&pods, "a", &["-m", "300M"]);
    assert_eq!((total() - first, plugged()), (384, Some(300.into())));
    create(&pods, "b", &["--tmpfs", "/memory"]);
    pods.ok(&["container", "update", "p", "b", "-m", "200M"]);
    assert_eq!((total() - first, plugged()), (512, Some(500.into())));
    pods.ok(&["container", "update", "p", "b", "-m", "5000M"]);
    assert_eq!(total() - first, 768, "the most, in steps of 128 MiB");
    // The memory is usable: this needs more than there was at boot.
    pods.ok(&["container", "start", "p", "b"]);
    let fill = "head -c 250000000 /dev/zero > /memory/f; wc -c < /memory/f; rm /memory/f";
    assert_eq!(pods.exec("p", "b", fill).text(), "250000000\n");
    pods.ok(&["container", "rm", "-f", "p", "b", "a"]);
    assert_eq!(plugged(), Some(0.into()));
    // The guest returns memory when it can.
    let enough = (first + 128) << 10;
    let script = format!(
        "for n in $(seq 300); do t=$(grep MemTotal /proc/meminfo | tr -dc 0-9); \
         [ $t -le {enough} ] && exit 0; sleep 0.1; done; echo $t; exit 1"
    );
    pods.exec("p", "p", &script).expect_code(0);
    create(&pods, "a", &["-m", "256M"]);
    assert!(total() - first >= 256);
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
}

/// P-207: a pod may fill its machine and the tmpfs on which its root lies. If something takes more, its processes end together,
/// and the pod can be removed.
#[test]
fn p_207_a_healthy_pod_never_comes_to_the_limit_and_another_ends() {
    let pods = Pods::new();
    let group = format!("hutch-test-{}", std::process::id());
    let file = |name: &str| format!("/sys/fs/cgroup/{group}/{name}");
    let read = |name: &str| fs::read_to_string(file(name)).expect("a file of the group");
    let config = serde_json::json!({
        "id": "p",
        "cgroup": group,
        "hypervisor": {"memory_mib": 192},
        "containers": [{
            "id": "p",
            "rootfs": pods.root().path(),
            "command": {"args": ["/bin/sh", "-c", "exec sleep 1000"]},
        }],
    });
    let path = pods.root().at("/p.json");
    fs::write(&path, config.to_string()).expect("a file");
    let kernel = kernels().pop().expect("a kind of kernel");
    let run = pods.hutch(&["pod", "run", "-d", "--kernel", &kernel, &path.to_string_lossy()]);
    run.end().expect_code(0);
    let reason = pods.status("p", "/memory_unlimited");
    if reason.as_str().is_some_and(|reason| reason.contains("controller")) {
        let line = format!("SKIPPED: the host has no memory controller for groups: {reason}\n");
        std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes()).expect("stdout");
        pods.ok(&["pod", "rm", "-f", "p"]);
        return pods.expect_none();
    }
    assert_eq!(pods.status("p", "/memory_limited_mib"), 192);
    assert_eq!(read("memory.oom.group").trim(), "1");
    let size = nix::sys::statvfs::statvfs(pods.root().path()).expect("a file system");
    let limit: u64 = read("memory.max").trim().parse().expect("a number");
    let tmpfs = nix::sys::statfs::statfs(pods.root().path()).expect("a file system").filesystem_type();
    let room = if tmpfs == nix::sys::statfs::TMPFS_MAGIC { size.blocks() * size.fragment_size() } else { 0 };
    assert!(limit > (192 << 20) + room, "{limit} with a tmpfs of {room}");
    let script =
        "head -c 60000000 /dev/zero > /dev/shm/f && busybox fallocate -l 1000000000 /big && busybox stat -c %s /big";
    let words = ["container", "exec", "p", "p", "--", "/bin/sh", "-c", script];
    pods.hutch(&words).end().expect_code(0).expect_text("1000000000\n");
    let events = read("memory.events");
    assert!(events.contains("oom_kill 0") && events.contains("\nmax 0\n"), "the limit was reached: {events}");
    // As if the machine took more than it has.
    fs::write(file("memory.max"), "40M").expect("a smaller limit");
    let begin = Instant::now();
    while pods.status("p", "/containers/0/state") == "running" {
        assert!(begin.elapsed() < HANG_TIMEOUT, "{}", read("memory.events"));
        std::thread::sleep(Duration::from_millis(100));
    }
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
    assert!(!std::path::Path::new(&file("")).exists());
}
