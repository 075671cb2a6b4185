//! A machine whose every thread is taken over: a tracer makes each of them do what an attacker would do next.
//!
//! The machine runs in a process of its own, on the scripted hypervisor. Its vCPU activates all devices, so that all their
//! threads exist.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hutch_takeover::{expect_forbidden, threads, Outcome, Taken, Thread};

use crate::arch::x86_64::layout;
use crate::config::{BlockConfig, NetConfig, ShareConfig, SharePolicy, TapSource, VsockConfig};
use crate::confine::helper_tests::skip;
use crate::confine::seccomp::{last_act, VIOLATION};
use crate::confine::Confinement;
use crate::hv::fake::{FakeHypervisor, Scripted};
use crate::testing::{pvh_image, PvhImage};
use crate::{Machine, MachineConfig};

/// Far longer than anything here takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// The thread of the child that builds the machine has the name of its test, of which the kernel keeps so much.
const OWNER: &str = "confine::acts_t";

/// The last act of the machine's process.
const LAST_WORDS: &str = "its last act\n";

/// The writes of a driver that activate the device at `base` with `queues` queues, each in a page of its own. `features`: the
/// low half.
fn activation(base: u64, (queues, features): (u64, u64), pages: &mut u64) -> Vec<Scripted> {
    let store = |register: u64, value: u64| Scripted::Store(base + register, (value as u32).to_le_bytes().to_vec());
    // ACKNOWLEDGE, DRIVER; VIRTIO_F_VERSION_1, FEATURES_OK.
    let mut steps = vec![store(0x70, 1), store(0x70, 3), store(0x24, 0), store(0x20, features)];
    steps.extend([store(0x24, 1), store(0x20, 1), store(0x70, 11)]);
    for queue in 0..queues {
        *pages += 1;
        let page = 0x20_0000 + *pages * 0x1000;
        steps.extend([store(0x30, queue), store(0x38, 8), store(0x80, page), store(0x90, page + 0x400)]);
        steps.extend([store(0xa0, page + 0x800), store(0x44, 1)]);
    }
    steps.push(store(0x70, 15));
    steps
}

fn task_names() -> Vec<String> {
    let names = std::fs::read_dir("/proc/self/task").expect("a mounted /proc").filter_map(|task| {
        // A thread may end meanwhile.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names.map(|name| name.trim_end().to_owned()).collect()
}

/// The child: holds the machine until its stdin ends.
#[test]
#[ignore = "the other half of the tests below"]
fn the_confined_machine() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [kernel, disk, spare] = ["kernel", "disk", "spare"].map(|name| dir.path().join(name));
    std::fs::write(&spare, [0; 4096]).expect("a temporary file");
    std::fs::write(&kernel, pvh_image(&PvhImage::default())).expect("a temporary file");
    std::fs::write(&disk, [0; 4096]).expect("a temporary file");
    let mut config = MachineConfig::new("test", kernel);
    config.confinement = Confinement::Process;
    config.memory.size_mib = 4;
    config.memory.pluggable_mib = 128;
    config.vsock = Some(VsockConfig { guest_cid: 3 });
    config.shares.push(ShareConfig {
        id: "share".into(),
        tag: "share".into(),
        path: dir.path().into(),
        read_only: false,
        only: None,
        policy: SharePolicy::default(),
    });
    config.blocks.push(BlockConfig { id: "disk".into(), path: disk, read_only: false, serial: None });
    let tap = format!("hu{}", std::process::id());
    let mac = [2, 0, 0, 0, 0, 1];
    config.nets.push(NetConfig { id: "net".into(), tap: TapSource::Name(tap), mac, mtu: None });
    config.rng = true;
    config.block_slots = 1;
    config.max_vcpus = 2;
    let mut names = vec!["vcpu0", "maker", "vsock", "share.0", "share.1", "disk", "net", "rng", "mem"];
    // Queues and features in the order of the devices: vsock, share, disk, slot, net, rng, mem. A memory device insists on
    // VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE.
    let mut queues = vec![(3, 0), (2, 0), (1, 0), (1, 0), (2, 0), (1, 0), (1, 1 << 1)];
    if hutch_devices::virtio::net::Tap::open(None).is_err() {
        println!("SKIPPED: the thread of a network device: this host has no tap interfaces for tests");
        config.nets.clear();
        names.retain(|name| *name != "net");
        queues.remove(4);
    }
    let mut pages = 0;
    let mut script: Vec<_> = (0..)
        .zip(queues)
        .flat_map(|(index, queues)| {
            activation(layout::VIRTIO_MMIO + index * layout::VIRTIO_MMIO_SIZE, queues, &mut pages)
        })
        .collect();
    script.push(Scripted::Stay);
    let mut machine =
        Machine::build_on(&FakeHypervisor::new([script, vec![Scripted::Stay]]), &config).expect("a good configuration");
    machine.start().expect("new");
    wait_for_threads(&names);
    // The acts of the control socket's threads on a machine, which this thread may do too.
    machine.pause().expect("it runs");
    machine.resume().expect("it is paused");
    machine.ensure_vcpus(2).expect("another vCPU");
    // Until then it bears the name of the thread that made it.
    wait_for_threads(&["vcpu1"]);
    let slot = &machine.block_slots()[0];
    slot.insert(&spare, true, "spare").expect("a disk");
    slot.eject();
    assert!(machine.memory().expect("a memory device").request(2 << 20) > 0);
    // The vCPU's filter allows no fstat.
    let act = || {
        let _ = nix::sys::stat::fstat(std::io::stdin());
        let _ = nix::unistd::write(std::io::stderr(), LAST_WORDS.as_bytes());
    };
    last_act::set(act).expect("a signal's handler");
    println!("ready");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).expect("the parent's pipe");
    // Without going back to the test's runner: this thread may do little by now.
    std::process::exit(0);
}

