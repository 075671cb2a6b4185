//! The archive, read by our own code and by the system's cpio.

use std::io::Write;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::super::module::Module;
use super::*;

fn sample() -> Vec<u8> {
    let module = |file: &str, bytes: &[u8]| Module { file: file.into(), bytes: bytes.to_vec() };
    let demands = vec![("always", vec!["b.ko".to_owned()]), ("fs:x", vec!["b.ko".to_owned(), "a.ko".to_owned()])];
    let modules = Modules { all: vec![module("b.ko", b"bb"), module("a.ko", b"a")], demands };
    assemble(b"the agent", &modules).unwrap()
}

#[test]
fn the_archive_holds_agent_modules_order_and_devices() {
    let archive = Archive::read(&sample()).unwrap();
    assert_eq!(archive.get("init"), Some(&Node::File(0o755, b"the agent".to_vec())));
    assert_eq!(archive.get("modules/order"), Some(&Node::File(0o644, b"b.ko\na.ko\n".to_vec())));
    let demands = b"always b.ko\nfs:x b.ko a.ko\n".to_vec();
    assert_eq!(archive.get("modules/demands"), Some(&Node::File(0o644, demands)));
    assert_eq!(archive.get("modules/a.ko"), Some(&Node::File(0o644, b"a".to_vec())));
    assert_eq!(archive.get("dev/console"), Some(&Node::CharDevice(0o600, 5, 1)));
    for directory in ["dev", "proc", "sys", "run", "modules"] {
        assert_eq!(archive.get(directory), Some(&Node::Directory(0o755)), "{directory}");
    }
}

#[test]
fn equal_contents_give_equal_bytes_and_parents_come_first() {
    assert_eq!(sample(), sample());
    let archive = Archive::read(&sample()).unwrap();
    let paths: Vec<&str> = archive.iter().map(|(path, _)| path).collect();
    assert!(paths.is_sorted());
    assert_eq!(archive.write().unwrap(), sample());
}

#[test]
fn the_systems_cpio_reads_it() {
    let mut child = Command::new("cpio")
        .args(["-itv", "--numeric-uid-gid", "--quiet"])
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test compares with the cpio program: apt-get install cpio");
    child.stdin.take().unwrap().write_all(&sample()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    let text = String::from_utf8(out.stdout).unwrap();
    let has = |parts: &[&str]| text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["crw-------", "0", "5,   1", "1970", " dev/console"]), "{text}");
    assert!(has(&["-rwxr-xr-x", "9", " init"]), "{text}");
    assert!(has(&["drwxr-xr-x", " proc"]), "{text}");
    assert!(has(&["-rw-r--r--", " 10 ", " modules/order"]), "{text}");
    assert_eq!(text.lines().count(), 12, "{text}");
}

#[test]
fn only_the_agent_is_replaced() {
    let renewed = replace_agent(&sample(), b"another, longer agent").unwrap();
    let (old, new) = (Archive::read(&sample()).unwrap(), Archive::read(&renewed).unwrap());
    for (path, node) in old.iter() {
        if path == "init" {
            assert_eq!(new.get(path), Some(&Node::File(0o755, b"another, longer agent".to_vec())));
        } else {
            assert_eq!(new.get(path), Some(node), "{path}");
        }
    }
}

#[test]
fn paths_out_of_the_archive_are_refused() {
    let mut archive = Archive::default();
    for path in ["", "/etc", "a//b", "..", "a/../b", ".", "a\0", "a/", "TRAILER!!!"] {
        let error = archive.insert(path, Node::Directory(0o755)).unwrap_err();
        assert!(matches!(error, CpioError::BadPath { .. }), "{path:?}");
    }
    let error = archive.insert("a/b", Node::Directory(0o755)).unwrap_err();
    assert_eq!(error, CpioError::NoParent { path: "a/b".into() });
    archive.insert("a", Node::File(0o644, Vec::new())).unwrap();
    assert!(archive.insert("a/b", Node::Directory(0o755)).is_err(), "a file cannot be a parent");
}

#[test]
fn a_cut_archive_is_refused_wherever_it_was_cut() {
    let whole = sample();
    for length in 0..whole.len() - 4 {
        assert!(Archive::read(&whole[..length]).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read(
        files in proptest::collection::btree_map("[a-z]{1,9}", proptest::collection::vec(any::<u8>(), 0..50), 0..20)
    ) {
        let mut archive = Archive::default();
        for (path, bytes) in files {
            archive.insert(&path, Node::File(0o644, bytes)).unwrap();
        }
        prop_assert_eq!(Archive::read(&archive.write().unwrap()).unwrap(), archive);
    }

    #[test]
    fn damaged_archives_never_panic(damage in proptest::collection::vec((0usize..1400, any::<u8>()), 1..20)) {
        let mut bytes = sample();
        for (at, byte) in damage {
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        let _ = Archive::read(&bytes);
    }
}
