//! The reach of the process that holds a machine, a pod's or that of `hutch run`: files, namespaces, capabilities.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hutch_e2e::{hutch_path, kernels, readable_guest_assets, Hutch, Image, Pods, RootFs, Snapshot, HANG_TIMEOUT};
use hutch_takeover::{expect_forbidden, threads, Outcome, Taken, Thread};

/// `/proc/PID` of a pod's VMM process.
fn proc_of(pods: &Pods, pod: &str) -> PathBuf {
    let pid = pods.status(pod, "/vmm_pid").as_u64().filter(|pid| *pid > 0).expect("a running pod has a VMM process");
    Path::new("/proc").join(pid.to_string())
}

fn namespace(proc: &Path, kind: &str) -> u64 {
    fs::metadata(proc.join("ns").join(kind)).expect("a namespace").ino()
}

/// The mount points that a process sees.
fn mount_points(proc: &Path) -> BTreeSet<String> {
    let table = fs::read_to_string(proc.join("mountinfo")).expect("its mounts");
    table.lines().filter_map(|line| Some(line.split(' ').nth(4)?.to_owned())).collect()
}

#[test]
fn the_process_of_a_machine_sees_its_shares_and_no_other_file() {
    let pods = Pods::new();
    let volume = tempfile::tempdir().expect("a directory");
    let before = Snapshot::take();
    fs::write(volume.path().join("data"), "text").expect("a file");
    let bind = |name: &str, mode: &str| format!("{}:/{name}:{mode}", volume.path().display());
    let (first, second) = (bind("first", "ro"), bind("second", "rw"));
    let made = pods.new_pod("run", "p").args(["-d", "-v", &first, "-v", &second]).sh("sleep 1000");
    made.end().expect_code(0);

    let (vmm, own) = (proc_of(&pods, "p"), Path::new("/proc/self"));
    for kind in ["mnt", "ipc", "uts", "pid", "net"] {
        assert_ne!(namespace(&vmm, kind), namespace(own, kind), "{kind}");
    }
    let jail = pods.status("p", "/jail").as_str().unwrap_or_default().to_owned();
    for layer in ["seccomp, landlock ", ", root private, ns mnt,pid,ipc,uts,net, caps fs 7 + lease; without own uid"] {
        assert!(jail.contains(layer), "{jail}");
    }
    let status = fs::read_to_string(vmm.join("status")).expect("its status");
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("its ids");
    assert!(ids.ends_with("\t1"), "the only process of its namespace: {ids}");
    let points = mount_points(&vmm);
    let outside = |point: &&String| !["/", "/proc/self", "/shares/0"].contains(&point.as_str());
    let outside: Vec<&String> =
        points.iter().filter(outside).filter(|point| !point.starts_with("/shares/0/")).collect();
    assert!(outside.is_empty(), "{outside:?}");
    let root = vmm.join("root");
    for path in ["etc", "dev", "usr", "proc/1", "proc/sys"] {
        assert!(!root.join(path).exists(), "{path}");
    }

    // A container that comes later, with another bind.
    let rootfs = pods.root().path().to_string_lossy().into_owned();
    let late = bind("late", "ro");
    let words = ["container", "create", "p", "--name", "c", "--rootfs", &rootfs, "-v", &late];
    pods.hutch(&words).args(["--", "/bin/sleep", "1000"]).end().expect_code(0);
    pods.ok(&["container", "start", "p", "c"]);
    let seen = pods.exec("p", "c", "cat /late/data; echo no > /late/data && echo written; exit 0");
    seen.expect_text("text");
    // The process's own copies are read-only mounts: it could not write to them either.
    let shared = root.join("shares/0");
    let mut refused = 0;
    for entry in fs::read_dir(&shared).expect("the share").map(|entry| entry.expect("an entry").path()) {
        if entry.join("data").exists() {
            match fs::write(entry.join("data"), "text") {
                Ok(()) => {}
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{}", entry.display());
                    refused += 1;
                }
            }
        }
    }
    assert_eq!(refused, 2, "of three binds, one is for writing");
    pods.ok(&["container", "rm", "-f", "p", "c"]);
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
    before.expect_no_leaks();
}

/// CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID and SETFCAP (capabilities(7)).
const FILE_SERVER: u64 = 0x8000_00db;
const LEASE: u64 = 1 << 28;