/// Waits until this process has threads of all these names.
fn wait_for_threads(names: &[&str]) {
    let begin = Instant::now();
    loop {
        let there = task_names();
        if names.iter().all(|name| there.iter().any(|found| found == name)) {
            return;
        }
        assert!(begin.elapsed() < TEST_TIMEOUT, "{there:?}");
        std::thread::yield_now();
    }
}

struct Confined {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Confined {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["--exact", "confine::acts_tests::the_confined_machine", "--ignored", "--nocapture"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("this program again");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut confined = Self { child, stdout };
        let mut all = String::new();
        loop {
            let mut line = String::new();
            if confined.stdout.read_line(&mut line).expect("text") == 0 {
                let mut errors = String::new();
                confined.child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
                panic!("the child has ended: {all}{errors}");
            }
            if let Some((_, why)) = line.split_once("SKIPPED: ") {
                skip(why.trim_end());
            }
            if line.contains("ready") {
                return confined;
            }
            all += &line;
        }
    }

    /// Its threads but the first, which is the test's runner.
    fn threads(&self) -> Vec<Thread> {
        let pid = self.child.id() as i32;
        threads(pid).into_iter().filter(|thread| thread.id.as_raw() != pid).collect()
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut rest = String::new();
        let _ = self.stdout.read_to_string(&mut rest);
    }
}

#[test]
fn no_thread_of_a_machine_can_do_what_an_attacker_would_do_next() {
    let machine = Confined::start();
    let threads = machine.threads();
    let pid = machine.child.id();
    assert!(threads.len() >= 9, "{threads:?}");
    for Thread { id, name } in &threads {
        let taken = Taken::take(*id).expect("it lives as long as the machine");
        expect_forbidden(&taken, name, pid);
        // Files are kept from the others by other means than these filters.
        if !["maker", OWNER, "share.0", "share.1"].contains(&name.as_str()) {
            let at = libc::AT_FDCWD as u64;
            let outcome = taken.act(libc::SYS_openat, [at, 0, 0, 0, 0, 0], Some((1, "/etc/passwd")));
            assert_eq!(outcome, Outcome::Result(-i64::from(libc::ENOENT)), "a file in {name}");
        }
    }
}

#[test]
fn every_thread_of_a_machine_has_a_filter_and_no_new_privileges() {
    let machine = Confined::start();
    let pid = machine.child.id();
    for Thread { id: thread, name } in machine.threads() {
        let field = |field: &str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).expect("it waits");
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            line.expect("a field of this kernel").trim().to_owned()
        };
        // One for signals to other processes, its maker's, and its own.
        let expected = if ["maker", OWNER].contains(&name.as_str()) { "2" } else { "3" };
        // A thread has its name before it has its own filter.
        for _ in 0..600 {
            if field("Seccomp_filters") == expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        assert_eq!(field("Seccomp_filters"), expected, "{name}");
        assert_eq!((field("Seccomp").as_str(), field("NoNewPrivs").as_str()), ("2", "1"), "{name}");
    }
}

#[test]
fn a_forbidden_call_ends_the_process_and_names_thread_and_call() {
    let mut machine = Confined::start();
    let threads = machine.threads();
    let vcpu = threads.iter().find(|thread| thread.name == "vcpu0").expect("a vCPU");
    let taken = Taken::take(vcpu.id).expect("it runs");
    taken.violate(libc::SYS_execve, [0; 6], Some((0, "/bin/true")));
    // Child::wait closes the pipe, at whose end the machine ends well.
    let pipe = machine.child.stdin.take();
    let status = machine.child.wait().expect("a child");
    drop(pipe);
    let mut errors = String::new();
    machine.child.stderr.take().expect("a pipe").read_to_string(&mut errors).expect("text");
    assert_eq!((status.code(), status.signal()), (Some(159), None), "{errors}");
    assert!(errors.contains("thread vcpu0 made the system call execve (59)"), "{errors}");
    // Another thread has done it: this one may not.
    assert!(errors.ends_with(LAST_WORDS), "{errors}");
    assert_eq!(errors.matches(VIOLATION).count(), 1, "{errors}");
}
