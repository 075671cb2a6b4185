use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::error::ErrorKind;

fn name(text: &str) -> VolumeName {
    VolumeName::new(text).unwrap()
}

fn no_users() -> Result<Vec<String>> {
    Ok(Vec::new())
}

#[test]
fn names_that_could_leave_the_directory_are_refused() {
    for bad in ["", ".", "..", ".hidden", "a/b", "a b", "ü", &"x".repeat(193)] {
        assert_eq!(VolumeName::new(bad).unwrap_err().kind(), ErrorKind::InvalidConfig, "{bad:?}");
    }
    assert_eq!(name("data-1.x_y").as_str(), "data-1.x_y");
}

#[test]
fn a_volume_is_made_once_and_keeps_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::at(dir.path().join("volumes"));
    assert_eq!(volumes.names().unwrap(), []);
    let hold = volumes.hold(&name("b")).unwrap();
    fs::write(hold.path().join("file"), "x").unwrap();
    drop(hold);
    let again = volumes.hold(&name("b")).unwrap();
    assert_eq!(fs::read_to_string(again.path().join("file")).unwrap(), "x");
    volumes.hold(&name("a")).unwrap();
    assert_eq!(volumes.names().unwrap(), [name("a"), name("b")]);
}

#[test]
fn what_is_held_or_used_stays() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::at(dir.path());
    let held = volumes.hold(&name("v")).unwrap();
    let error = volumes.remove(&name("v"), no_users).unwrap_err();
    assert!(error.to_string().contains("hutch run"), "{error}");
    drop(held);
    let error = volumes.remove(&name("v"), || Ok(vec!["web".into()])).unwrap_err();
    assert!(error.to_string().contains("pod web"), "{error}");
    fs::create_dir_all(dir.path().join("v/deep/er")).unwrap();
    std::os::unix::fs::symlink("/etc", dir.path().join("v/link")).unwrap();
    volumes.remove(&name("v"), no_users).unwrap();
    assert_eq!(volumes.remove(&name("v"), no_users).unwrap_err().kind(), ErrorKind::NoSuchVolume);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A symbolic link in the place of a volume is not followed.
#[test]
fn a_link_is_no_volume() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("v")).unwrap();
    let volumes = Volumes::at(dir.path());
    assert_eq!(volumes.hold(&name("v")).unwrap_err().kind(), ErrorKind::Store);
    assert_eq!(volumes.remove(&name("v"), no_users).unwrap_err().kind(), ErrorKind::Store);
    assert!(outside.path().is_dir());
}

#[test]
fn a_removal_that_was_cut_short_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(".hutch-removed-0123456789abcdef/sub")).unwrap();
    let volumes = Volumes::at(dir.path());
    assert_eq!(volumes.names().unwrap(), []);
    volumes.hold(&name("v")).unwrap();
    volumes.remove(&name("v"), no_users).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A directory of the user's may be used as a volume, but is never removed; nor is anything that only looks like a
/// volume under removal.
#[test]
fn a_directory_that_hutch_did_not_make_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["photos/deep", ".removed-0123/deep", ".hutch-removed-x/deep", "linked-from"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("photos/deep/file"), "x").unwrap();
    std::os::unix::fs::symlink(dir.path().join("photos"), dir.path().join("linked-from/link")).unwrap();
    let volumes = Volumes::at(dir.path());
    drop(volumes.hold(&name("photos")).unwrap());
    let refused = volumes.remove(&name("photos"), no_users).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidConfig);
    assert!(refused.to_string().contains("photos") && refused.to_string().contains("yourself"), "{refused}");
    drop(volumes.hold(&name("own")).unwrap());
    volumes.remove(&name("own"), no_users).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("photos/deep/file")).unwrap(), "x");
    assert!(dir.path().join(".removed-0123/deep").is_dir() && dir.path().join(".hutch-removed-x/deep").is_dir());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "the marker of the removed one is gone");
}

/// A held volume keeps its directory while others try to remove it.
#[test]
fn a_volume_that_is_held_is_not_removed_by_somebody_else() {
    let dir = tempfile::tempdir().unwrap();
    let volumes = Volumes::at(dir.path());
    let (removed, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if volumes.remove(&name("v"), no_users).is_ok() {
                    removed.store(true, Ordering::SeqCst);
                }
            }
        });
        for round in 0.. {
            let hold = volumes.hold(&name("v")).unwrap();
            fs::write(hold.path().join("file"), "x").unwrap();
            assert!(hold.path().join("file").exists());
            drop(hold);
            if round > 300 && removed.load(Ordering::SeqCst) {
                break;
            }
            thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
    });
}
