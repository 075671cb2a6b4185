//! A hostile guest attacks every device of a machine: each case ends in a device that asks for a reset, in an error
//! reply, or in a guest that ends; never in a dead host process, an unbounded wait or memory. After each case the device
//! must serve a good request. A program of its own, because it measures its memory and watches for panics.
//!
//! The cases stand in `attack`, each with its source: the flaw of a peer that it repeats, or the section of VIRTIO 1.2
//! that its driver violates.

mod attack;
mod guests;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use attack::script::Script;
use attack::sockets::{PORT, TAKEN};
use attack::Target;
use guests::{Bench, TEST_TIMEOUT};
use hutch_devices::virtio::net::Tap;
use hutch_vmm::config::{ImageLoading, NetConfig, TapSource};
use hutch_vmm::{Machine, MachineExit};

/// Most memory of this process at any time: the test harness, one machine of 8 MiB, its script, and what its devices
/// buffer.
const MOST_KIB: u64 = 96 << 10;

/// Panics of machines' threads. A device's thread that panics only asks for a reset where panics unwind, as in tests; the
/// product ends.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// One machine at a time, and its resources.
struct Watch {
    _alone: MutexGuard<'static, ()>,
    before: [usize; 2],
}

/// Whether a thread with this name belongs to a machine. The harness' threads come and go.
fn is_machines(thread: &str) -> bool {
    ["vcpu", "rng", "vsock", "disk", "read-only", "slot", "fs", "mem", "net"]
        .iter()
        .any(|kind| thread.starts_with(kind))
}

/// Threads of machines, and descriptors of this process.
fn resources() -> [usize; 2] {
    let ours = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| is_machines(&name))
    };
    let threads = std::fs::read_dir("/proc/self/task").expect("Linux").filter_map(Result::ok).filter(ours).count();
    [threads, std::fs::read_dir("/proc/self/fd").expect("Linux").count()]
}

impl Watch {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if std::thread::current().name().is_some_and(is_machines) {
                    PANICS.fetch_add(1, Ordering::SeqCst);
                }
                report(panic);
            }));
        });
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self { _alone: alone, before: resources() }
    }

    /// Checks that nothing is left of the machines since the watch began. Other tests wait until it is dropped.
    fn end(&self) {
        assert_eq!(PANICS.load(Ordering::SeqCst), 0, "threads panicked");
        assert_eq!(resources(), self.before, "threads and descriptors");
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a process with memory");
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a size");
        assert!(peak < MOST_KIB, "{peak} KiB");
    }
}

/// Listeners of the host.
struct Listeners {
    _waiting: Receiver<UnixStream>,
    /// Ends with the machine.
    accepting: std::thread::JoinHandle<()>,
}

/// Listens at the ports that the cases expect.
fn listen(machine: &Machine) -> Listeners {
    let handle = machine.vsock().expect("a socket device");
    let waiting = handle.listen(PORT).expect("a free port");
    let taken = handle.listen(TAKEN).expect("a free port");
    let accept = move || {
        // A few connections at a time, and not a byte is read from any.
        let mut open = std::collections::VecDeque::new();
        while let Ok(stream) = taken.recv() {
            open.push_back(stream);
            open.truncate(8);
        }
    };
    Listeners { _waiting: waiting, accepting: std::thread::spawn(accept) }
}

/// Attacks a machine with a script, and checks that the machine can be dismantled.
fn attack(target: &Target, script: &Script) {
    let machine = target.bench.start();
    let listeners = listen(&machine);
    target.wait(script, &machine);
    machine.shutdown().expect("everything leaves");
    listeners.accepting.join().expect("no panic");
}

#[test]
fn the_instrument_reports_a_check_that_fails_and_an_exception() {
    let watch = Watch::new();
    let mut script = Script::new(false);
    script.case("nothing", "no source");
    script.store(4, attack::script::ARENA, 0x1_2345);
    script.expect(4, attack::script::ARENA, 0x1_2345);
    script.expect(2, attack::script::ARENA, 0x1_2345);
    script.forget_faults();
    script.rdmsr(u32::MAX);
    script.expect_fault();
    let target = Target::new(&script);
    let machine = target.bench.start();
    assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::PowerOff));
    let failures = script.failures(&String::from_utf8_lossy(&target.output()));
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].starts_with("nothing: ") && failures[0].ends_with("saw 0000000000002345"), "{failures:?}");
    machine.shutdown().expect("everything leaves");
    watch.end();
}

