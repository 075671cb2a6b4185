//! The bodies of the fuzz targets (`tests/fuzz`): each takes arbitrary bytes and attacks one part of hutch with them.
//!
//! A device is attacked by [`driver`], which reads the bytes as a sequence of a driver's acts, good and bad. Everything
//! else gets the bytes as they are. The targets assert the rules that must hold: a fault of the product is a panic, and so is
//! a leaked descriptor. `tests/replay.rs` runs the committed inputs of all targets; `cargo xtask fuzz` finds new ones.
//!
//! | file | contents |
//! |---|---|
//! | `driver`, `script` | the mock driver; arbitrary bytes as numbers and choices |
//! | `block`, `console`, `fs`, `mem`, `net`, `rng`, `vsock` | the devices |
//! | `images` | kernels and initrds |
//! | `frames`, `session`, `control` | messages of the agent, a session with it, the control socket of a VMM process |
//! | `records`, `oci`, `agent_oci`, `files` | records on disk; configurations of containers for hutch, and for the agent; files |

mod agent_oci;
mod block;
mod console;
mod control;
pub mod driver;
mod files;
mod frames;
mod fs;
mod images;
mod mem;
mod net;
mod oci;
mod records;
mod rng;
pub mod script;
mod session;
mod vsock;

use std::sync::atomic::{AtomicUsize, Ordering};

/// A target: its name, which is that of its corpus, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 15] = [
    ("agent_frames", frames::attack),
    ("agent_oci", agent_oci::attack),
    ("agent_session", session::attack),
    ("block", block::attack),
    ("console", console::attack),
    ("control_socket", control::attack),
    ("fs", fs::attack),
    ("initrd", images::attack_with_initrd),
    ("kernel", images::attack_with_kernel),
    ("mem", mem::attack),
    ("net", net::attack),
    ("oci_config", oci::attack),
    ("records", records::attack),
    ("rng", rng::attack),
    ("vsock", vsock::attack),
];

/// Inputs between two counts of the descriptors, when a target runs for long.
const COUNT_EVERY: usize = 256;

/// Runs one input of the target called `name`, as the fuzzer does.
///
/// # Panics
/// The input shows a fault, an input before it has leaked a descriptor, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    static INPUTS: AtomicUsize = AtomicUsize::new(0);
    static DESCRIPTORS: AtomicUsize = AtomicUsize::new(0);
    let (_, attack) = TARGETS.iter().find(|(known, _)| *known == name).expect("the name of a target");
    attack(data);
    let inputs = INPUTS.fetch_add(1, Ordering::Relaxed);
    if inputs.is_multiple_of(COUNT_EVERY) {
        let now = open_descriptors();
        // The first input opens what the others use again.
        let first = if inputs == 0 { now } else { DESCRIPTORS.load(Ordering::Relaxed) };
        DESCRIPTORS.store(first, Ordering::Relaxed);
        assert!(now <= first, "{now} open descriptors, and {first} after the first input: one was leaked");
    }
}

/// Number of descriptors that this process has open.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc is mounted").count()
}
