use std::error::Error;
use std::path::PathBuf;

use super::*;

fn image(len: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    File::create(&path).unwrap().set_len(len).unwrap();
    (dir, path)
}

#[test]
fn a_path_that_is_not_a_disk_is_refused_with_a_message_that_names_it() {
    let (dir, path) = image(1000);
    let refused = |path: &Path| {
        let error = Backend::open(path, true).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        error
    };
    assert!(matches!(refused(&path), BlockError::Unaligned { size: 1000, .. }));
    File::create(&path).unwrap();
    assert!(matches!(refused(&path), BlockError::Empty(_)));
    assert!(matches!(refused(dir.path()), BlockError::Kind(_)));
    assert!(matches!(refused(Path::new("/dev/null")), BlockError::Kind(_)));
    let missing = refused(&dir.path().join("missing"));
    assert!(matches!(missing, BlockError::Open { .. }) && missing.source().is_some());
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(refused(&pipe), BlockError::Kind(_)));
}

#[test]
fn an_image_has_many_readers_or_one_writer() {
    let (_dir, path) = image(4096);
    let first = Backend::open(&path, true).unwrap();
    let second = Backend::open(&path, true).unwrap();
    let refused = Backend::open(&path, false).unwrap_err();
    assert!(matches!(refused, BlockError::InUse { read_only: false, .. }));
    assert!(refused.to_string().contains("disk.img is in use:"), "{refused}");
    drop((first, second));
    let writer = Backend::open(&path, false).unwrap();
    let refused = Backend::open(&path, true).unwrap_err();
    assert!(refused.to_string().contains("disk.img is in use and being written:"), "{refused}");
    assert!(Backend::open(&path, false).is_err());
    drop(writer);
    Backend::open(&path, false).unwrap();
}

#[test]
fn zeroes_and_discards_change_their_range_only() {
    for unmap in [false, true] {
        let (_dir, path) = image(3 << 20);
        let backend = Backend::open(&path, false).unwrap();
        assert_eq!(backend.disk(), DiskInfo { sectors: 6 << 10, read_only: false });
        backend.file.write_all_at(&vec![7; 3 << 20], 0).unwrap();
        backend.write_zeroes(DiskRange { offset: 512, len: 1 << 20, unmap }).unwrap();
        backend.discard(DiskRange { offset: 2 << 20, len: 4096, unmap: false }).unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!(content.len(), 3 << 20);
        let (end, hole) = (512 + (1 << 20), 2 << 20);
        assert!(content[..512].iter().chain(&content[end..hole]).chain(&content[hole + 4096..]).all(|b| *b == 7));
        assert!(content[512..end].iter().all(|b| *b == 0));
        backend.flush().unwrap();
    }
}

/// As when another process opens the image and passes the descriptor.
#[test]
fn an_image_that_was_opened_elsewhere_is_checked_and_locked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, [0; 512]).unwrap();
    for read_only in [true, false] {
        let backend = Backend::of_file(open_image(&path, read_only).unwrap(), &path, read_only).unwrap();
        assert_eq!(backend.disk(), DiskInfo { sectors: 1, read_only });
        assert!(matches!(Backend::open(&path, false), Err(BlockError::InUse { .. })), "it is locked");
        // The lock goes with the last descriptor of the opened file.
        let copy = backend.file.try_clone().unwrap();
        drop(backend);
        assert!(matches!(Backend::open(&path, false), Err(BlockError::InUse { .. })));
        drop(copy);
        Backend::open(&path, false).unwrap();
    }
    let wrong = [
        (File::open(&path), false),
        (OpenOptions::new().read(true).write(true).open(&path), true),
        (OpenOptions::new().write(true).open(&path), false),
        (OpenOptions::new().read(true).append(true).open(&path), false),
        (OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path), true),
    ];
    for (number, (file, read_only)) in wrong.into_iter().enumerate() {
        let refused = Backend::of_file(file.unwrap(), &path, read_only);
        assert!(matches!(refused, Err(BlockError::Access { .. })), "{number}: {refused:?}");
    }
    let directory = File::open(dir.path()).unwrap();
    assert!(matches!(Backend::of_file(directory, dir.path(), true), Err(BlockError::Kind(_))));
}
