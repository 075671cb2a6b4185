//! `hutch guest` and `hutch doctor` on a host that works.

use hutch_e2e::{kernels, Hutch};

#[test]
fn doctor_is_content_where_run_works() {
    Hutch::new("doctor").end().expect_code(0);
}

#[test]
fn doctors_findings_are_json_on_request() {
    let ended = Hutch::new("doctor").args(["--format", "json"]).end().expect_code(0);
    let findings: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended}"));
    assert!(findings.is_object() || findings.is_array(), "{ended}");
}

#[test]
fn doctor_fails_without_guest_assets_and_names_the_remedy() {
    let ended = Hutch::new("doctor").args(["--guest-dir", "/no/such/guest"]).end();
    assert_ne!(ended.code(), Some(0), "{ended}");
    assert!(ended.text().contains("hutch guest build"), "{ended}");
}

#[test]
fn guest_assets_are_listed_and_inspected_with_versions_and_sums() {
    let list = Hutch::new("guest").args(["ls"]).end().expect_code(0).text();
    for kernel in kernels() {
        assert!(list.contains(&kernel), "{kernel} is not in {list}");
        let text = Hutch::new("guest").args(["inspect", &kernel]).end().expect_code(0).text();
        let sums = text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).count();
        assert!(sums >= 2, "kernel and initramfs have no SHA-256: {text}");
        assert!(text.contains("6."), "no kernel version: {text}");
    }
}
