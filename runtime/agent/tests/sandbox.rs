//! The sandbox: an agent in namespaces of its own, where it is process 1, with a root directory made for it. All tests
//! here need root.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use hutch_agent_proto::*;
use support::*;

/// A statically linked busybox, the only program in the roots of these tests.
const BUSYBOX: &str = "/bin/busybox";

/// An isolated agent and a root directory with a shell; reports a skip and returns `None` where that is impossible.
fn isolated(test: &str) -> Option<(Guest, PathBuf)> {
    if !is_root() {
        skip(test, "needs root");
        return None;
    }
    let alone = tempfile::tempdir().unwrap();
    let runs_alone = fs::copy(BUSYBOX, alone.path().join("busybox")).is_ok()
        && Command::new("chroot").arg(alone.path()).args(["/busybox", "true"]).status().is_ok_and(|s| s.success());
    if !runs_alone {
        skip(test, "needs a statically linked /bin/busybox (Debian: busybox-static)");
        return None;
    }
    let guest = Guest::start_isolated();
    let root = guest.dir.path().join("root");
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "data"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for name in
        ["sh", "cat", "ls", "id", "mount", "tty", "hostname", "stat", "readlink", "ps", "true", "sleep", "touch"]
    {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\ninside:x:1234:1235::/home/inside:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "inside:x:1235:\nextra:x:77:inside\n").unwrap();
    Some((guest, root))
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_string()
}

fn spec(root: &Path) -> SandboxSpec {
    SandboxSpec { root: Some(text(root)), hostname: "sandy".into(), ..SandboxSpec::default() }
}

fn mount(fstype: &str, source: &str, target: &str, options: &[&str]) -> GuestMount {
    let options = options.iter().map(|option| option.to_string()).collect();
    GuestMount { source: source.into(), target: target.into(), fstype: fstype.into(), options, in_root: true }
}

fn set_up(guest: &Guest, spec: SandboxSpec) -> Result<Response, RemoteError> {
    guest.control().call(Request::SetupSandbox(Box::new(spec)))
}

#[test]
fn processes_see_their_root_with_its_mounts() {
    let Some((guest, root)) = isolated("processes_see_their_root_with_its_mounts") else { return };
    assert_eq!(set_up(&guest, spec(&root)), Ok(Response::Done));
    assert_eq!(output(&guest, shell("echo *")), "bin data dev etc proc sys tmp\n");
    assert_eq!(output(&guest, shell("hostname; pwd")), "sandy\n/\n");
    let mounts = output(&guest, shell("cat /proc/self/mounts"));
    let points: Vec<_> = mounts.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    for point in ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        assert!(points.contains(&point), "{point} is missing in {points:?}");
    }
    assert_eq!(points.len(), 8, "no other mount is visible: {points:?}");
    let devices = "for d in null zero full random urandom tty console; do test -c /dev/$d || echo no $d; done; \
                   echo x > /dev/null; readlink /dev/fd; readlink /dev/stdin; readlink /dev/ptmx; ls -ld /dev/shm";
    let out = output(&guest, shell(devices));
    assert!(out.starts_with("/proc/self/fd\n/proc/self/fd/0\npts/ptmx\ndrwxrwxrwt "), "{out}");
    // The lower file system has none of these files.
    assert_eq!(fs::read_dir(root.join("dev")).unwrap().count(), 0);
    assert_eq!(set_up(&guest, spec(&root)).unwrap_err().kind, RemoteErrorKind::WrongState, "only once");
}

#[test]
fn names_are_those_of_the_root() {
    let Some((guest, root)) = isolated("names_are_those_of_the_root") else { return };
    set_up(&guest, spec(&root)).unwrap();
    let user = ProcessSpec { user: "inside".into(), ..shell("id -u; id -g; id -G; echo $HOME") };
    assert_eq!(output(&guest, user), "1234\n1235\n1235 77\n/home/inside\n");
    let mut control = guest.control();
    let user = ProcessSpec { user: "daemon".into(), ..shell("true") };
    assert_eq!(control.start("p", user).unwrap_err().kind, RemoteErrorKind::Invalid, "a name of the outside");
    // /usr/bin/env exists outside only.
    assert_eq!(control.start("p", process(&["/usr/bin/env"])).unwrap_err().kind, RemoteErrorKind::ProgramNotFound);
    assert_eq!(control.start("p", process(&["env"])).unwrap_err().kind, RemoteErrorKind::ProgramNotFound);
    let spec = ProcessSpec { cwd: "/made/in/root".into(), ..process(&["sh", "-c", "pwd"]) };
    assert_eq!(output(&guest, spec), "/made/in/root\n");
    assert!(root.join("made/in/root").is_dir());
}

