//! Shared directories, with a real guest: suites that test file systems, natively and in the guest with the same result, and
//! programs that depend on a file system. The guest's root is the host's, so that it has the host's programs.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use hutch_e2e::{external, kernels, quick, scratch_dir, Hutch, HANG_TIMEOUT};
use tempfile::TempDir;

/// The configuration of the suite of POSIX's rules: features of Linux, and two users that every Debian has.
const POSIX: &str = "\
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
[dummy_auth]
entries = [['nobody', 'nogroup'], ['daemon', 'daemon']]
";

/// Operations of fsx, unless `HUTCH_E2E_FSX_OPERATIONS` says otherwise, and parts of the names of tests of the suite, unless
/// `HUTCH_E2E_POSIX` does. The emulated host takes milliseconds for each request of the guest. All tests and more
/// operations run in CI by the driver of the host's kernel instead (`kernel_tests.rs` of the file server).
const FSX_OPERATIONS: &str = "200";
const POSIX_TESTS: &str = "chmod:: mkdir:: unlink::";

/// As an ordinary user: a repository is made, packed, cloned from a bare one and checked; a package is built and installed;
/// five processes at once write a database with a log beside it that all of them map.
const PROGRAMS: &str = r#"
set -e
cd "$1"
export HOME="$1" GIT_CONFIG_NOSYSTEM=1 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
git init -q one 2>/dev/null
git -C one config user.email user@example.org; git -C one config user.name user
for i in 1 2 3; do
    mkdir one/d$i; seq $((i * 1000)) > one/d$i/file; ln -s ../d1/file one/d$i/link
    git -C one add .; git -C one commit -q -m "commit $i"
done
git clone -q --bare one bare
git -C bare gc -q
git clone -q bare two
git -C two fsck --full --strict 2>&1
git -C two log --oneline | wc -l
git -C two status --porcelain
cmp one/d3/file two/d3/file

mkdir -p package/DEBIAN package/usr/share/example
printf 'Package: example
Version: 1
Architecture: all
Maintainer: user <user@example.org>
Description: example
' > package/DEBIAN/control
seq 10000 > package/usr/share/example/file
ln package/usr/share/example/file package/usr/share/example/second; ln -s file package/usr/share/example/link
dpkg-deb --root-owner-group --build package package.deb >/dev/null
mkdir -p root/var/lib/dpkg/info root/var/lib/dpkg/updates; : > root/var/lib/dpkg/status
for i in 1 2; do
    dpkg --root="$PWD/root" --force-not-root --force-bad-path --log=/dev/null -i package.deb >/dev/null
done
cmp package/usr/share/example/file root/usr/share/example/second
stat -c %h root/usr/share/example/file
dpkg --root="$PWD/root" --verify example

sqlite3 base 'PRAGMA journal_mode=wal; CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT);'
for i in 1 2 3 4 5; do
    sqlite3 base "PRAGMA busy_timeout=120000; BEGIN IMMEDIATE; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 500)
        INSERT INTO t (text) SELECT hex(randomblob(50)) FROM c; COMMIT;" >/dev/null &
done
wait
sqlite3 base 'SELECT count(*) FROM t; PRAGMA integrity_check;'
"#;

/// The programs' output: commits, names of a file, journal mode, rows, and the check of the database.
const PROGRAMS_PRINT: &str = "3\n2\nwal\n2500\nok\n";

/// Runs a suite of rules and a random one. Each leaves its output and its exit code in a file of `out`, so that one that
/// fails does not keep the other from running.
const SUITES: &str = r#"
part() {
    name=$1; shift
    "$@" > "/mnt/out/$name" 2>&1
    echo $? > "/mnt/out/$name.code"
    echo "$name: done $(cut -d' ' -f1 /proc/uptime) s after the start of the guest"
}
part fsx "$FSX" -S 7 -N "$OPERATIONS" -P /mnt/out /mnt/fsx/file
part posix env NO_COLOR=1 "$PJDFSTEST" -c /mnt/out/posix.toml -p /mnt/posix $TESTS
"#;

fn scratch() -> TempDir {
    let dir = tempfile::tempdir_in(scratch_dir()).expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    dir
}

fn volume(source: &Path, target: &str) -> [String; 2] {
    ["-v".to_owned(), format!("{}:{target}", source.display())]
}

/// A guest with the host's root, which it sees through an overlay: nothing that it writes there reaches the host.
fn guest() -> Hutch {
    let kernel = kernels().pop().expect("a kind of kernel");
    Hutch::new("run").args(["--rootfs", "/", "--rootfs-overlay", "-m", "512M"]).kernel(kernel)
}

