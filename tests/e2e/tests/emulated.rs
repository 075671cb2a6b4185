//! On a host whose KVM only emulates, hutch cannot run a stock guest. It must say so at once instead of hanging.
//! `cargo xtask test` runs this on such hosts only, and never in the testbed.

use hutch_e2e::{Hutch, RootFs};

#[test]
fn run_refuses_an_emulating_kvm_and_says_why() {
    let root = RootFs::new();
    let ended = Hutch::run(&root).sh("echo ran").end();
    ended.expect_code(125).expect_text("").expect_complaint(&["kvm", "emulat"]);
}

#[test]
fn doctor_names_an_emulating_kvm_and_fails() {
    let ended = Hutch::new("doctor").end();
    assert_ne!(ended.code(), Some(0), "{ended}");
    assert!(ended.text().to_lowercase().contains("emulat"), "{ended}");
}