#[test]
fn a_terminal_has_a_name_inside() {
    let Some((guest, root)) = isolated("a_terminal_has_a_name_inside") else { return };
    set_up(&guest, spec(&root)).unwrap();
    let mut control = guest.control();
    let user = "inside".to_string();
    let script = "tty; stat -c '%u %a' $(tty); echo by-name > /dev/stdout";
    let spec = ProcessSpec { terminal: Some(WindowSize { rows: 1, cols: 80 }), user, ..shell(script) };
    control.start("p", spec).unwrap();
    assert_eq!(guest.read("p", StdStream::Terminal), "/dev/pts/0\r\n1234 620\r\nby-name\r\n");
}

#[test]
fn mounts_go_where_they_belong_and_cannot_escape() {
    let Some((guest, root)) = isolated("mounts_go_where_they_belong_and_cannot_escape") else { return };
    let outside = guest.dir.path().join("volume");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("file"), "content").unwrap();
    fs::create_dir(guest.dir.path().join("escaped")).unwrap();
    symlink(guest.dir.path().join("escaped"), root.join("link")).unwrap();
    symlink("../../../../../../etc", root.join("up")).unwrap();
    let mut spec = spec(&root);
    spec.mounts = vec![
        mount("tmpfs", "tmpfs", "/tmp", &["size=1m", "mode=1777", "noexec"]),
        mount("bind", &text(&outside), "/data", &["ro"]),
        mount("bind", &text(&outside.join("file")), "/new/file", &[]),
        mount("bind", &text(&outside), "/up/volume", &[]),
        mount("bind", &text(&outside), "/dev/shm/made", &["rbind", "rw"]),
    ];
    assert_eq!(set_up(&guest, spec), Ok(Response::Done));
    let script = "cat /data/file /new/file /etc/volume/file; touch /data/x 2>/dev/null || echo -n ' ro'; \
                  touch /etc/volume/made /dev/shm/made/too /tmp/x; cat /proc/mounts | while read a b c d e; do \
                  test $b = /tmp && echo \" $c $d\"; done; true";
    let out = output(&guest, shell(script));
    assert!(out.starts_with("contentcontentcontent ro tmpfs rw,"), "{out}");
    assert!(out.contains("noexec") && out.contains("size=1024k"), "{out}");
    assert!(outside.join("made").exists() && outside.join("too").exists());
    assert!(root.join("etc/volume").is_dir(), "the link was followed inside the root");
    // A link to an absolute path means a path in the root, which does not exist there. Nothing outside was touched.
    let mut control = guest.control();
    let error = control.call(Request::Mount(mount("tmpfs", "t", "/link", &[]))).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENOENT), "{error}");
    assert_eq!(fs::read_dir(guest.dir.path().join("escaped")).unwrap().count(), 0);
}

#[test]
fn mounts_come_and_go_later() {
    let Some((guest, root)) = isolated("mounts_come_and_go_later") else { return };
    set_up(&guest, spec(&root)).unwrap();
    let mut control = guest.control();
    control.done(Request::Mount(mount("tmpfs", "t", "/later/inside", &[])));
    assert_eq!(output(&guest, shell("grep -c ' /later/inside ' /proc/mounts || cat /proc/mounts | while read a b c; do test $b = /later/inside && echo 1; done")).trim(), "1");
    control.done(Request::Unmount { target: "/later/inside".into() });
    let outside = text(&guest.dir.path().join("staging"));
    control.done(Request::Mount(GuestMount { in_root: false, ..mount("tmpfs", "t", &outside, &[]) }));
    // Spawned outside after the sandbox, so that it does not show inside; its content can be bound there.
    control.done(Request::Mount(mount("bind", &outside, "/later/bound", &[])));
    control.done(Request::Unmount { target: "/later/bound".into() });
    control.done(Request::Unmount { target: outside.clone() });
    for target in ["/later/bound", &outside] {
        let error = control.call(Request::Unmount { target: target.into() }).unwrap_err();
        assert_eq!(error.kind, RemoteErrorKind::NotFound, "{error}");
    }
    assert_eq!(
        control.call(Request::Unmount { target: "relative".into() }).unwrap_err().kind,
        RemoteErrorKind::Invalid
    );
}

