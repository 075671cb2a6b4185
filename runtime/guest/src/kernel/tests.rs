//! The steps around the compiler, with shims for make and gcc; CI compiles a real kernel.

use std::cell::RefCell;
use std::fs;
use std::path::Path;

use super::super::progress::BuildEvent;
use super::super::testing::{vmlinux, FakeArchive};
use super::source::SourceError;
use super::*;

const REQUEST: &str = "CONFIG_A=y\nCONFIG_B=n\n";

/// An archive with a source package, a make that "compiles" the answer lying in the archive, and all tools installed.
fn archive(version: &str) -> FakeArchive {
    let archive = FakeArchive::new();
    let root = archive.path("").display().to_string();
    offer_source(&archive, version);
    fs::write(archive.path("vmlinux"), vmlinux("6.12.5")).unwrap();
    fs::write(archive.path("dot-config"), "CONFIG_A=y\n# CONFIG_B is not set\n").unwrap();
    archive.script(
        "dpkg-query",
        r#"for last; do :; done; case $last in linux-source*) exit 1;; *) echo "installed 1";; esac"#,
    );
    archive.script("gcc", "echo 'gcc (Test) 1.2.3'");
    archive.script("objcopy", r#"shift 2; cp "$1" "$2""#);
    archive.script(
        "make",
        &format!(
            r#"echo "$*" >> {root}/make.log
obj=; for word; do case $word in O=*) obj=${{word#O=}} ;; esac; done
mkdir -p "$obj/include/config"
case "$*" in
  *allnoconfig*) grep -q CONFIG_A "$KCONFIG_ALLCONFIG" && cp {root}/dot-config "$obj/.config" ;;
  *vmlinux*) [ -e {root}/broken ] && {{ echo "it is broken" >&2; exit 2; }}
     echo CC a; echo CC b; echo LD vmlinux
     cp {root}/vmlinux "$obj/vmlinux"; echo 6.12.5 > "$obj/include/config/kernel.release" ;;
esac"#
        ),
    );
    archive
}

fn offer_source(archive: &FakeArchive, version: &str) {
    // A true .tar.xz, for the true tar and xz.
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "linux-source-6.12/Makefile", b"x\n".as_slice()).unwrap();
    let packed = super::super::testing::compress(super::super::Compression::Xz, &tar.into_inner().unwrap());
    archive.offer("linux-source-6.12", version, &[("./usr/src/linux-source-6.12.tar.xz", packed)], false);
}

fn build(archive: &FakeArchive, out: &Path, config: &str, force: bool) -> Result<SourceKernel, SourceError> {
    SourceBuild { config: config.into(), out_dir: out.into(), force }
        .run_with(&archive.apt(), &mut |_: BuildEvent<'_>| {})
}

fn compilations(archive: &FakeArchive) -> usize {
    let log = fs::read_to_string(archive.path("make.log")).unwrap_or_default();
    log.lines().filter(|line| line.ends_with("vmlinux")).count()
}

#[test]
fn a_kernel_is_built_once_and_kept_until_something_changes() {
    let (archive, out) = (archive("6.12.5-1"), tempfile::tempdir().unwrap());
    let first = build(&archive, out.path(), REQUEST, false).unwrap();
    assert!(!first.reused);
    assert_eq!(fs::read(&first.vmlinux).unwrap(), vmlinux("6.12.5"));
    assert_eq!((first.release.as_str(), first.compiler.as_str()), ("6.12.5", "gcc (Test) 1.2.3"));
    assert_eq!(first.package, ("linux-source-6.12".into(), "6.12.5-1".into()));
    assert!(fs::read_to_string(&first.config).unwrap().contains("CONFIG_A=y"));

    let second = build(&archive, out.path(), "# the same in other words\nCONFIG_B=n\nCONFIG_A=y\n", false).unwrap();
    assert!(second.reused && second.key == first.key);
    assert_eq!(compilations(&archive), 1);

    assert!(!build(&archive, out.path(), REQUEST, true).unwrap().reused, "forced");
    assert!(!build(&archive, out.path(), "CONFIG_A=y\n", false).unwrap().reused, "another request");
    offer_source(&archive, "6.12.6-1");
    assert!(!build(&archive, out.path(), "CONFIG_A=y\n", false).unwrap().reused, "another source");
    fs::write(&first.vmlinux, b"damaged").unwrap();
    assert!(!build(&archive, out.path(), "CONFIG_A=y\n", false).unwrap().reused, "a damaged kernel");
    assert_eq!(compilations(&archive), 5);
}

#[test]
fn nothing_of_the_build_is_left_nor_of_an_interrupted_one() {
    let (archive, out) = (archive("1"), tempfile::tempdir().unwrap());
    fs::create_dir_all(out.path().join(".work-old/src")).unwrap();
    build(&archive, out.path(), REQUEST, false).unwrap();
    let mut left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".lock", "config", "kernel.json", "vmlinux"]);
}

