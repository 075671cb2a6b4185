use std::fs;
use std::path::Path;

use super::*;

/// A table of `path` with room for `limit` descriptors.
fn nodes(path: &Path, limit: usize) -> Nodes {
    let root = fs::File::open(path).unwrap().into();
    let proc = fs::File::open("/proc/self/fd").unwrap().into();
    Nodes::new(root, proc, Budget::alone(limit)).unwrap()
}

/// Looks up a path below the root, as a guest does.
fn walk(nodes: &Nodes, path: &str) -> u64 {
    path.split('/').fold(ROOT_ID, |directory, part| {
        let name = CString::new(part).unwrap();
        let stat = sys::stat_entry(&*nodes.descriptor(directory).unwrap(), &name).unwrap();
        nodes.found(Identity::of(&stat), directory, &name).unwrap()
    })
}

fn taken(nodes: &Nodes) -> usize {
    nodes.table().budget.taken()
}

fn reaches(nodes: &Nodes, id: u64, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    nodes.descriptor(id).is_ok_and(|fd| sys::stat_open(&*fd).unwrap().stx_ino == fs::metadata(path).unwrap().ino())
}

#[test]
fn files_are_opened_again_however_few_descriptors_there_are() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..40 {
        fs::create_dir_all(dir.path().join(format!("d{index}/e"))).unwrap();
        fs::write(dir.path().join(format!("d{index}/e/file")), "").unwrap();
    }
    for limit in [0, 1, 5] {
        let nodes = nodes(dir.path(), limit);
        let ids: Vec<u64> = (0..40).map(|index| walk(&nodes, &format!("d{index}/e/file"))).collect();
        for _ in 0..2 {
            for (index, id) in ids.iter().enumerate() {
                assert!(reaches(&nodes, *id, &dir.path().join(format!("d{index}/e/file"))));
                assert!(taken(&nodes) <= limit);
            }
        }
    }
}

#[test]
fn a_file_keeps_its_number_until_all_references_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/file"), "").unwrap();
    let nodes = nodes(dir.path(), 10);
    let directory = walk(&nodes, "d");
    let file = walk(&nodes, "d/file");
    assert_eq!(walk(&nodes, "d/file"), file);
    nodes.forget(file, 1);
    assert!(nodes.descriptor(file).is_ok());
    // The directory is the way to the file.
    nodes.forget(directory, 3);
    assert!(nodes.descriptor(directory).is_ok());
    nodes.forget(file, u64::MAX);
    let unknown = Some(libc::EBADF);
    assert_eq!(nodes.descriptor(file).unwrap_err().raw_os_error(), unknown);
    assert_eq!(nodes.descriptor(directory).unwrap_err().raw_os_error(), unknown, "forgotten with its last file");
    assert_eq!(taken(&nodes), 0);
    let left = |table: &Table| (table.nodes.len(), table.ids.len());
    assert_eq!(left(&nodes.table()), (1, 1));
    nodes.forget(ROOT_ID, u64::MAX);
    assert!(nodes.descriptor(ROOT_ID).is_ok());
    assert_ne!(walk(&nodes, "d"), directory, "numbers are not used again");
}

#[test]
fn what_another_process_moved_or_replaced_is_stale_until_it_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["file", "other"] {
        fs::write(at(name), name).unwrap();
    }
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/inner"), "").unwrap();
    let nodes = nodes(dir.path(), 0);
    let (file, inner) = (walk(&nodes, "file"), walk(&nodes, "d/inner"));
    let stale = |id| nodes.descriptor(id).unwrap_err().raw_os_error() == Some(libc::ESTALE);
    fs::rename(at("file"), at("moved")).unwrap();
    assert!(stale(file));
    fs::rename(at("other"), at("file")).unwrap();
    assert!(stale(file), "another file has the name");
    fs::remove_file(at("file")).unwrap();
    std::os::unix::fs::symlink("moved", at("file")).unwrap();
    assert!(stale(file), "a link has the name");
    fs::rename(at("d"), at("e")).unwrap();
    std::os::unix::fs::symlink("e", at("d")).unwrap();
    assert!(stale(inner), "a link has the name of the directory");
    assert_eq!(walk(&nodes, "moved"), file);
    assert!(reaches(&nodes, file, &at("moved")));
    assert_eq!(walk(&nodes, "e/inner"), inner);
}

#[test]
fn a_file_without_a_name_is_pinned_until_it_has_one_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "").unwrap();
    fs::hard_link(&path, dir.path().join("second")).unwrap();
    let nodes = nodes(dir.path(), 1);
    let root = nodes.descriptor(ROOT_ID).unwrap();
    let file = walk(&nodes, "file");
    assert_eq!(nodes.pin_entry(&*root, c"file"), Some(file));
    fs::remove_file(&path).unwrap();
    nodes.unlinked(file, ROOT_ID, c"file");
    fs::write(dir.path().join("more"), "").unwrap();
    let more = walk(&nodes, "more");
    nodes.descriptor(more).unwrap();
    assert!(reaches(&nodes, file, &dir.path().join("second")), "not evicted");
    assert_eq!(walk(&nodes, "second"), file);
    assert!(!nodes.table().nodes[&file].pinned);
    // Another name of a file goes away than the one by which it is known.
    assert_eq!(nodes.pin_entry(&*root, c"second"), Some(file));
    nodes.unlinked(file, ROOT_ID, c"file");
    assert!(!nodes.table().nodes[&file].pinned);
    assert!(nodes.table().nodes[&file].place.is_some());
}

#[test]
fn directories_that_contain_each_other_end_the_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    let nodes = nodes(dir.path(), 0);
    let (a, b) = (walk(&nodes, "a"), walk(&nodes, "a/b"));
    // A hostile guest can have a look-up race with renames.
    nodes.renamed(a, b, c"a");
    assert_eq!(nodes.descriptor(b).unwrap_err().raw_os_error(), Some(libc::ESTALE));
    assert_eq!(walk(&nodes, "a"), a);
    assert!(nodes.descriptor(b).is_ok());
}