#[test]
fn there_are_many_cases_each_with_its_source() {
    let mut script = Script::new(true);
    attack::transport::add(&mut script);
    attack::rings::add(&mut script);
    attack::disks::add(&mut script);
    attack::sockets::add(&mut script);
    attack::files::add(&mut script);
    attack::memory::add(&mut script);
    attack::networks::add(&mut script);
    attack::processors::add(&mut script);
    attack::races::add(&mut script, 1);
    let names: std::collections::HashSet<_> = script.cases().iter().map(|case| case.name).collect();
    assert_eq!(names.len(), script.cases().len(), "each name once, by group: it is how a failure is found");
    assert!(names.len() >= 100, "{}", names.len());
    assert!(script.cases().iter().all(|case| !case.source.is_empty()));
}

#[test]
fn registers_and_rings() {
    let watch = Watch::new();
    let mut script = Script::new(false);
    attack::transport::add(&mut script);
    attack::rings::add(&mut script);
    attack(&Target::new(&script), &script);
    watch.end();
}

#[test]
fn requests_of_every_device() {
    let watch = Watch::new();
    let mut script = Script::new(false);
    attack::disks::add(&mut script);
    attack::sockets::add(&mut script);
    attack::files::add(&mut script);
    attack::memory::add(&mut script);
    let target = Target::new(&script);
    attack(&target, &script);
    assert!(target.disk() == attack::image(), "the disk has changed");
    assert!(target.share_is_unchanged(), "the share has changed");
    watch.end();
}

#[test]
fn frames_and_receive_buffers() {
    let watch = Watch::new();
    let name = format!("hostile{}", std::process::id() % 100_000);
    if let Err(error) = Tap::open(Some(&name)) {
        // Written directly, since the test harness would swallow it: skipped tests are counted.
        return std::io::stdout()
            .write_all(format!("SKIPPED: no tap on this host: {error}\n").as_bytes())
            .expect("stdout");
    }
    let mut script = Script::new(true);
    attack::networks::add(&mut script);
    let mut target = Target::new(&script);
    let net = NetConfig { id: "net".into(), tap: TapSource::Name(name), mac: [2, 0, 0, 0, 0, 1], mtu: None };
    target.bench.config.nets.push(net);
    attack(&target, &script);
    watch.end();
}

#[test]
fn ports_registers_and_interrupt_controllers() {
    let watch = Watch::new();
    let mut script = Script::new(false);
    attack::processors::add(&mut script);
    attack(&Target::new(&script), &script);
    watch.end();
}

#[test]
fn rings_that_change_while_devices_work() {
    let watch = Watch::new();
    let mut script = Script::new(false);
    attack::races::add(&mut script, 40);
    let mut target = Target::new(&script);
    target.bench.config.vcpus = 2;
    attack(&target, &script);
    watch.end();
}

/// A device that writes to pages which the guest shares with a file of the host: the file stays as it is.
#[test]
fn a_device_cannot_write_to_the_kernels_file() {
    let watch = Watch::new();
    let mut script = Script::new(false);
    script.case("a device writes to the kernel's mapped pages", "Kata CVE-2026-24834 (a writable image, shared)");
    let page = attack::padding().start;
    let mut ring = attack::driver::start_one(&mut script, attack::driver::Device::Rng);
    ring.send(&mut script, &[attack::driver::writable(page, 0x1000)]);
    ring.wait_len(&mut script, 0x1000);
    let mut target = Target::padded(&script);
    target.bench.config.loading = ImageLoading::Map;
    let kernel = std::fs::read(&target.bench.config.kernel).expect("the guest's image");
    attack(&target, &script);
    assert!(std::fs::read(&target.bench.config.kernel).expect("the guest's image") == kernel);
    watch.end();
}

