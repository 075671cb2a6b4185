//! Every way to give an option, and the message of every mistake.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use hutch_guest::{KernelChoice, DEFAULT_DIR};
use hutch_vmm::config::{ShareCache, SharePolicy};
use tempfile::TempDir;

use super::*;
use crate::args::{Args, Command};
use crate::resolve::mounts::{Tmpfs, Volume};

fn own_env(name: &OsStr) -> Option<OsString> {
    match name.to_str()? {
        "LANG" => Some("C".into()),
        "TERM" => Some("vt100".into()),
        "BYTES" => Some(OsString::from_vec(vec![0xff])),
        _ => None,
    }
}

fn resolve_words(words: Vec<OsString>) -> Result<RunPlan, ResolveError> {
    let Command::Run(args) = Args::try_parse_from(words).expect("parsable").command else { panic!("not run") };
    run(*args, &Host { memory_mib: 4096, env: &own_env, stdin_tty: false, pid: 77 })
}

/// Resolves `hutch run --rootfs DIR <words> -- true` where `@` in a word is a directory with some files.
fn resolve(words: &[&str]) -> Result<RunPlan, ResolveError> {
    let dir = directory();
    resolve_in(dir.path(), words)
}

pub(crate) fn resolve_in(dir: &Path, words: &[&str]) -> Result<RunPlan, ResolveError> {
    let at = dir.to_str().unwrap();
    let mut all: Vec<OsString> = ["hutch", "run", "--rootfs", at].map(OsString::from).to_vec();
    all.extend(words.iter().map(|word| OsString::from(word.replace('@', at))));
    if !words.contains(&"--") {
        all.extend(["--", "true"].map(OsString::from));
    }
    resolve_words(all)
}

pub(crate) fn directory() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("file"), "# comment\n\nA=1=2\nLANG\n").unwrap();
    fs::write(dir.path().join("bad-env"), "A=1\n=2\n").unwrap();
    drop(UnixListener::bind(dir.path().join("socket")).unwrap());
    dir
}

#[test]
fn the_time_for_the_boot_is_the_environments() {
    let resolve = |seconds: Option<&'static str>| {
        let words = ["hutch", "run", "--rootfs", "/", "--", "true"];
        let Command::Run(args) = Args::try_parse_from(words).unwrap().command else { panic!("not run") };
        let env = |name: &OsStr| seconds.filter(|_| name == "HUTCH_BOOT_TIMEOUT").map(OsString::from);
        run(*args, &Host { memory_mib: 4096, env: &env, stdin_tty: false, pid: 77 }).map(|plan| plan.boot_timeout)
    };
    assert_eq!(resolve(None).unwrap(), Duration::from_secs(60));
    assert_eq!(resolve(Some("")).unwrap(), Duration::from_secs(60));
    assert_eq!(resolve(Some("300")).unwrap(), Duration::from_secs(300));
    assert!(matches!(resolve(Some("soon")), Err(ResolveError::Seconds { flag: "HUTCH_BOOT_TIMEOUT", .. })));
}

#[test]
fn defaults() {
    let dir = directory();
    let plan = resolve_in(dir.path(), &[]).unwrap();
    assert_eq!((plan.cpus, plan.memory_mib, plan.name.as_str(), plan.hostname.as_str()), (1, 256, "run-77", "hutch"));
    assert_eq!(plan.rootfs, RootSource::Directory(dir.path().to_owned()));
    assert_eq!((plan.kernel, plan.root_mode), (KernelChoice::Distro, RootMode::ReadWrite));
    assert_eq!(plan.guest_dir, Path::new(DEFAULT_DIR));
    assert_eq!(plan.process.args, ["true"]);
    assert_eq!((plan.process.cwd.as_str(), plan.process.stdin), ("/", false));
    assert_eq!(
        plan.process.env,
        [("PATH".to_owned(), env::resolve(&[], &[], false, &own_env).unwrap()[0].1.clone().into_string().unwrap())]
    );
    assert_eq!((plan.tap, plan.timeout, plan.console), (None, None, None));
}

fn volume(source: PathBuf, is_file: bool, target: &str, read_only: bool) -> Volume {
    let policy = SharePolicy { strip_privileges: true, ..SharePolicy::default() };
    Volume { name: None, source, is_file, target: target.into(), read_only, policy, policy_options: Vec::new() }
}

