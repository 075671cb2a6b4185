//! `runtime/examples/embed.rs`: a program that uses the runtime as a library and holds its machine itself.

use std::path::PathBuf;

use hutch_e2e::{kernels, Hutch, Pods, Snapshot};

fn embed() -> PathBuf {
    let path = std::env::var_os("HUTCH_E2E_EMBED").map(PathBuf::from);
    path.expect("HUTCH_E2E_EMBED is set: run `cargo xtask test`")
}

#[test]
fn the_example_runs_a_container_and_captures_its_output() {
    let pods = Pods::new();
    let before = Snapshot::take();
    let records = tempfile::Builder::new().prefix("hutch-embed-").tempdir_in("/run").expect("a directory in /run");
    let kernel = kernels().pop().expect("a kind of kernel");
    let args = [pods.root().path(), records.path(), kernel.as_ref()];
    let ended = Hutch::program(embed()).args(args).end().expect_code(0);
    let text = ended.text();
    let lines: Vec<&str> = text.lines().collect();
    let ["container: hello", kernel, rest @ ..] = lines.as_slice() else { panic!("{ended}") };
    assert!(kernel.starts_with("exec: kernel 6."), "{ended}");
    assert_eq!(rest, ["exec: on stderr", "exec: exit code 3", "container: bye", "pod embedded is gone"], "{ended}");
    drop(records);
    before.expect_no_leaks();
}