#[test]
fn impossible_mounts_name_the_reason() {
    let Some((guest, _root)) = isolated("impossible_mounts_name_the_reason") else { return };
    let mut control = guest.control();
    for (mount, kind, word) in [
        (mount("nosuchfs", "x", "/mnt/x", &[]), RemoteErrorKind::Unsupported, "nosuchfs"),
        (mount("bind", "/no/such/source", "/mnt/x", &[]), RemoteErrorKind::NotFound, "/no/such/source"),
        (mount("tmpfs", "t", "/mnt/x", &["size=nonsense"]), RemoteErrorKind::System, "size"),
        (mount("tmpfs", "t", "/mnt/x", &["no_such_option"]), RemoteErrorKind::System, "no_such_option"),
        (mount("ext4", "serial:none", "/mnt/x", &[]), RemoteErrorKind::NotFound, "none"),
    ] {
        let error = control.call(Request::Mount(mount.clone())).unwrap_err();
        assert_eq!(error.kind, kind, "{mount:?}: {error}");
        assert!(error.message.contains(word), "{error}");
    }
}

#[test]
fn an_overlay_keeps_the_lower_root_as_it_is() {
    let Some((guest, root)) = isolated("an_overlay_keeps_the_lower_root_as_it_is") else { return };
    for dir in ["proc", "sys", "dev"] {
        fs::remove_dir(root.join(dir)).unwrap();
    }
    let run = guest.dir.path().join("run");
    let at = |name: &str| text(&run.join(name));
    let outside = |mount| GuestMount { in_root: false, ..mount };
    let lower = format!("lowerdir={}", root.display());
    let (upper, work) = (format!("upperdir={}", at("rw/upper")), format!("workdir={}", at("rw/work")));
    let mut spec = spec(&run.join("merged"));
    spec.mounts = vec![
        outside(mount("tmpfs", "t", &at("rw"), &[])),
        outside(mount("overlay", "overlay", &at("merged"), &[&lower, &upper, &work])),
    ];
    if let Err(error) = set_up(&guest, spec) {
        assert_eq!(error.kind, RemoteErrorKind::Unsupported, "{error}");
        return skip("an_overlay_keeps_the_lower_root_as_it_is", "the kernel has no overlay file system");
    }
    output(&guest, shell("echo new > /etc/passwd; touch /top; test -c /dev/null && test -d /proc/1"));
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().starts_with("root:"));
    assert!(!root.join("top").exists() && !root.join("dev").exists());
}

#[test]
fn a_read_only_root_is_set_up_as_far_as_it_goes() {
    let Some((guest, root)) = isolated("a_read_only_root_is_set_up_as_far_as_it_goes") else { return };
    fs::remove_dir(root.join("sys")).unwrap();
    let ro = guest.dir.path().join("ro");
    let mut spec = spec(&ro);
    spec.mounts = vec![GuestMount { in_root: false, ..mount("bind", &text(&root), &text(&ro), &["ro"]) }];
    spec.network.dns = vec!["nameserver 192.0.2.1".into()];
    let mut watching = guest.watch();
    assert_eq!(set_up(&guest, spec), Ok(Response::Done));
    for word in ["/sys", "/etc/resolv.conf"] {
        watching.event(|event| match event {
            Event::Log { message, .. } => message.contains(word).then_some(()),
            _ => None,
        });
    }
    assert_eq!(
        output(&guest, shell("test -d /proc/1 && test -c /dev/null && echo ok; touch /x 2>/dev/null || echo ro")),
        "ok\nro\n"
    );
    assert!(!root.join("sys").exists());
    let spec = ProcessSpec { cwd: "/not/there".into(), ..shell("true") };
    let error = guest.control().start("p", spec).unwrap_err();
    assert_eq!(error.kind, RemoteErrorKind::Invalid);
    assert!(error.message.contains("cannot be created"), "{error}");
}

#[test]
fn a_root_can_be_made_read_only_after_its_mount_points() {
    let Some((guest, root)) = isolated("a_root_can_be_made_read_only_after_its_mount_points") else { return };
    let mut spec = spec(&root);
    spec.root_readonly = true;
    spec.mounts = vec![mount("tmpfs", "t", "/scratch", &[])];
    assert_eq!(set_up(&guest, spec), Ok(Response::Done));
    assert_eq!(
        output(&guest, shell("touch /x 2>/dev/null || echo ro; touch /scratch/x /dev/shm/x && echo rw")),
        "ro\nrw\n"
    );
    fs::write(root.join("still-writable-outside"), "").unwrap();
}

