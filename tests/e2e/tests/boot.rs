//! A guest boots, runs a command and returns its output and exit code, for all sizes of machines and all kernels.

use hutch_e2e::{kernels, Hutch, RootFs};

#[test]
fn output_and_exit_code_come_back_with_each_kernel() {
    let root = RootFs::new();
    for kernel in kernels() {
        Hutch::run(&root).kernel(&kernel).sh("echo hi; exit 7").end().expect_code(7).expect_text("hi\n");
    }
}

#[test]
fn the_guest_has_the_cpus_it_was_given() {
    let root = RootFs::new();
    for kernel in kernels() {
        for cpus in ["1", "4"] {
            let run = Hutch::run(&root).kernel(&kernel).args(["--cpus", cpus]);
            run.sh("grep -c ^processor /proc/cpuinfo").end().expect_code(0).expect_text(&format!("{cpus}\n"));
        }
    }
}

/// Memory size as the guest sees it, for sizes below and above the device hole under 4 GiB.
#[test]
fn the_guest_has_the_memory_it_was_given() {
    let root = RootFs::new();
    for kernel in kernels() {
        // Debian's kernel with its modules runs out of memory in 64 MiB.
        let smallest = if kernel == "distro" { 80 } else { 64 };
        for mib in [smallest, 128, 512, 1024, 3072, 5120] {
            let run = Hutch::run(&root).kernel(&kernel).args(["--memory", &format!("{mib}M")]);
            let ended = run.sh("grep MemTotal /proc/meminfo").end().expect_code(0);
            let total = ended.text().split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
            let total = total.unwrap_or_else(|| panic!("no MemTotal: {ended}")) / 1024;
            // The kernel reserves its image and its page array: a fixed part and 1.6 %. With memory above 4 GiB it also
            // reserves 64 MiB of bounce buffers (Documentation/core-api/swiotlb.rst).
            let bounce_buffers = if mib > 3072 { 64 } else { 0 };
            let least = mib - mib / 40 - 52 - bounce_buffers;
            assert!(total <= mib && total >= least, "{mib} MiB given, {total} MiB seen with the {kernel} kernel");
        }
    }
}

/// There is RAM on both sides of the hole, and writes above it do not show up below it.
#[test]
fn memory_above_4_gib_is_real() {
    let root = RootFs::new();
    let script = "grep -c 'System RAM' /proc/iomem; grep '^ *100000000-' /proc/iomem
        mount -t tmpfs -o size=90% none /mnt || exit 9
        for n in 1 2 3; do for i in $(seq 64); do dd if=/bin/busybox bs=1M 2>/dev/null; echo $n; done > /mnt/$n; done
        for n in 1 2 3; do sha256sum < /mnt/$n; done; for n in 1 2 3; do sha256sum < /mnt/$n; done";
    // Memory that is plugged in later has other addresses.
    let args = ["--memory", "5G", "--memory-growth", "off", "--cpus", "2"];
    let run = Hutch::run(&root).args(args);
    let ended = run.sh(script).end().expect_code(0);
    let text = ended.text();
    assert!(text.contains("100000000-17fffffff : System RAM"), "{ended}");
    let sums: Vec<&str> = text.lines().filter(|line| line.ends_with('-')).collect();
    assert_eq!(sums.len(), 6, "{ended}");
    assert_eq!(sums[..3], sums[3..], "{ended}");
    assert_eq!(std::collections::BTreeSet::from_iter(&sums).len(), 3, "{ended}");
}

#[test]
fn many_cpus_all_do_work() {
    let root = RootFs::new();
    let script = "for i in 1 2 3 4; do (n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; echo $n) & done; wait";
    Hutch::run(&root).args(["--cpus", "4"]).sh(script).end().expect_code(0).expect_text("20000\n20000\n20000\n20000\n");
}

#[test]
fn the_clock_is_the_hosts() {
    let root = RootFs::new();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let before = now();
    let ended = Hutch::run(&root).sh("date +%s").end().expect_code(0);
    let inside: u64 = ended.text().trim().parse().unwrap_or_else(|_| panic!("no time: {ended}"));
    assert!((before..=now()).contains(&inside), "host {before}..{}, guest {inside}", now());
}

/// Without an invariant TSC on the host, KVM may take the guest's TSC for 0. Each timer then fires late by the TSC's
/// value.
#[test]
fn timers_of_the_guest_do_not_fire_late() {
    let root = RootFs::new();
    let script = "now() { cut -d. -f1 /proc/uptime; }; begin=$(now); for i in $(seq 10); do sleep 0.3; done; echo $(($(now) - begin))";
    for cpus in ["1", "2"] {
        // Three seconds for the guest. A busy host may hold it up, but not every time.
        let slept = || -> u64 {
            let ended = Hutch::run(&root).args(["--cpus", cpus]).sh(script).end().expect_code(0);
            ended.text().trim().parse().unwrap_or_else(|_| panic!("no number: {ended}"))
        };
        assert!((0..3).any(|_| slept() < 20), "timers fire late with {cpus} vCPUs");
    }
}

#[test]
fn verbose_tells_the_phases_with_times() {
    let root = RootFs::new();
    let ended = Hutch::run(&root).args(["--verbose"]).sh("true").end().expect_code(0).expect_text("");
    let timed = ended.stderr.lines().filter(|line| line.contains("ms")).count();
    assert!(timed >= 4, "fewer than four phases: {ended}");
}

#[test]
fn the_console_goes_to_a_file_on_request_and_nowhere_else() {
    let root = RootFs::new();
    let log = root.at("/console.log");
    let run = Hutch::run(&root).args(["--console".as_ref(), log.as_os_str()]).args(["--append", "ignore_loglevel"]);
    let ended = run.sh("echo out").end().expect_code(0).expect_text("out\n");
    assert_eq!(ended.stderr, "");
    let text = std::fs::read_to_string(&log).expect("a console log");
    assert!(text.contains("Linux version"), "{text}");
}
