//! The root file system and volumes, as the guest sees them and as the host finds them afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use hutch_e2e::{Hutch, RootFs};

#[test]
fn the_guest_writes_files_the_host_reads() {
    let root = RootFs::new();
    let script = "echo from inside > /tmp/file; mkdir /tmp/dir; ln -s file /tmp/link; chmod 640 /tmp/file";
    Hutch::run(&root).sh(script).end().expect_code(0);
    assert_eq!(fs::read_to_string(root.at("/tmp/file")).expect("the file"), "from inside\n");
    assert!(root.at("/tmp/dir").is_dir());
    assert_eq!(fs::read_link(root.at("/tmp/link")).expect("the link"), std::path::Path::new("file"));
    assert_eq!(fs::metadata(root.at("/tmp/file")).expect("metadata").permissions().mode() & 0o7777, 0o640);
}

#[test]
fn a_read_only_root_refuses_writes_and_stays_as_it_was() {
    let root = RootFs::new();
    let ended = Hutch::run(&root).args(["--read-only"]).sh("echo x > /tmp/file || echo refused").end();
    assert!(ended.text().contains("refused"), "{ended}");
    assert!(!root.at("/tmp/file").exists());
}

/// The host must enforce this itself: remounting read-write in the guest must have no effect.
#[test]
fn a_read_only_root_is_enforced_on_the_host() {
    let root = RootFs::new();
    let script = "mount -o remount,rw / 2>/dev/null; echo x > /tmp/file; rm /etc/hostname; chmod 777 /etc/passwd; true";
    Hutch::run(&root).args(["--read-only"]).sh(script).end().expect_code(0);
    assert!(!root.at("/tmp/file").exists());
    assert!(root.at("/etc/hostname").exists());
    assert_eq!(fs::metadata(root.at("/etc/passwd")).expect("metadata").permissions().mode() & 0o777, 0o644);
}

#[test]
fn an_overlay_takes_writes_and_throws_them_away() {
    let root = RootFs::new();
    let before = fs::metadata(root.at("/etc")).expect("metadata").mtime();
    let script = "echo new > /tmp/file; rm /etc/hostname; echo more >> /etc/passwd; cat /tmp/file; ls /etc; tail -n1 /etc/passwd";
    let ended = Hutch::run(&root).args(["--rootfs-overlay"]).sh(script).end().expect_code(0);
    ended.expect_text("new\ngroup\nnot-executable\npasswd\nmore\n");
    assert!(!root.at("/tmp/file").exists());
    assert_eq!(fs::read_to_string(root.at("/etc/hostname")).expect("the file"), "rootfs\n");
    assert_eq!(fs::metadata(root.at("/etc")).expect("metadata").mtime(), before);
}

#[test]
fn volumes_are_mounted_read_write_and_read_only() {
    let (root, volume) = (RootFs::new(), RootFs::new());
    fs::write(volume.at("/shared"), "from the host\n").expect("a file in the volume");
    let at = |suffix: &str| format!("{}:/mnt/v{suffix}", volume.path().display());
    let script = "cat /mnt/v/shared; echo from the guest > /mnt/v/new";
    Hutch::run(&root).args(["-v", &at("")]).sh(script).end().expect_code(0).expect_text("from the host\n");
    assert_eq!(fs::read_to_string(volume.at("/new")).expect("the file"), "from the guest\n");

    let script = "cat /mnt/v/shared; mount -o remount,rw /mnt/v 2>/dev/null; rm /mnt/v/shared || echo refused";
    let ended = Hutch::run(&root).args(["-v", &at(":ro")]).sh(script).end();
    ended.expect_text("from the host\nrefused\n");
    assert!(volume.at("/shared").exists());
}

#[test]
fn a_single_file_can_be_a_volume() {
    let root = RootFs::new();
    let file = root.at("/tmp/original");
    fs::write(&file, "text\n").expect("a file");
    let volume = format!("{}:/mnt/other-name:ro", file.display());
    Hutch::run(&root).args(["-v", &volume]).sh("cat /mnt/other-name").end().expect_code(0).expect_text("text\n");
}

#[test]
fn many_files_and_a_large_one_survive() {
    let root = RootFs::new();
    let script = "mkdir /var/many; for i in $(seq 500); do echo $i > /var/many/$i; done; ls /var/many | wc -l
        dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\0' z > /var/large; rm -r /var/many; ls /var";
    let run = Hutch::run(&root);
    run.sh(script).end().expect_code(0).expect_text("500\nlarge\n");
    let large = fs::read(root.at("/var/large")).expect("the file");
    assert_eq!(large.len(), 16 << 20);
    assert!(large.iter().all(|b| *b == b'z'));
}

#[test]
fn links_in_the_root_do_not_lead_out_of_it() {
    let root = RootFs::new();
    let outside = RootFs::new();
    fs::write(outside.at("/secret"), "secret\n").expect("a file outside");
    std::os::unix::fs::symlink(outside.at("/secret"), root.at("/tmp/absolute")).expect("a link");
    let up = format!("../../../../../../../..{}", outside.at("/secret").display());
    std::os::unix::fs::symlink(up, root.at("/tmp/relative")).expect("a link");
    let ended = Hutch::run(&root).sh("cat /tmp/absolute /tmp/relative; ls /..").end();
    assert!(!ended.text().contains("secret\n"), "{ended}");
}
