//! Records on disk: each kind in a file of its own, and the markers of roots and pods.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hutch_runtime::store::{Disk, Record, RecordPath, POD_MARKER, ROOT_MARKER};
use hutch_runtime::{Backends, ContainerId, Options, PodId, Runtime, Store};

use crate::files;
use crate::script::Script;

/// A disk that holds one file, under every name.
#[derive(Default)]
struct OneFile(Mutex<Vec<u8>>);

impl Disk for OneFile {
    fn read(&self, _path: &Path) -> io::Result<Option<Vec<u8>>> {
        Ok(Some(self.0.lock().expect("no panic before").clone()))
    }

    fn write(&self, _path: &Path, bytes: &[u8], before_rename: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        *self.0.lock().expect("no panic before") = bytes.to_vec();
        before_rename()
    }

    fn remove_file(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn make_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_tree(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Attacks the store. The first byte chooses a kind of record, or whole roots.
pub fn attack(data: &[u8]) {
    let mut script = Script::new(data);
    let kind = script.u8();
    if kind >= 0xe0 {
        return attack_roots(&mut script);
    }
    let disk = Arc::new(OneFile(Mutex::new(script.rest().to_vec())));
    let store = Store::with_disk("/c", "/r", disk);
    let pod = store.pod(&PodId::new("p").expect("a good id"));
    let container = pod.container(&ContainerId::new("c").expect("a good id"));
    match kind % 12 {
        0 => again(&store, &pod.config_record()),
        1 => again(&store, &container.config_record()),
        2 => again(&store, &pod.state_record()),
        3 => again(&store, &container.state_record()),
        4 => again(&store, &container.process_record()),
        5 => again(&store, &container.exit_record()),
        6 => again(&store, &container.mounts_record()),
        7 => again(&store, &container.devices_record()),
        8 => again(&store, &pod.network_record()),
        9 => again(&store, &pod.vm_record()),
        10 => again(&store, &pod.agent_record()),
        _ => again(&store, &pod.failure_record()),
    }
}

/// A record that was read can be written and read again.
fn again<T: Record>(store: &Store, at: &RecordPath<T>) {
    let Ok(Some(record)) = store.get(at) else { return };
    store.put(at, &record).expect("a record that was read can be written");
    let written = serde_json::to_value(&record).expect("JSON");
    let read = store.get(at).expect("a record that was written can be read").expect("it is there");
    assert_eq!(serde_json::to_value(&read).expect("JSON"), written);
}

/// Files of both roots, each of them one line of the input, and all that only reads them.
fn attack_roots(script: &mut Script<'_>) {
    let dir = files::directory();
    let (config, run) = (dir.path().join("c"), dir.path().join("r"));
    for sub in ["c/p/c", "r/p/c"] {
        fs::create_dir_all(dir.path().join(sub)).expect("a directory");
    }
    let names = [
        format!("c/{ROOT_MARKER}"),
        format!("r/{ROOT_MARKER}"),
        format!("c/p/{POD_MARKER}"),
        format!("r/p/{POD_MARKER}"),
        "c/p/config.json".into(),
        "c/p/c/config.json".into(),
        "r/p/state.json".into(),
        "r/p/hypervisor.json".into(),
        "r/p/network.json".into(),
        "r/p/failure.json".into(),
        "r/p/c/state.json".into(),
        "r/p/c/process.json".into(),
        "r/p/c/exit.json".into(),
    ];
    // The roots have other names in every run.
    let here = dir.path().to_str().expect("a name in ASCII");
    for (name, line) in names.iter().zip(script.rest().split(|byte| *byte == b'\n')) {
        let text = String::from_utf8_lossy(line).replace("$DIR", here);
        fs::write(dir.path().join(name), text).expect("a file");
    }
    let store = Store::new(config, run);
    drop(store.pods());
    drop(store.all_ids());
    let runtime = Runtime::new(store, Backends::noop(), Options::default());
    drop(runtime.list_pods());
    drop(runtime.get_pod("p").and_then(|pod| pod.status()));
}
