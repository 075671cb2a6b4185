//! Root file systems and volumes on disk images, with real machines.

use std::path::Path;

use hutch_e2e::{kernels, toml_file, Hutch, Image, Pods, RootFs, Snapshot};

const MIB: u32 = 24;

/// `hutch container create` with a shell script on an image.
fn create(pods: &Pods, name: &str, rootfs: &Path, options: &[&str], script: &str) -> Hutch {
    let rootfs = rootfs.to_string_lossy().into_owned();
    pods.hutch(&["container", "create", "p", "--name", name, "--rootfs", &rootfs]).args(options).sh(script)
}

/// A running pod `p` with this number of free block slots. Its own container uses a directory.
fn pod_with_slots(pods: &Pods, slots: &str) {
    pods.new_pod("run", "p").args(["-d", "--block-slots", slots]).sh("exec sleep 1000").end().expect_code(0);
}

#[test]
fn p_186_a_root_on_an_image_keeps_what_is_written() {
    let pods = Pods::new();
    let image = Image::of(pods.root(), MIB);
    let before = Snapshot::take();
    let run = |script: &str| pods.new_pod_on("run", "p", image.path()).args(["-d"]).sh(script).end();
    run("echo first > /root/file; exec sleep 1000").expect_code(0);
    let seen =
        pods.exec("p", "p", "cat /root/file; stat -f -c %T / 2>/dev/null; ls -d /lost+found; cat /sys/block/vda/ro");
    assert!(seen.text().starts_with("first\n") && seen.text().ends_with("/lost+found\n0\n"), "{seen}");
    // The image is in use, so hutch refuses every other user, even a reader.
    let other = pods.new_pod_on("run", "q", image.path()).args(["-d", "--read-only"]).sh("true").end();
    other.expect_code(1).expect_complaint(&[&image.text(), "in use"]);
    pods.ok(&["pod", "stop", "p"]);
    assert_eq!(image.cat("/root/file"), "first\n");
    image.expect_clean();
    // The next machine attaches the image again (P-072).
    pods.ok(&["pod", "start", "p"]);
    pods.exec("p", "p", "cat /root/file; rm /root/file; echo second > /root/other").expect_text("first\n");
    pods.ok(&["pod", "rm", "-f", "p"]);
    assert_eq!((image.cat("/root/other").as_str(), pods.root().at("/root/other").exists()), ("second\n", false));
    run("exec sleep 1000").expect_code(0);
    pods.exec("p", "p", "cat /root/other").expect_text("second\n");
    pods.ok(&["pod", "rm", "-f", "p"]);
    image.expect_clean();
    pods.expect_none();
    before.expect_no_leaks();
}

/// No byte of the image changes, whatever the container tries.
#[test]
fn a_read_only_image_is_not_changed() {
    let pods = Pods::new();
    let image = Image::of(pods.root(), MIB);
    let before = image.bytes();
    let run = pods.new_pod_on("run", "p", image.path()).args(["-d", "--read-only"]);
    run.sh("exec sleep 1000").end().expect_code(0);
    let script = "echo x > /root/file || echo refused; mount -o remount,rw / 2>/dev/null; touch /new || echo refused; \
        cat /sys/block/vda/ro; cat /etc/hostname";
    pods.exec("p", "p", script).expect_text("refused\nrefused\n1\nrootfs\n");
    // Two readers can share the image.
    let other = pods.new_pod_on("run", "q", image.path()).args(["--read-only"]).sh("cat /etc/hostname").end();
    other.expect_code(0).expect_text("rootfs\n");
    pods.ok(&["pod", "rm", "-f", "p"]);
    assert!(image.bytes() == before, "the image has changed");
    pods.expect_none();
}

#[test]
fn p_188_containers_on_images_come_to_a_running_pod_and_go() {
    let pods = Pods::new();
    let images: Vec<Image> = (0..4).map(|_| Image::of(pods.root(), MIB)).collect();
    pod_with_slots(&pods, "3");
    let script = "echo $0 > /root/name; exec sleep 1000";
    for (name, image) in ["a", "b", "c"].iter().zip(&images) {
        create(&pods, name, image.path(), &[], &script.replace("$0", name)).end().expect_code(0);
    }
    pods.ok(&["container", "start", "p", "a", "b", "c"]);
    let full = create(&pods, "d", images[3].path(), &[], script).end();
    full.expect_code(1).expect_complaint(&["container d", "no free drive slot", "all 3", "--block-slots"]);
    let seen: Vec<String> = ["a", "b", "c"].map(|name| pods.exec("p", name, "cat /root/name").text()).into();
    assert_eq!(seen, ["a\n", "b\n", "c\n"]);
    // The slot is reused for another image, first read-only, then read-write.
    pods.ok(&["container", "rm", "-f", "p", "b"]);
    images[1].expect_clean();
    assert_eq!(images[1].cat("/root/name"), "b\n");
    let before = images[3].bytes();
    create(&pods, "d", images[3].path(), &["--read-only"], "touch /root/x || exec sleep 1000").end().expect_code(0);
    pods.ok(&["container", "start", "p", "d"]);
    pods.exec("p", "d", "cat /etc/hostname; touch /y || echo refused").expect_text("rootfs\nrefused\n");
    pods.ok(&["container", "rm", "-f", "p", "d"]);
    assert!(images[3].bytes() == before, "the image has changed");
    let twice = create(&pods, "d", images[0].path(), &[], script).end();
    twice.expect_code(1).expect_complaint(&[&images[0].text(), "in use"]);
    create(&pods, "d", images[3].path(), &[], &script.replace("$0", "d")).end().expect_code(0);
    pods.ok(&["container", "start", "p", "d"]);
    pods.exec("p", "d", "cat /root/name").expect_text("d\n");
    // A stopped container releases its disk and gets it back when it starts.
    pods.ok(&["container", "stop", "-t", "0", "p", "a"]);
    images[0].expect_clean();
    pods.ok(&["container", "start", "p", "a"]);
    pods.exec("p", "a", "cat /root/name").expect_text("a\n");
    pods.ok(&["pod", "rm", "-f", "p"]);
    images.iter().for_each(Image::expect_clean);
    assert_eq!(images[3].cat("/root/name"), "d\n");
    pods.expect_none();
}