#[test]
fn resolver_hostname_and_sysctls_are_set() {
    let Some((guest, root)) = isolated("resolver_hostname_and_sysctls_are_set") else { return };
    fs::write(root.join("etc/resolv.conf"), "of the root").unwrap();
    let mut spec = spec(&root);
    spec.network.dns = vec!["nameserver 192.0.2.1".into(), "search example.org".into()];
    spec.sysctls = vec![("net.ipv4.ip_forward".into(), "1".into())];
    spec.entropy = vec![7; 32];
    assert_eq!(set_up(&guest, spec), Ok(Response::Done));
    let out = output(&guest, shell("cat /etc/resolv.conf /proc/sys/net/ipv4/ip_forward"));
    assert_eq!(out, "nameserver 192.0.2.1\nsearch example.org\n1\n");
    let dns = vec!["nameserver 192.0.2.2".into()];
    guest.control().done(Request::ConfigureNetwork(NetworkSpec { dns, ..NetworkSpec::default() }));
    assert_eq!(output(&guest, shell("cat /etc/resolv.conf")), "nameserver 192.0.2.2\n");
    assert_eq!(fs::read_to_string(root.join("etc/resolv.conf")).unwrap(), "of the root");
}

#[test]
fn a_bad_description_is_refused() {
    let Some((guest, root)) = isolated("a_bad_description_is_refused") else { return };
    let mut spec = spec(&root);
    spec.sysctls = vec![("no.such.sysctl".into(), "1".into())];
    assert_eq!(set_up(&guest, spec).unwrap_err().kind, RemoteErrorKind::NotFound);
    let mut other = Guest::start_isolated();
    let missing = guest.dir.path().join("missing");
    let error = set_up(&other, self::spec(&missing)).unwrap_err();
    assert!(error.message.contains("missing"), "{error}");
    other.control().send(Request::PowerOff);
    other.join();
}

#[test]
fn as_process_1_it_reaps_orphans_and_ignores_signals() {
    let Some((guest, root)) = isolated("as_process_1_it_reaps_orphans_and_ignores_signals") else { return };
    set_up(&guest, spec(&root)).unwrap();
    // Process 1 adopts orphans of orphans, and signals of the sandbox's root user do not end it.
    let script = "(sh -c '(exit 3 &); exit 1' &); for s in HUP INT QUIT TERM USR1 ABRT SEGV KILL; do kill -$s 1; done; \
                  sleep 0.1; ps -o stat | { while read s; do case $s in Z*) echo zombie;; esac; done; }; cat /proc/1/comm";
    assert_eq!(output(&guest, shell(script)).trim(), "hutch-agent-uni");
    guest.control().done(Request::Ping);
    // Signals that come while it makes threads, one for each connection, do not end it either.
    let mut control = guest.control();
    let script = "n=0; while [ $n -lt 10000 ]; do kill -TERM 1; kill -HUP 1; kill -USR1 1; n=$((n+1)); done";
    control.start("kills", shell(script)).unwrap();
    let ends = std::thread::spawn(move || control.wait("kills"));
    while !ends.is_finished() {
        guest.control().done(Request::Ping);
    }
    assert_eq!(ends.join().unwrap(), ExitStatus::Code(0));
}

#[test]
fn power_off_ends_processes_that_cling_to_mounts() {
    let Some((mut guest, root)) = isolated("power_off_ends_processes_that_cling_to_mounts") else { return };
    let mut spec = spec(&root);
    let outside = text(&guest.dir.path().join("outside"));
    spec.mounts = vec![
        GuestMount { in_root: false, ..mount("tmpfs", "t", &outside, &[]) },
        mount("bind", &outside, "/data", &[]),
    ];
    set_up(&guest, spec).unwrap();
    let mut control = guest.control();
    for number in 0..20 {
        let spec = ProcessSpec { cwd: "/data".into(), ..shell("trap '' TERM; while :; do sleep 1000; done") };
        control.start(&format!("p{number}"), spec).unwrap();
    }
    let before = std::time::Instant::now();
    control.send(Request::PowerOff);
    assert!(guest.join().success());
    println!("powered off in {:?}", before.elapsed());
}