#[test]
fn only_the_threads_that_serve_files_keep_capabilities() {
    let pods = Pods::new();
    pods.new_pod("run", "p").args(["-d"]).sh("sleep 1000").end().expect_code(0);
    let mut kinds = BTreeSet::new();
    for task in fs::read_dir(proc_of(&pods, "p").join("task")).expect("its threads") {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(task.expect("a thread").path().join("status")) else { continue };
        let line = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).expect("a line").to_owned()
        };
        let name = line("Name");
        let allowed = match name.as_str() {
            "maker" => FILE_SERVER | LEASE,
            "images" => LEASE,
            name if name.starts_with("share") => FILE_SERVER,
            _ => 0,
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            let has = u64::from_str_radix(&line(set), 16).expect("a number");
            assert_eq!(has & !allowed, 0, "{name}: {set}");
        }
        kinds.insert(name);
    }
    for name in ["vcpu0", "vsock", "share0.0", "maker", "control"] {
        assert!(kinds.contains(name), "{name} in {kinds:?}");
    }
    // A user's files in a share, as before.
    let script =
        "mkdir /tmp/d && chown 1000:1000 /tmp/d && touch /tmp/d/f && chown 5:6 /tmp/d/f && chmod 2755 /tmp/d && \
                  ln /tmp/d/f /tmp/d/g && stat -c '%u:%g %a %h' /tmp/d/f /tmp/d";
    pods.exec("p", "p", script).expect_code(0).expect_text("5:6 644 2\n1000:1000 2755 2\n");
    pods.ok(&["pod", "rm", "-f", "p"]);
}

#[test]
fn a_machine_without_jail_keeps_namespaces_and_root_of_its_caller() {
    let pods = Pods::new();
    pods.new_pod("run", "p").args(["-d", "--no-jail"]).sh("sleep 1000").end().expect_code(0);
    let (vmm, own) = (proc_of(&pods, "p"), Path::new("/proc/self"));
    for kind in ["mnt", "ipc", "uts", "pid"] {
        assert_eq!(namespace(&vmm, kind), namespace(own, kind), "{kind}");
    }
    assert!(vmm.join("root/etc").exists(), "it has the host's root directory");
    assert_eq!(pods.status("p", "/jail").as_str(), Some("off"));
    assert_eq!(namespace(&vmm, "net"), namespace(own, "net"));
    pods.ok(&["pod", "rm", "-f", "p"]);
}

/// The lowest id of a machine without shares.
const FIRST_ID: u32 = 0x7000_0000;

/// User, group and effective capabilities of each thread.
fn credentials(proc: &Path) -> BTreeSet<(String, String, u64)> {
    let tasks = fs::read_dir(proc.join("task")).expect("its threads");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let fields = statuses.map(|status| {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
            line.split_whitespace().next().expect("a value").to_owned()
        };
        (field("Uid:"), field("Gid:"), u64::from_str_radix(&field("CapEff:"), 16).expect("a number"))
    });
    fields.collect()
}