/// Guests that end by themselves, or that the host can stop at once.
#[test]
fn guests_that_crash_or_never_end() {
    let watch = Watch::new();
    let code: &[(&str, &[u8])] = &[
        ("jumps into a device", &[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0]),
        ("page tables in a device", &[0xb8, 0, 0, 0, 0xd0, 0x0f, 0x22, 0xd8, 0xc3]),
        (
            "page tables in memory that is not plugged in",
            &[0x31, 0xc0, 0xff, 0xc0, 0x48, 0xc1, 0xe0, 0x20, 0x0f, 0x22, 0xd8, 0xc3],
        ),
        // lidt from zeroes, then ud2: a triple fault.
        ("no IDT", &[0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b]),
        // INIT to itself.
        ("resets its own processor", &[0xb8, 0, 0x03, 0xe0, 0xfe, 0xc7, 0, 0, 0x45, 0x04, 0, 0xeb, 0xfe]),
        ("halts with interrupts off", &[0xfa, 0xf4, 0xeb, 0xfc]),
        ("spins", &[0xeb, 0xfe]),
        ("reads a register without end", &[0xb8, 0, 0, 0, 0xd0, 0x8b, 0x08, 0xeb, 0xfc]),
        ("notifies without end", &[0xb8, 0x50, 0, 0, 0xd0, 0x31, 0xc9, 0x89, 0x08, 0xeb, 0xfc]),
        ("resets a device without end", &[0xb8, 0x70, 0, 0, 0xd0, 0x31, 0xc9, 0x89, 0x08, 0xeb, 0xfc]),
        ("reads a port without end", &[0xe4, 0x80, 0xeb, 0xfc]),
        ("prints without end", &[0xba, 0xf8, 0x03, 0, 0, 0xb0, 0x0a, 0xee, 0xeb, 0xfd]),
        (
            "loads from memory that is not plugged in",
            &[0x31, 0xc0, 0xff, 0xc0, 0x48, 0xc1, 0xe0, 0x20, 0x8b, 0x08, 0xeb, 0xfe],
        ),
        (
            "stores to memory that is not plugged in",
            &[0x31, 0xc0, 0xff, 0xc0, 0x48, 0xc1, 0xe0, 0x20, 0x89, 0x08, 0xeb, 0xfe],
        ),
    ];
    for (name, code) in code {
        let mut script = Script::new(false);
        script.case(name, "KVM; Firecracker #5762");
        // With requests in flight.
        let mut ring = attack::driver::start_one(&mut script, attack::driver::Device::Disk);
        for _ in 0..4 {
            ring.send(&mut script, &attack::large_read());
        }
        script.call(code);
        let target = Target::new(&script);
        let machine = target.bench.start();
        let exit = machine.wait(Some(Duration::from_millis(100)));
        if exit.is_none() {
            machine.stopper().stop();
            assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::Stopped), "{name}");
        }
        assert!(!matches!(exit, Some(MachineExit::PowerOff)), "{name}: went on");
        machine.shutdown().expect("everything leaves");
    }
    watch.end();
}

/// A KVM that only emulates executes the other vendor's instruction again and again, so this guest may have to be stopped.
#[test]
fn hypercalls_of_every_number() {
    let watch = Watch::new();
    for vmmcall in [false, true] {
        let mut script = Script::new(false);
        script.case("hypercalls of every number, with ones as arguments", "KVM hypercalls");
        for number in (0..16).chain([100, 0x7fff_ffff, u32::MAX]) {
            script.call(&attack::processors::hypercall(number, vmmcall));
        }
        let target = Target::new(&script);
        let machine = target.bench.start();
        match machine.wait(Some(Duration::from_secs(1))) {
            Some(exit) => assert_eq!(exit, MachineExit::PowerOff),
            None => {
                machine.stopper().stop();
                assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::Stopped));
            }
        }
        machine.shutdown().expect("everything leaves");
    }
    watch.end();
}

/// Output that no reader wants stays bounded on the host.
#[test]
fn a_console_of_endless_length_takes_no_memory() {
    let watch = Watch::new();
    let machine = Bench::new(guests::babble()).start();
    let deadline = std::time::Instant::now() + TEST_TIMEOUT;
    while machine.counters().exits.pio_out < 20_000 {
        assert!(std::time::Instant::now() < deadline, "the guest prints");
        std::thread::yield_now();
    }
    assert!(machine.console_tail(usize::MAX).len() <= 4096);
    machine.shutdown().expect("everything leaves");
    watch.end();
}
