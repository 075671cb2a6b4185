//! Containers in real guests: namespaces, limits, privileges and files of an OCI configuration, seccomp profiles, and hooks
//! in the guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hutch_e2e::{kernels, Pods};
use serde_json::{json, Value};

/// A profile that allows every system call except `mkdir`.
fn no_mkdir(pods: &Pods, name: &str, action: &str) -> String {
    let path = pods.root().at(name);
    let rule = json!({"names": ["mkdir", "mkdirat", "no_such_call"], "action": action, "errnoRet": enotty()});
    fs::write(&path, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}).to_string()).expect("a file");
    path.to_string_lossy().into_owned()
}

/// ENOTTY, an error that mkdir itself never returns.
fn enotty() -> i32 {
    nix::errno::Errno::ENOTTY as i32
}

/// A pod from a configuration, with its containers running.
fn run_file(pods: &Pods, config: &Value) {
    let file = pods.root().at("/pod.json");
    fs::write(&file, config.to_string()).expect("a file");
    let kernel = kernels().pop().expect("a kind of kernel");
    pods.ok(&["pod", "run", "--kernel", &kernel, &file.to_string_lossy()]);
}

#[test]
fn p_098_a_seccomp_profile_confines_a_container_and_all_that_enters_it() {
    let pods = Pods::new();
    let (denied, deadly) =
        (no_mkdir(&pods, "denied.json", "SCMP_ACT_ERRNO"), no_mkdir(&pods, "deadly.json", "SCMP_ACT_KILL_PROCESS"));
    let look = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\t'; mkdir /tmp/new 2>&1; exit 3";
    let refused = "mkdir: can't create directory '/tmp/new': Inappropriate ioctl for device\n";
    let option = format!("seccomp={denied}");
    let run = pods.new_pod("run", "p").args(["-d", "--security-opt", &option]).sh("sleep 1000").end();
    assert!(run.stderr.contains("no such system calls: no_such_call"), "{}", run.stderr);
    run.expect_code(0);
    pods.exec("p", "p", look).expect_code(3).expect_text(&format!("NoNewPrivs:0\nSeccomp:2\n{refused}"));
    let as_user = ["container", "exec", "-u", "1000", "p", "p", "--", "/bin/sh", "-c", look];
    pods.hutch(&as_user).end().expect_code(3).expect_text(&format!("NoNewPrivs:0\nSeccomp:2\n{refused}"));
    // The machine boots again from its records.
    fs::remove_file(&denied).expect("the profile's file is removed");
    pods.ok(&["pod", "stop", "-t", "0", "p"]);
    pods.ok(&["pod", "start", "p"]);
    pods.exec("p", "p", "grep Seccomp: /proc/self/status").expect_text("Seccomp:\t2\n");

    let root = pods.root().path().to_string_lossy().into_owned();
    let (deadly, denied) =
        (format!("seccomp={deadly}"), format!("seccomp={}", no_mkdir(&pods, "d.json", "SCMP_ACT_ERRNO")));
    for (name, options, script, code) in [
        ("deadly", vec![deadly.as_str()], "exec mkdir /tmp/new", 128 + 31),
        (
            "strict",
            vec![&denied, "no-new-privileges"],
            "grep -q 'NoNewPrivs:.1' /proc/self/status && ! mkdir /tmp/new",
            0,
        ),
        ("free", vec![&denied, "seccomp=unconfined"], "grep -q 'Seccomp:.0' /proc/self/status && mkdir /tmp/new", 0),
    ] {
        let mut words = vec!["container", "create", "p", "--name", name, "--rootfs", &root, "-u", "1000"];
        options.iter().for_each(|option| words.extend(["--security-opt", option]));
        words.extend(["--", "/bin/sh", "-c", script]);
        pods.ok(&words);
        pods.ok(&["container", "start", "p", name]);
        pods.hutch(&["container", "wait", "p", name]).end().expect_code(code);
    }
    pods.ok(&["pod", "rm", "-f", "p"]);
    // hutch finds a mistake before it starts a machine.
    fs::write(pods.root().at("bad.json"), r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#).expect("a file");
    let bad = format!("seccomp={}", pods.root().at("bad.json").display());
    let run = pods.new_pod("run", "q").args(["-d", "--security-opt", &bad]).sh("true").end();
    run.expect_code(1).expect_complaint(&["bad.json", "SCMP_ACT_NOTIFY"]);
    pods.expect_none();
}

#[test]
fn p_166_hooks_run_in_the_guest() {
    let pods = Pods::new();
    let root = pods.root();
    let hooks = root.at("/hooks");
    let hook = |kind: &str, text: &str| {
        let dir = hooks.join(kind);
        fs::create_dir_all(&dir).expect("a directory");
        // The only shell in the guest itself is the one that the hooks bring.
        fs::write(dir.join("hook"), format!("#!/run/hutch/volumes/hooks/busybox sh\n{text}\n")).expect("a hook");
        fs::set_permissions(dir.join("hook"), fs::Permissions::from_mode(0o755)).expect("an executable");
    };
    let note = "PATH=/run/hutch/volumes/hooks; s=$(busybox cat); echo \"$1 $s\" >> /run/hutch/volumes/hooks/log";
    hook("prestart", note);
    hook("poststart", note);
    hook("poststop", note);
    fs::copy("/bin/busybox", hooks.join("busybox")).expect("a busybox");
    let inside = |text: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", text], "timeout": 300});
    let config = |id: &str, start_container: Value| {
        json!({
            "id": id, "resources": {"memory_mib": 192},
            "agent": {"guest_hooks": "/run/hutch/volumes/hooks"},
            "volumes": [{"tag": "hooks", "path": hooks}],
            "hooks": {"start_container": start_container},
            "containers": [{"id": "c", "rootfs": root.path(), "command": {"args": ["/bin/sleep", "1000"]}}],
        })
    };
    run_file(&pods, &config("p", json!([inside("cat > /tmp/state")])));
    let state: Value = serde_json::from_slice(&fs::read(root.at("/tmp/state")).expect("the hook ran")).expect("JSON");
    assert_eq!((&state["id"], &state["status"], &state["pid"]), (&json!("c"), &json!("created"), &json!(1)));
    let log = || fs::read_to_string(hooks.join("log")).unwrap_or_default();
    let seen = log();
    let kinds = |text: &str| {
        let word = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        text.lines().map(word).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(kinds(&seen), "prestart poststart", "{seen}");
    assert!(seen.contains("\"created\"") && seen.contains("\"running\"") && seen.contains("\"c\""), "{seen}");
    pods.ok(&["container", "stop", "-t", "0", "p", "c"]);
    assert_eq!(kinds(&log()), "prestart poststart poststop", "{}", log());
    pods.ok(&["pod", "rm", "-f", "p"]);

    // A hook that fails in the container fails the start, and the error shows the hook's output.
    let file = root.at("/pod.json");
    fs::write(&file, config("q", json!([inside("echo the licence has expired; exit 6")])).to_string()).expect("a file");
    let kernel = kernels().pop().expect("a kind of kernel");
    let run = pods.hutch(&["pod", "run", "--kernel", &kernel, &file.to_string_lossy()]).end();
    run.expect_code(1).expect_complaint(&["startContainer hook", "code 6", "the licence has expired"]);
    pods.ok(&["pod", "rm", "-f", "q"]);
    // A prestart hook that fails in the guest fails the creation.
    hook("prestart", "echo not in this guest; exit 7");
    fs::write(&file, config("r", json!([])).to_string()).expect("a file");
    let run = pods.hutch(&["pod", "run", "--kernel", &kernel, &file.to_string_lossy()]).end();
    run.expect_code(1).expect_complaint(&["prestart of the guest", "code 7", "not in this guest"]);
    pods.expect_none();
}

/// Prints a container's view, one property a line.
const LOOK: &str = r#"
    exec 2>&1
    hostname; echo $$; pwd; id -u; id -g; id -G; ulimit -n; ulimit -Hn; cat /proc/self/cgroup
    grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\t'
    cat /proc/sys/kernel/msgmax; echo 1 > /proc/sys/kernel/msgmax
    head -c 1 /proc/interrupts | wc -c; ls -A /sys/kernel | wc -l
    touch /new; touch /tmp/new && ls /tmp; df -k /tmp | grep -c '1024 '
    cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max; mkdir /sys/fs/cgroup/new
    ls /dev | grep -v kcore; mkdir /tmp/denied
"#;

/// The process finds each part of its OCI configuration applied.
#[test]
fn what_an_oci_configuration_says_holds_in_a_real_guest() {
    let pods = Pods::new();
    let root = pods.root();
    let out = root.at("/out");
    fs::create_dir(&out).expect("a directory");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).expect("a directory for all");
    let namespaces = "for kind in pid ipc uts mnt cgroup net; do busybox readlink /proc/self/ns/$kind; done";
    let script = format!("({LOOK}) > /out/report; {namespaces} > /out/namespaces");
    let capabilities = ["CAP_CHOWN", "CAP_KILL"];
    let oci = json!({
        "ociVersion": "1.2.0", "hostname": "inner",
        "process": {
            "user": {"uid": 1000, "gid": 1000, "additionalGids": [29]}, "cwd": "/home/user",
            "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"], "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}],
            "capabilities": {
                "bounding": capabilities, "permitted": capabilities, "effective": capabilities,
                "inheritable": ["CAP_CHOWN"], "ambient": ["CAP_CHOWN"],
            },
        },
        "root": {"path": root.path(), "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1024k", "mode=1777"]},
            {"destination": "/out", "type": "bind", "source": out, "options": ["rbind", "rw"]},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
            "resources": {"pids": {"limit": 20}, "memory": {"limit": 33_554_432}},
            "sysctl": {"kernel.msgmax": "4321"},
            "maskedPaths": ["/proc/interrupts", "/sys/kernel", "/no/such"], "readonlyPaths": ["/proc/sys"],
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": enotty(),
                    "args": [{"index": 1, "value": 0o777, "op": "SCMP_CMP_EQ"}]}],
            },
        },
    });
    let container = |id: &str, annotations: Value| {
        let command = json!({"args": ["/bin/sleep", "1000"]});
        json!({"id": id, "rootfs": root.path(), "readonly_rootfs": true, "command": command, "annotations": annotations})
    };
    let containers =
        [container("first", json!({"dev.hutch.oci.config": oci.to_string()})), container("second", json!({}))];
    run_file(&pods, &json!({"id": "p", "resources": {"memory_mib": 256}, "containers": containers}));
    pods.hutch(&["container", "wait", "p", "first"]).end().expect_code(0);
    let report = fs::read_to_string(out.join("report")).expect("a report");
    let expected = "\
        inner\n1\n/home/user\n1000\n1000\n1000 29\n55\n66\n0::/\n\
        CapInh:0000000000000001\nCapPrm:0000000000000001\nCapEff:0000000000000001\nCapBnd:0000000000000021\n\
        CapAmb:0000000000000001\nNoNewPrivs:1\nSeccomp:2\n\
        4321\n/bin/sh: can't create /proc/sys/kernel/msgmax: Read-only file system\n\
        0\n0\n\
        touch: /new: Read-only file system\nnew\n1\n\
        20\n33554432\nmkdir: can't create directory '/sys/fs/cgroup/new': Inappropriate ioctl for device\n\
        fd\nfull\nnull\nptmx\nrandom\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
        mkdir: can't create directory '/tmp/denied': Inappropriate ioctl for device\n";
    assert_eq!(report, expected);
    let first = fs::read_to_string(out.join("namespaces")).expect("a list");
    let second = pods.exec("p", "second", &namespaces.replace("busybox", "/bin/busybox")).text();
    let pairs: Vec<_> = first.lines().zip(second.lines()).collect();
    assert_eq!(pairs.len(), 6, "{first}{second}");
    for (mine, other) in pairs {
        assert_eq!(mine == other, mine.starts_with("net:"), "{mine} {other}: only the network is shared");
    }
    pods.ok(&["pod", "rm", "-f", "p"]);
    pods.expect_none();
}