#[test]
fn a_machine_on_an_image_has_no_network_and_a_user_of_its_own() {
    let root = RootFs::new();
    let image = Image::of(&root, 24);
    let dir = tempfile::tempdir().expect("a directory for root only");
    let marks = dir.path().join("marks");
    let kernel = kernels().pop().expect("a kind of kernel");
    let run = || Hutch::new("run").args(["--rootfs".as_ref(), image.path().as_os_str()]).kernel(&kernel);

    let running = run().sh("exec sleep 1000").start();
    let proc = Path::new("/proc").join(running.pid().to_string());
    let id = (FIRST_ID + running.pid() as u32).to_string();
    let begin = Instant::now();
    // From the start of its threads to the moment when the first one has followed them.
    loop {
        let seen = credentials(&proc);
        let confined = |(user, group, capabilities): &(String, String, u64)| {
            *user == id && *group == id && *capabilities & !LEASE == 0
        };
        if seen.iter().all(confined) {
            break;
        }
        assert!(begin.elapsed() < HANG_TIMEOUT, "{seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_ne!(namespace(&proc, "net"), namespace(Path::new("/proc/self"), "net"));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.end(HANG_TIMEOUT);

    let run = run().args(["--verbose".as_ref(), "--marks".as_ref(), marks.as_os_str()]);
    let said = ["jail: seccomp, landlock ", "root private, ns mnt,ipc,uts,net, uid 1879", "caps lease"];
    run.sh("echo written > /root/file; exit 3").end().expect_code(3).expect_complaint(&said);
    assert_eq!(image.cat("/root/file"), "written\n");
    let marks = fs::read_to_string(&marks).expect("the marks");
    assert!(marks.contains("user_exits"), "{marks}");
}

/// The process id that a process has in its own namespace.
fn own_id(pid: i32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("its ids");
    ids.split_whitespace().next_back().and_then(|id| id.parse().ok()).expect("a number")
}

/// Takes each thread of a process over and makes it do what no thread may; `more` does what depends on the process. Returns the
/// names of the threads.
fn take_all_over(pid: i32, more: impl Fn(&Taken, &str)) -> BTreeSet<String> {
    let own = own_id(pid);
    let mut names = BTreeSet::new();
    for Thread { id, name } in threads(pid) {
        // A thread may end meanwhile.
        let Some(taken) = Taken::take(id) else { continue };
        expect_forbidden(&taken, &name, own);
        more(&taken, &name);
        names.insert(name);
    }
    names
}

fn open(taken: &Taken, path: &str) -> Outcome {
    let at = libc::AT_FDCWD as u64;
    taken.act(libc::SYS_openat, [at, 0, libc::O_RDONLY as u64, 0, 0, 0], Some((1, path)))
}

#[test]
fn no_thread_of_a_real_guests_machine_or_shim_can_do_what_an_attacker_would_do_next() {
    let pods = Pods::new();
    pods.new_pod("run", "p").args(["-d"]).sh("sleep 1000").end().expect_code(0);
    let pid = |value: serde_json::Value| value.as_i64().filter(|pid| *pid > 0).expect("a process id") as i32;
    let vmm = pid(pods.status("p", "/vmm_pid"));
    let shim = pid(pods.status("p", "/containers/0/pid"));

    let [missing, refused] = [libc::ENOENT, libc::EACCES].map(|errno| Outcome::Result(-i64::from(errno)));
    let names = take_all_over(vmm, |taken, name| {
        // None of these is in the process's root directory; in threads that open no files the filter says so.
        for path in ["/etc/passwd", "/../../etc/passwd", "/proc/1/root/etc/passwd", "/dev/kvm", "/dev/mem", "/run"] {
            let outcome = open(taken, path);
            assert!(outcome == missing || outcome == refused, "{path} in {name}: {outcome:?}");
        }
        if name.starts_with("share") {
            let outcome = open(taken, "/shares/0");
            let Outcome::Result(fd @ 0..) = outcome else { panic!("its share in {name}: {outcome:?}") };
            assert_eq!(taken.act(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0], None), Outcome::Result(0), "{name}");
        }
    });
    for name in ["vcpu0", "vsock", "share0.0", "maker", "control"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
    // A shim has the host's root directory, and Landlock leaves it the pod's records.
    let names = take_all_over(shim, |taken, name| {
        for path in ["/etc/passwd", "/proc/1/status", "/dev/kvm"] {
            assert_eq!(open(taken, path), refused, "{path} in {name}");
        }
    });
    assert!(!names.is_empty());

    // All of them go on as before.
    pods.exec("p", "p", "echo alive > /tmp/f && cat /tmp/f").expect_code(0).expect_text("alive\n");
    pods.ok(&["pod", "rm", "-f", "p"]);
}

/// Waits until `is` holds.
#[track_caller]
fn wait_until(what: &str, is: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < HANG_TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_thread_of_hutch_run_can_do_what_an_attacker_would_do_next() {
    let root = RootFs::new();
    let volume = tempfile::tempdir().expect("a directory");
    fs::write(volume.path().join("data"), "text").expect("a file");
    let bind = format!("{}:/volume:ro", volume.path().display());
    let script = "cat /volume/data > /seen; trap 'echo asked > /end; exit 5' TERM; while :; do sleep 1; done";
    let running = Hutch::run(&root).args(["-v", &bind]).sh(script).start();
    wait_until("the command runs", || fs::read(root.at("/seen")).is_ok_and(|text| text == b"text"));

    let (proc, own) = (Path::new("/proc").join(running.pid().to_string()), Path::new("/proc/self"));
    for kind in ["mnt", "ipc", "uts", "net"] {
        assert_ne!(namespace(&proc, kind), namespace(own, kind), "{kind}");
    }
    let points = mount_points(&proc);
    let outside = |point: &&String| !["/", "/proc/self"].contains(&point.as_str()) && !point.starts_with("/shares/");
    let outside: Vec<&String> = points.iter().filter(outside).collect();
    assert!(outside.is_empty() && points.contains("/shares/1"), "{points:?}");
    let refused = fs::write(proc.join("root/shares/1/data"), "text").expect_err("a mount for reading");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));

    let [missing, refused] = [libc::ENOENT, libc::EACCES].map(|errno| Outcome::Result(-i64::from(errno)));
    let names = take_all_over(running.pid(), |taken, name| {
        for path in ["/etc/passwd", "/../../etc/passwd", "/proc/1/root/etc/passwd", "/dev/kvm", "/dev/mem", "/run"] {
            let outcome = open(taken, path);
            assert!(outcome == missing || outcome == refused, "{path} in {name}: {outcome:?}");
        }
    });
    let first = fs::read_to_string(proc.join("comm")).expect("the name of its first thread");
    for name in [first.trim_end(), "signals", "vm-watch", "stdio-out", "vcpu0", "vsock", "root.0", "maker"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }

    // All of them go on as before.
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.end(HANG_TIMEOUT).expect_code(5);
    assert_eq!(fs::read_to_string(root.at("/end")).expect("the command's file"), "asked\n");
}

#[test]
fn an_ordinary_users_machine_without_shares_has_namespaces_too() {
    let device = fs::metadata("/dev/kvm").expect("a KVM");
    let user = 1000;
    // As in a distribution: a group may use it. Its owner here is the test.
    std::os::unix::fs::chown("/dev/kvm", None, Some(user)).expect("root may");
    fs::set_permissions("/dev/kvm", std::os::unix::fs::PermissionsExt::from_mode(0o660)).expect("root may");
    let (root, kernel) = (RootFs::new(), kernels().pop().expect("a kind of kernel"));
    let program = root.at("/hutch");
    fs::copy(hutch_path(), &program).expect("a copy of hutch");
    let (guest, agent) = readable_guest_assets(&root, &kernel);
    let image = Image::of(&RootFs::new(), 24);
    std::os::unix::fs::chown(image.path(), Some(user), Some(user)).expect("root may");
    let setpriv = ["--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs"];
    let run = Hutch::program("/usr/bin/setpriv").args(setpriv).args([program.as_os_str()]);
    let run = run.args(["run", "--verbose", "--kernel", &kernel, "--rootfs"]).args([image.path()]);
    let run = run.args(["--guest-dir".as_ref(), guest.as_os_str()]).env("HUTCH_AGENT", &agent.to_string_lossy());
    let ended = run.sh("id -u; echo written > /root/file; exit 3").end();
    std::os::unix::fs::chown("/dev/kvm", None, Some(device.gid())).expect("root may");
    fs::set_permissions("/dev/kvm", device.permissions()).expect("root may");
    let said = ["jail: seccomp, landlock ", "root private, ns user,mnt,ipc,uts,net", "without own uid (not root)"];
    ended.expect_code(3).expect_text("0\n").expect_complaint(&said);
    assert_eq!(image.cat("/root/file"), "written\n");
}

#[test]
fn a_forbidden_call_of_a_real_guests_machine_is_the_pods_reason() {
    let pods = Pods::new();
    pods.new_pod("run", "p").args(["-d"]).sh("sleep 1000").end().expect_code(0);
    let vmm = pods.status("p", "/vmm_pid").as_i64().expect("a process id") as i32;
    let vcpu = threads(vmm).into_iter().find(|thread| thread.name == "vcpu0").expect("a vCPU");
    Taken::take(vcpu.id).expect("it runs").violate(libc::SYS_execve, [0; 6], Some((0, "/bin/true")));
    let waited = pods.hutch(&["pod", "wait", "p"]).end();
    waited.expect_code(1);
    let reason = pods.status("p", "/reason");
    let named = "the jail ended this process: thread vcpu0 made the system call execve (59)";
    assert!(reason.as_str().is_some_and(|reason| reason.contains(named)), "{reason}");
    pods.ok(&["pod", "rm", "-f", "p"]);
}
