//! Concurrent installing and reading, and kills in the middle.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const KILL_AT: &str = "HUTCH_TEST_GUEST_KILL_AT";
const KILL_DIR: &str = "HUTCH_TEST_GUEST_KILL_DIR";
/// The kill points of [`InstallLock::install`], and whether the new generation is the present one after a kill there.
const PLACES: [(&str, bool); 7] = [
    ("staged", false),
    ("kernel", false),
    ("initramfs", false),
    ("manifest", false),
    ("named", false),
    ("link", false),
    ("linked", true),
];

fn install(store: &Store, kind: &AssetKind, text: &str) -> PathBuf {
    let lock = store.lock_install(kind).unwrap();
    let bytes = || Contents::Bytes(text.as_bytes());
    lock.install(bytes(), bytes(), text.as_bytes()).unwrap()
}

fn contents(store: &Store, kind: &AssetKind) -> Option<String> {
    let dir = store.current(kind).unwrap()?;
    let [a, b, c] = [VMLINUX, INITRAMFS, FILE].map(|name| fs::read_to_string(dir.join(name)).unwrap());
    assert!(a == b && b == c, "files of two generations: {a} {b} {c}");
    Some(a)
}

fn generations(store: &Store) -> usize {
    store
        .names()
        .unwrap()
        .iter()
        .filter(|name| store.dir.join(name).join(FILE).is_file() && name.starts_with('.'))
        .count()
}

#[test]
fn kinds_are_words_and_back() {
    for word in ["distro", "host", "source", "custom-0123456789ab"] {
        assert_eq!(word.parse::<AssetKind>().unwrap().to_string(), word);
    }
    for word in ["", "Distro", "custom-", "custom-0123456789xy", "custom-0123", "../x", ".distro-1"] {
        assert!(word.parse::<AssetKind>().is_err(), "{word}");
    }
}

#[test]
fn a_new_generation_replaces_the_old_and_one_more_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path());
    assert_eq!(contents(&store, &AssetKind::Distro), None);
    let mut dirs = Vec::new();
    for text in ["one", "two", "three", "four"] {
        dirs.push(install(&store, &AssetKind::Distro, text));
        assert_eq!(contents(&store, &AssetKind::Distro).as_deref(), Some(text));
    }
    assert!(!dirs[0].exists() && !dirs[1].exists(), "old ones go");
    assert!(dirs[2].join(VMLINUX).exists(), "a reader may be about to open it");
    install(&store, &AssetKind::Source, "other");
    assert_eq!(store.kinds().unwrap(), [AssetKind::Distro, AssetKind::Source]);
    assert_eq!(contents(&store, &AssetKind::Distro).as_deref(), Some("four"), "kinds do not disturb each other");
}

#[test]
fn an_unchanged_kernel_is_linked_not_copied() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path());
    let old = install(&store, &AssetKind::Host, "x").join(VMLINUX);
    let lock = store.lock_install(&AssetKind::Host).unwrap();
    let new = lock.install(Contents::Link(&old), Contents::Bytes(b"x"), b"x").unwrap().join(VMLINUX);
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&old), inode(&new));
}

#[test]
fn what_hutch_did_not_make_is_left_alone() {
    for make in [|path: &Path| fs::create_dir(path), |path: &Path| symlink("/etc", path)] {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("distro")).unwrap();
        let store = Store::at(dir.path());
        assert!(matches!(store.current(&AssetKind::Distro), Err(StoreError::Foreign { .. })));
        let lock = store.lock_install(&AssetKind::Distro).unwrap();
        let result = lock.install(Contents::Bytes(b""), Contents::Bytes(b""), b"");
        assert!(matches!(result, Err(StoreError::Foreign { .. })));
    }
}

#[test]
fn a_directory_that_cannot_be_made_names_the_remedy() {
    let error = Store::at(Path::new("/proc/hutch/guest")).create().unwrap_err().to_string();
    assert!(error.contains("--guest-dir"), "{error}");
}

#[test]
fn readers_see_whole_generations_while_writers_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path());
    install(&store, &AssetKind::Distro, "first");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                // Resolved once, then read: like a machine that is about to boot.
                let now = store.current(&AssetKind::Distro).unwrap().unwrap();
                let [a, b] = [VMLINUX, FILE].map(|name| fs::read_to_string(now.join(name)));
                // Two installs between the two steps remove the files, but never mix them.
                if let (Ok(a), Ok(b)) = (a, b) {
                    assert_eq!(a, b);
                    reads += 1;
                }
            }
        });
        let writers: Vec<_> = (0..3)
            .map(|n| {
                let store = &store;
                scope.spawn(move || {
                    for round in 0..10 {
                        install(store, &AssetKind::Distro, &format!("{n} {round}"));
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(generations(&store), 2);
}

/// Not a test: the process that [`a_kill_at_any_place_leaves_an_asset_whole`] kills.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn child_that_is_killed() {
    let store = Store::at(Path::new(&std::env::var_os(KILL_DIR).unwrap()));
    install(&store, &AssetKind::Distro, "new");
}

#[test]
fn a_kill_at_any_place_leaves_an_asset_whole() {
    for (place, changed) in PLACES {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        install(&store, &AssetKind::Distro, "old");
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "store::tests::child_that_is_killed"])
            .env(KILL_AT, place)
            .env(KILL_DIR, dir.path())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "{place}");
        assert_eq!(
            contents(&store, &AssetKind::Distro).as_deref(),
            Some(if changed { "new" } else { "old" }),
            "{place}"
        );
        assert_eq!(store.kinds().unwrap(), [AssetKind::Distro], "{place}");
        // The next change works and removes the remains.
        install(&store, &AssetKind::Distro, "newest");
        assert_eq!(contents(&store, &AssetKind::Distro).as_deref(), Some("newest"), "{place}");
        install(&store, &AssetKind::Distro, "and one more");
        assert_eq!(generations(&store), 2, "{place}");
        let left = store.names().unwrap().into_iter().filter(|name| name.starts_with(".tmp-")).count();
        assert_eq!(left, 0, "{place}");
    }
}

#[test]
fn a_first_build_that_is_killed_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "store::tests::child_that_is_killed"])
        .env(KILL_AT, "link")
        .env(KILL_DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9));
    let store = Store::at(dir.path());
    assert_eq!(store.kinds().unwrap(), []);
    assert_eq!(store.current(&AssetKind::Distro).unwrap(), None);
}