#[test]
fn a_dropped_option_stops_the_build_before_it_costs_minutes() {
    let (archive, out) = (archive("1"), tempfile::tempdir().unwrap());
    fs::write(archive.path("dot-config"), "CONFIG_B=y\n").unwrap();
    let error = build(&archive, out.path(), REQUEST, false).unwrap_err().to_string();
    assert!(error.contains("CONFIG_A=y became n") && error.contains("CONFIG_B=n became y"), "{error}");
    assert_eq!(compilations(&archive), 0);
}

#[test]
fn a_failed_build_leaves_the_former_kernel() {
    let (archive, out) = (archive("1"), tempfile::tempdir().unwrap());
    let first = build(&archive, out.path(), REQUEST, false).unwrap();
    fs::write(archive.path("broken"), "").unwrap();
    let error = build(&archive, out.path(), REQUEST, true).unwrap_err();
    let SourceError::Compile { source } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("it is broken"), "{source}");
    let again = build(&archive, out.path(), REQUEST, false).unwrap();
    assert!(again.reused && again.key == first.key);
}

#[test]
fn progress_counts_the_lines_of_make_and_learns_how_many_there_are() {
    let (archive, out) = (archive("1"), tempfile::tempdir().unwrap());
    let steps = RefCell::new(Vec::new());
    let mut tell = |event: BuildEvent<'_>| {
        if let BuildEvent::Step { done, expected } = event {
            steps.borrow_mut().push((done, expected));
        }
    };
    let request = |force| SourceBuild { config: REQUEST.into(), out_dir: out.path().into(), force };
    request(false).run_with(&archive.apt(), &mut tell).unwrap();
    assert_eq!(steps.borrow().iter().map(|step| step.0).collect::<Vec<_>>(), [1, 2, 3]);
    steps.borrow_mut().clear();
    request(true).run_with(&archive.apt(), &mut tell).unwrap();
    assert_eq!(*steps.borrow(), [(1, Some(3)), (2, Some(3)), (3, Some(3))]);
}

#[test]
fn missing_build_packages_are_named_before_they_are_installed() {
    let (archive, out) = (archive("1"), tempfile::tempdir().unwrap());
    archive.script(
        "dpkg-query",
        r#"for last; do :; done; case $last in linux-source*|flex|bc) exit 1;; *) echo "installed 1";; esac"#,
    );
    let mut notes = Vec::new();
    let result = SourceBuild { config: REQUEST.into(), out_dir: out.path().into(), force: false }.run_with(
        &archive.apt(),
        &mut |event: BuildEvent<'_>| {
            if let BuildEvent::Note(text) = event {
                notes.push(format!("{text}; apt-get so far: {}", archive.apt_get_log()));
            }
        },
    );
    if nix::unistd::geteuid().is_root() {
        result.unwrap();
        assert_eq!(notes, ["installing the apt packages bc flex; apt-get so far: "]);
        assert!(archive.apt_get_log().contains("--no-install-recommends install bc flex"));
    } else {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("apt-get install --no-install-recommends bc flex"), "{error}");
    }
}

#[test]
fn an_archive_without_the_source_is_reported_with_the_remedy() {
    let (archive, out) = (FakeArchive::new(), tempfile::tempdir().unwrap());
    let error = build(&archive, out.path(), REQUEST, false).unwrap_err();
    assert!(matches!(error, SourceError::NoPackage), "{error}");
    assert!(error.to_string().contains("--kernel distro"), "{error}");
}