#[test]
fn p_096_an_image_that_is_garbage_is_refused_and_nothing_is_left_of_it() {
    let pods = Pods::new();
    let garbage = Image::of_bytes(&[0x5a; 1 << 20]);
    let before = Snapshot::take();
    let refused = pods.new_pod_on("run", "q", garbage.path()).args(["-d"]).sh("true").end();
    refused.expect_code(1).expect_complaint(&[&garbage.text(), "no file system", "rootfs_type"]);
    pods.expect_none();
    before.expect_no_leaks();
    // This image looks like a file system until the guest mounts it.
    let mut bytes = vec![0; 1 << 20];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let broken = Image::of_bytes(&bytes);
    let good = Image::of(pods.root(), MIB);
    pod_with_slots(&pods, "1");
    for image in [&garbage, &broken] {
        let refused = create(&pods, "a", image.path(), &["--rootfs-type", "ext4"], "true").end();
        refused.expect_code(1).expect_complaint(&["mount", "ext4"]);
        assert_eq!(pods.status("p", "/containers/1"), serde_json::Value::Null);
    }
    let refused = create(&pods, "a", good.path(), &["--rootfs-type", "nonsensefs"], "true").end();
    refused.expect_code(1).expect_complaint(&["nonsensefs", "kernel does not have this file system"]);
    // The only slot is free again, and the pod is unchanged.
    create(&pods, "a", good.path(), &[], "exec sleep 1000").end().expect_code(0);
    pods.ok(&["container", "start", "p", "a"]);
    pods.exec("p", "a", "cat /etc/hostname").expect_text("rootfs\n");
    pods.exec("p", "p", "true").expect_code(0);
    pods.ok(&["pod", "rm", "-f", "p"]);
    good.expect_clean();
    pods.expect_none();
}

#[test]
fn a_block_volume_is_a_file_system_of_its_own() {
    let pods = Pods::new();
    let (data, fixed) = (Image::of(pods.root(), MIB), Image::of(pods.root(), MIB));
    let before = fixed.bytes();
    pod_with_slots(&pods, "2");
    let config = format!(
        "id = \"a\"\nrootfs = \"{}\"\ncommand = {{ args = [\"/bin/sleep\", \"1000\"] }}\n\
         mounts = [{{ type = \"block\", source = \"{}\", destination = \"/mnt/data\" }},\n\
         {{ type = \"block\", source = \"{}\", destination = \"/mnt/fixed\", options = [\"ro\", \"fstype=ext4\"] }}]\n",
        pods.root().path().display(),
        data.text(),
        fixed.text()
    );
    let dir = tempfile::Builder::new().prefix("hutch-config-").tempdir().expect("a directory");
    let config = toml_file(dir.path(), "a", &config).to_string_lossy().into_owned();
    pods.ok(&["container", "create", "p", &config]);
    pods.ok(&["container", "start", "p", "a"]);
    let script =
        "echo kept > /mnt/data/file; touch /mnt/fixed/x 2>/dev/null || echo refused; cat /mnt/fixed/etc/hostname";
    pods.exec("p", "a", script).expect_text("refused\nrootfs\n");
    pods.ok(&["container", "rm", "-f", "p", "a"]);
    assert_eq!(data.cat("/file"), "kept\n");
    data.expect_clean();
    assert!(fixed.bytes() == before, "the image has changed");
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
}

fn run(image: &Image) -> Hutch {
    let kernel = kernels().pop().expect("a kind of kernel");
    Hutch::new("run").args(["--rootfs", &image.text()]).kernel(kernel)
}

#[test]
fn a_command_runs_on_an_image() {
    let image = Image::of(&RootFs::new(), MIB);
    run(&image).sh("echo kept > /root/file; cat /etc/hostname; exit 3").end().expect_code(3).expect_text("rootfs\n");
    assert_eq!(image.cat("/root/file"), "kept\n");
    image.expect_clean();
    let before = image.bytes();
    let script = "cat /root/file; mount -o remount,rw / 2>/dev/null; echo x > /root/file || echo refused";
    run(&image).args(["--read-only"]).sh(script).end().expect_text("kept\nrefused\n");
    let script = "echo x > /root/file; rm /etc/hostname; cat /root/file";
    run(&image).args(["--rootfs-overlay"]).sh(script).end().expect_code(0).expect_text("x\n");
    assert!(image.bytes() == before, "the image has changed");
    let garbage = Image::of_bytes(&[0x5a; 1 << 16]);
    run(&garbage).sh("true").end().expect_code(125).expect_complaint(&[&garbage.text(), "--rootfs-type"]);
    let forced = run(&garbage).args(["--rootfs-type", "ext4"]).sh("true").end();
    forced.expect_code(125).expect_complaint(&["ext4"]);
}
