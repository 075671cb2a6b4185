//! A program that embeds the runtime calls `init` first, and gets a clear error if it does not.

use std::path::Path;
use std::process::Command;

/// The output of the program, and how many processes went past `init` in its `main`.
fn embedder(mode: &str) -> (String, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_embedder"));
    command.arg(mode).arg(dir.path()).env("EMBEDDER_DIR", dir.path());
    if mode == "forgets" {
        command.env("EMBEDDER_FORGETS", "1");
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    (text, mains(dir.path()))
}

fn mains(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_program_that_has_not_called_init_is_told_so_and_starts_nothing() {
    let (text, mains) = embedder("forgets");
    assert!(text.contains("call hutch_runtime::init() first thing in main"), "{text}");
    assert!(text.contains("left: []"), "{text}");
    assert_eq!(mains, 1, "its main ran again in a process that should hold a machine");
}

#[test]
fn after_init_the_program_holds_machines_itself() {
    let (text, mains) = embedder("boots");
    // The process for the machine has answered: the kernel is not one.
    assert!(text.contains("virtual machine: start"), "{text}");
    assert!(!text.contains("init()"), "{text}");
    assert!(text.contains("left: []"), "{text}");
    assert_eq!(mains, 1, "its main ran again in a process that should hold a machine");
}

#[test]
fn after_init_the_program_is_its_own_shim() {
    let (text, mains) = embedder("captures");
    assert_eq!(text, "3: Stdout of the fake process\nleft: []\n");
    assert_eq!(mains, 1, "its main ran again in a process that should be a shim");
}
