//! Shared directories, with a real guest: suites that test file systems, natively and in the guest with the same result, and
//! programs that depend on a file system. The guest's root is the host's, so that it has the host's programs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use hutch_e2e::{external, kernels, quick, scratch_dir, Hutch, HANG_TIMEOUT};
use hutch_file_suites::{compare, database, installed, package, repository, results, Outcome, CONFIG};
use tempfile::TempDir;

/// Operations of fsx, unless `HUTCH_E2E_FSX_OPERATIONS` says otherwise, and parts of the names of tests of the suite, unless
/// `HUTCH_E2E_POSIX` does. The emulated host takes milliseconds for each request of the guest. All tests and more
/// operations run in CI by the driver of the host's kernel instead (`suite_tests.rs` of the file server).
const FSX_OPERATIONS: &str = "200";
const POSIX_TESTS: &str = "chmod:: mkdir:: unlink::";

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
    fs::write(&config, CONFIG).expect("the configuration of the suite");
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
    let Outcome { passed, skipped, refused } = compare(&results(&native), &results(&of("posix")));
    assert!(passed > 50, "only {passed} tests passed");
    report(&format!("pjdfstest in the guest: {passed} passed, {skipped} skipped, {refused} refused (device nodes)"));
}

#[test]
fn an_ordinary_user_clones_a_repository_installs_a_package_and_writes_a_database() {
    if std::env::var_os("HUTCH_E2E_PROGRAMS").is_none() {
        return report("SKIPPED: takes minutes on an emulated host, only with --long or HUTCH_E2E_PROGRAMS");
    }
    let scripts = [repository(3), package(), database()];
    let needs: Vec<&str> = scripts.iter().flat_map(|script| script.needs).copied().collect();
    if !installed(&needs) {
        assert!(quick(), "not all of {needs:?} are installed: run `cargo xtask test`");
        return;
    }
    let user = scratch();
    chown(user.path(), Some(1000), Some(1000)).expect("an owner");
    let start = "set -e\ncd /mnt/user\nexport HOME=/mnt/user\n".to_owned();
    let text = scripts.iter().fold(start, |text, script| text + &script.text);
    let ended = guest()
        .args(["-u", "1000:1000"])
        .args(volume(user.path(), "/mnt/user"))
        .args(["--", "/bin/sh", "-c", &text])
        .end()
        .expect_code(0);
    ended.expect_text(&scripts.map(|script| script.prints).concat());
    let owner = fs::metadata(user.path().join("two/d1/file")).expect("a file of the clone");
    assert_eq!((owner.uid(), owner.gid()), (1000, 1000));
}