#[test]
fn options_of_volumes_set_the_policy_of_the_share() {
    let policy = |text: &str| {
        let volume = resolve(&["-v", text]).unwrap().volumes.remove(0);
        (volume.read_only, volume.policy)
    };
    let strip = SharePolicy { strip_privileges: true, ..SharePolicy::default() };
    assert_eq!(policy("@/sub:/x"), (false, strip), "directories of the host");
    assert_eq!(policy("named:/x"), (false, SharePolicy::default()), "hutch's own");
    assert_eq!(policy("@/sub:/x:rw,cache=none"), (false, SharePolicy { cache: ShareCache::None, ..strip }));
    let all = SharePolicy { cache: ShareCache::Always, strip_privileges: false, trusted_xattrs: true };
    assert_eq!(policy("@/sub:/x:ro,cache=always,suid=keep,trusted=on"), (true, all));
    assert_eq!(policy("named:/x:suid=strip,trusted=off,cache=auto"), (false, strip));
}

#[test]
fn everything_at_once() {
    let dir = directory();
    let line = "--cpus 4 --memory 1G -e A=b=c -e LANG -e EMPTY= -w /w -u 1:2 -v @/sub:/data//x/:ro -v @/file:/etc/f \
                --tmpfs /t:size=1m,mode=700 --rootfs-overlay -i --name n1 --kernel @/file --initrd @/file \
                --append quiet --append a=b --console @/console --net tap=tap0 --disk @/file:ro --timeout 1.5 \
                --ulimit nofile=10:20 --ulimit core=unlimited --no-jail --verbose --guest-dir @/sub -- sh -c true";
    let words: Vec<&str> = line.split_whitespace().collect();
    let plan = resolve_in(dir.path(), &words).unwrap();
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    assert_eq!((plan.cpus, plan.memory_mib), (4, 1024));
    let env: Vec<_> = plan.process.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(env[1..], ["A=b=c", "LANG=C", "EMPTY="]);
    assert_eq!(plan.volumes, [volume(at("sub"), false, "/data/x", true), volume(at("file"), true, "/etc/f", false),]);
    assert_eq!(plan.tmpfs, [Tmpfs { target: "/t".into(), options: vec!["size=1m".into(), "mode=700".into()] }]);
    assert_eq!((plan.name.as_str(), plan.hostname.as_str()), ("n1", "n1"));
    assert_eq!(plan.append, ["quiet", "a=b"]);
    assert!(dir.path().join("console").exists());
    assert_eq!(plan.tap.as_deref(), Some("tap0"));
    assert!(plan.disks[0].read_only && plan.root_mode == RootMode::Overlay && plan.verbose && plan.process.stdin);
    assert!(!plan.jail);
    assert_eq!(plan.timeout, Some(Duration::from_millis(1500)));
    let limits: Vec<_> = plan.process.rlimits.iter().map(|r| (r.kind.as_str(), r.soft, r.hard)).collect();
    assert_eq!(limits, [("RLIMIT_NOFILE", 10, 20), ("RLIMIT_CORE", u64::MAX, u64::MAX)]);
    assert_eq!(plan.process.args, ["sh", "-c", "true"]);
}

#[test]
fn an_env_file_is_read_before_e_and_a_terminal_sets_term() {
    let plan = resolve(&["--env-file", "@/file", "-e", "A=over", "-t"]).unwrap();
    let env: Vec<_> = plan.process.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(env[1..], ["TERM=vt100", "A=over", "LANG=C"]);
}

/// As docker has it.
#[test]
fn a_variable_that_is_not_set_stays_unset_and_values_are_bytes() {
    let plan =
        resolve(&["-e", "A=1", "-e", "A", "-e", "PATH", "-e", "NOT", "-e", "EMPTY=", "-e", "BYTES", "-e", "LANG"]);
    let process = plan.unwrap().process;
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(process.env, [text("EMPTY", ""), text("LANG", "C")], "also not by a default or an earlier -e");
    assert_eq!(process.env_bytes, [("BYTES".to_owned(), vec![0xff])]);
    let dir = directory();
    let mut words: Vec<OsString> =
        ["hutch", "run", "--rootfs", dir.path().to_str().unwrap()].map(OsString::from).to_vec();
    words.extend([OsString::from("-e"), OsString::from_vec(b"RAW=a=\xff\n".to_vec()), "true".into()]);
    let process = resolve_words(words).unwrap().process;
    assert_eq!(process.env_bytes, [("RAW".to_owned(), b"a=\xff\n".to_vec())]);
}