/// Writes a line that the test runner does not hide.
fn report(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// The results of the suite by the names of its tests. Reasons, which follow in lines that are indented, have names of
/// temporary files in them.
fn results(output: &str) -> BTreeMap<String, String> {
    let lines = output.lines().filter(|line| !line.starts_with(char::is_whitespace) && line.contains("::"));
    let result = |line: &str| line.split_once(' ').map(|(name, result)| (name.to_owned(), result.trim().to_owned()));
    lines.filter_map(result).collect()
}

/// Whether a test of the suite, by its name, may have another result in the guest: it makes device nodes, which a share
/// refuses, or needs a limit of links.
fn may_differ(name: &str) -> bool {
    let nodes = name.ends_with("::block") || name.starts_with("mknod::") && name.ends_with("::char");
    // glibc knows no limit of links for FUSE, and answers 127.
    nodes || name == "link::link_count_max"
}

/// The suite has the same result by the name of each test.
fn compare(native: &BTreeMap<String, String>, guest: &BTreeMap<String, String>) {
    let names = |results: &BTreeMap<String, String>| results.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(native), names(guest), "the tests that ran natively, and in the guest");
    let (nodes, others): (Vec<_>, Vec<_>) =
        native.iter().filter(|(name, result)| guest[*name] != **result).partition(|(name, _)| may_differ(name));
    let others: Vec<_> =
        others.iter().map(|(name, result)| format!("{name}: {result}, in the guest {}", guest[*name])).collect();
    assert_eq!(others, Vec::<String>::new());
    let count = |result: &str| guest.values().filter(|found| *found == result).count();
    let (passed, skipped, failed) = (count("ok"), count("skipped"), count("FAILED"));
    let refused = nodes.iter().filter(|(name, _)| *name != "link::link_count_max").count();
    assert_eq!(failed, refused, "of those that may differ: {nodes:?}");
    assert!(passed > 50, "only {passed} tests passed");
    report(&format!("pjdfstest in the guest: {passed} passed, {skipped} skipped, {failed} refused (device nodes)"));
}

fn natively(pjdfstest: &Path, config: &Path, tests: &str) -> String {
    let dir = scratch();
    let mut command = Command::new(pjdfstest);
    command.env("NO_COLOR", "1").arg("-c").arg(config).arg("-p").arg(dir.path()).args(tests.split_whitespace());
    let output = command.output().expect("pjdfstest runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "natively: {text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn suites_that_test_file_systems_have_the_same_result_in_a_share() {
    let Some([fsx, pjdfstest]) = external(["HUTCH_E2E_FSX", "HUTCH_E2E_PJDFSTEST"]) else { return };
    let length = |variable, default: &str| std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let operations = length("HUTCH_E2E_FSX_OPERATIONS", FSX_OPERATIONS);
    let tests = length("HUTCH_E2E_POSIX", POSIX_TESTS);
    let [out, posix, random] = [scratch(), scratch(), scratch()];
    let config = out.path().join("posix.toml");
    fs::write(&config, POSIX).expect("the configuration of the suite");
    let native = natively(&pjdfstest, &config, &tests);
    let variables = [
        ("PJDFSTEST", pjdfstest.to_string_lossy().into_owned()),
        ("FSX", fsx.to_string_lossy().into_owned()),
        ("OPERATIONS", operations.clone()),
        ("TESTS", tests),
    ];
    let ended = guest()
        .args(volume(out.path(), "/mnt/out"))
        .args(volume(posix.path(), "/mnt/posix:suid=keep"))
        .args(volume(random.path(), "/mnt/fsx"))
        .args(variables.iter().flat_map(|(name, value)| ["-e".to_owned(), format!("{name}={value}")]))
        .timeout(6 * HANG_TIMEOUT)
        .sh(SUITES)
        .end()
        .expect_code(0);
    report(&ended.text());
    let of = |part: &str| fs::read_to_string(out.path().join(part)).unwrap_or_default();
    assert_eq!(of("fsx.code").trim(), "0", "{}", of("fsx"));
    assert!(of("fsx").contains("A-OK"), "{}", of("fsx"));
    compare(&results(&native), &results(&of("posix")));
}

#[test]
fn an_ordinary_user_clones_a_repository_installs_a_package_and_writes_a_database() {
    if std::env::var_os("HUTCH_E2E_PROGRAMS").is_none() {
        return report("SKIPPED: takes minutes on an emulated host, only with --long or HUTCH_E2E_PROGRAMS");
    }
    for program in ["git", "sqlite3", "dpkg-deb"] {
        let found = ["/usr/bin", "/usr/local/bin"].iter().any(|place| Path::new(place).join(program).exists());
        if !found {
            assert!(quick(), "{program} is not installed: run `cargo xtask test`");
            return report(&format!("SKIPPED: this host has no {program}"));
        }
    }
    let user = scratch();
    chown(user.path(), Some(1000), Some(1000)).expect("an owner");
    let ended = guest()
        .args(["-u", "1000:1000"])
        .args(volume(user.path(), "/mnt/user"))
        .args(["--", "/bin/sh", "-c", PROGRAMS, "sh", "/mnt/user"])
        .end()
        .expect_code(0);
    ended.expect_text(PROGRAMS_PRINT);
    let owner = fs::metadata(user.path().join("two/d1/file")).expect("a file of the clone");
    assert_eq!((owner.uid(), owner.gid()), (1000, 1000));
}
