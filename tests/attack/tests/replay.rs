//! Runs the committed inputs of all fuzz targets and some mutations of them, so that the code they reach stays tested
//! without a fuzzer. `HUTCH_ATTACK_INPUTS` sets the number of mutations of each target, `HUTCH_ATTACK_SEED` chooses others.

#![expect(unsafe_code, reason = "mallinfo2(3) has no safe form")]

mod mutation;

use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use hutch_attack::{open_descriptors, run, TARGETS};

use mutation::Mutator;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

/// Mutations of each target's inputs, by default.
const MUTATIONS: u64 = 100;

/// Most memory in bytes that a target may take while it works on an input, beside what it maps of files.
const MOST_MEMORY: u64 = 1 << 30;

/// Bytes that may stay in use after all inputs: what allocators and threads keep for later.
const KEPT: usize = 1 << 20;

/// Inputs are run one at a time, because descriptors and the heap are counted.
static ONE: Mutex<()> = Mutex::new(());

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Bytes of the heap that are in use, as glibc counts them.
fn heap() -> usize {
    // SAFETY: takes nothing and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Runs all inputs of a target twice, and mutations of them: after the first round no descriptor may be new, and the heap may not
/// grow.
fn replay(name: &str) {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA).unwrap();
    setrlimit(Resource::RLIMIT_DATA, MOST_MEMORY.min(hard), hard).unwrap();
    let dir = corpora().join(name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut inputs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} has no inputs", dir.display());
    let round = || {
        for input in &inputs {
            // The name of the input that fails is the last line before the panic.
            println!("{}", input.display());
            run(name, &fs::read(input).unwrap());
        }
        open_descriptors()
    };
    let (first, heap_first) = (round(), heap());
    assert_eq!(round(), first, "open descriptors after the second round");
    let inputs: Vec<Vec<u8>> = inputs.iter().map(|input| fs::read(input).unwrap()).collect();
    let mut mutator = Mutator::new(setting("HUTCH_ATTACK_SEED", 1), &inputs);
    for _ in 0..setting("HUTCH_ATTACK_INPUTS", MUTATIONS) {
        let input = mutator.input();
        if let Err(panic) = catch_unwind(|| run(name, &input)) {
            let place = std::env::temp_dir().join(format!("hutch-attack-{name}"));
            fs::write(&place, &input).unwrap();
            println!("the input is in {}", place.display());
            resume_unwind(panic);
        }
    }
    assert_eq!(open_descriptors(), first, "open descriptors after the mutations");
    let now = heap();
    assert!(now <= heap_first + KEPT, "{now} bytes of the heap in use, and {heap_first} after the first round");
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_has_a_program_and_a_test_here() {
            let mut programs: Vec<String> = fs::read_dir(corpora().join("../targets"))
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            programs.sort();
            assert_eq!(programs, [$(stringify!($name)),*]);
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
}

targets!(
    agent_frames,
    agent_oci,
    agent_session,
    block,
    console,
    control_socket,
    fs,
    initrd,
    kernel,
    mem,
    net,
    oci_config,
    records,
    rng,
    vsock,
);

#[test]
fn the_corpora_stay_small() {
    const LIMIT: u64 = 200 << 10;
    let size = |dir: PathBuf| fs::read_dir(dir).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
    let all: u64 = fs::read_dir(corpora()).unwrap().map(|entry| size(entry.unwrap().path())).sum();
    assert!(all <= LIMIT, "{all} bytes: minimise the corpora");
}