#[test]
fn every_mistake_has_its_own_message() {
    for (words, message) in [
        ("--cpus 0", "--cpus \"0\""),
        ("--cpus 1000", "1 to 254"),
        ("--cpus -1", "--cpus \"-1\""),
        ("--cpus two", "--cpus \"two\""),
        ("--memory 0", "too little"),
        ("--memory 1M", "too little"),
        ("--memory 5G", "more than this host has (4096 MiB)"),
        ("--memory lots", "is not a size"),
        ("--rootfs @/none", "--rootfs"),
        ("--rootfs @/file", "holds no file system"),
        ("--rootfs /dev/null", "neither a directory"),
        ("--kernel none-such", "kernel none-such"),
        ("--kernel @/sub", "is not a regular file"),
        ("--initrd @/none", "initramfs"),
        ("--console @/sub", "cannot write the console to"),
        ("--console @/none/c", "cannot write the console to"),
        ("--append =x", "no name before"),
        ("-v @/sub", "SRC:DST"),
        ("-v :/x", "SRC:DST"),
        ("-v @/sub:", "SRC:DST"),
        ("-v @/sub:/x:cache=some", "\"cache=some\" is not an option"),
        ("-v @/sub:/x:ro,fast", "\"fast\" is not an option"),
        ("-v @/none:/x", "-v: source"),
        ("-v @/socket:/x", "neither a directory nor a file"),
        ("-v @/sub:relative", "must be an absolute path"),
        ("-v @/sub:/", "not `/`"),
        ("-v @/sub:/a/../b", "without `..`"),
        ("-v @/sub:/x -v @/sub:/x/", "given twice"),
        ("-v @/sub:/x --tmpfs /x", "given twice"),
        ("--tmpfs relative", "must be an absolute path"),
        ("--tmpfs /x:", "DST:OPTION"),
        ("--disk @/none", "--disk"),
        ("--disk @/sub", "neither a regular file nor a block device"),
        ("-e =x", "NAME=VALUE"),
        ("--env-file @/none", "--env-file"),
        ("--env-file @/bad-env", "line 2"),
        ("-w relative", "-w \"relative\""),
        ("-u a:b:c", "USER:GROUP"),
        ("-u :g", "USER:GROUP"),
        ("--ulimit nofile", "nofile=1024:4096"),
        ("--ulimit nofile=x", "nofile=1024:4096"),
        ("--ulimit files=1", "is unknown: use one of as, core"),
        ("--ulimit nofile=2:1", "exceeds the hard limit"),
        ("--net bridge", "tap=NAME"),
        ("--net tap=", "tap=NAME"),
        ("--net tap=name-longer-than-15", "tap=NAME"),
        ("--name x/y", "--name"),
        ("--hostname a/b", "--hostname"),
        ("--timeout 0", "--timeout"),
        ("--timeout -5", "--timeout"),
        ("--timeout soon", "--timeout"),
        ("--timeout inf", "--timeout"),
        ("-it", "not a terminal"),
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        // --rootfs may be given only once, so these cases bring their own.
        let result = match words[0] {
            "--rootfs" => {
                let dir = directory();
                let path = words[1].replace('@', dir.path().to_str().unwrap());
                resolve_words(["hutch", "run", "--rootfs", &path, "true"].map(OsString::from).to_vec())
            }
            _ => resolve(&words),
        };
        let error = result.expect_err(&format!("{words:?} was accepted")).to_string();
        assert!(error.contains(message), "{words:?}: {error}");
    }
}

#[test]
fn words_that_are_not_utf8_are_refused() {
    let dir = directory();
    let mut words: Vec<OsString> = ["hutch", "run", "--rootfs"].map(OsString::from).to_vec();
    words.extend([dir.path().into(), "echo".into(), OsString::from_vec(b"caf\xe9".to_vec())]);
    let error = resolve_words(words).unwrap_err().to_string();
    assert!(error.contains("caf") && error.contains("UTF-8"), "{error}");
}

#[test]
fn an_empty_command_is_refused() {
    assert!(matches!(resolve(&["--", ""]), Err(ResolveError::EmptyCommand)));
}
