//! Named volumes, with real machines.

use hutch_e2e::{Hutch, Pods, Snapshot};

#[test]
fn a_named_volume_outlives_pods_and_is_shared_by_containers() {
    let pods = Pods::new();
    let before = Snapshot::take();
    let run = |name: &str, options: &[&str]| pods.new_pod("run", name).args(["-d"]).args(options);
    run("one", &["-v", "data:/mnt/data"]).sh("echo one > /mnt/data/file; exec sleep 1000").end().expect_code(0);
    let used = |names: &[&str]| {
        let text = pods.ok(&["volume", "inspect", "data", "--format", "json"]);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["pods"], serde_json::json!(names), "{text}");
    };
    used(&["one"]);
    pods.hutch(&["volume", "rm", "data"]).end().expect_code(1).expect_complaint(&["volume data", "pod one"]);
    pods.exec("one", "one", "cat /mnt/data/file").expect_text("one\n");
    pods.ok(&["pod", "rm", "-f", "one"]);
    used(&[]);

    run("two", &["-v", "data:/mnt/data"]).sh("exec sleep 1000").end().expect_code(0);
    let root = pods.root().path().to_string_lossy().into_owned();
    let create = ["container", "create", "two", "--name", "reader", "--rootfs", &root, "-v", "data:/mnt/data:ro"];
    pods.hutch(&create).sh("exec sleep 1000").end().expect_code(0);
    pods.ok(&["container", "start", "two", "reader"]);
    pods.exec("two", "two", "cat /mnt/data/file; echo two >> /mnt/data/file").expect_text("one\n");
    let script =
        "cat /mnt/data/file; mount -o remount,rw /mnt/data 2>/dev/null; echo x > /mnt/data/file || echo refused";
    pods.exec("two", "reader", script).expect_text("one\ntwo\nrefused\n");
    pods.hutch(&["volume", "rm", "data"]).end().expect_code(1).expect_complaint(&["pod two"]);
    pods.ok(&["pod", "stop", "-t", "0", "two"]);
    pods.hutch(&["volume", "rm", "data"]).end().expect_code(1).expect_complaint(&["pod two"]);
    pods.ok(&["pod", "rm", "two"]);
    pods.expect_none();

    // `hutch run` uses the same volumes.
    let kernel = hutch_e2e::kernels().pop().expect("a kind of kernel");
    let command = |volume: &str, script: &str| -> Hutch {
        pods.hutch(&["run", "--kernel", &kernel, "--rootfs", &root, "-v", volume]).sh(script)
    };
    command("data:/mnt/v", "cat /mnt/v/file; echo three > /mnt/v/file").end().expect_text("one\ntwo\n");
    command("data:/mnt/v:ro", "cat /mnt/v/file; echo x > /mnt/v/file || echo refused")
        .end()
        .expect_text("three\nrefused\n");
    assert_eq!(pods.ok(&["volume", "ls", "-q"]), "data\n");
    pods.ok(&["volume", "rm", "data"]);
    assert_eq!(pods.ok(&["volume", "ls", "-q"]), "");
    pods.hutch(&["volume", "rm", "data"]).end().expect_code(1).expect_complaint(&["volume data", "does not exist"]);
    before.expect_no_leaks();
}

#[test]
fn volumes_are_created_and_removed_by_name() {
    let pods = Pods::new();
    assert_eq!(pods.ok(&["volume", "create", "b", "a", "b"]), "b\na\nb\n");
    assert_eq!(pods.ok(&["volume", "ls", "-q"]), "a\nb\n");
    let table = pods.ok(&["volume", "ls"]);
    assert!(table.starts_with("NAME  CREATED"), "{table}");
    pods.hutch(&["volume", "create", "../x"]).end().expect_code(1).expect_complaint(&["../x"]);
    pods.ok(&["volume", "rm", "a", "b"]);
    assert_eq!(pods.ok(&["volume", "ls", "-q"]), "");
}
