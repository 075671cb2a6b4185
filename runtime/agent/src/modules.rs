//! Kernel modules of the initramfs, for kernels that do not have everything built in.
//!
//! `/modules/demands` lists which occasion needs which files, one line each: `always`, `virtio:N` if there is a virtio
//! device of type N, `fs:NAME` before such a file system is mounted. A module without an occasion is never loaded. An
//! initramfs without that file may have `/modules/order` instead: the agent loads every file in it at start.
//!
//! `start` and `load_for_devices` run on the main thread, `load_for_file_system` on connection threads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use nix::kmod::{finit_module, ModuleInitFlags};

use crate::log::{self, Level};
use crate::thread::lock;

/// The virtio devices in sysfs, each with its type.
const VIRTIO_DEVICES: &str = "/sys/bus/virtio/devices";

/// The modules of this guest; `None` before [`start`], and in tests.
static MODULES: Mutex<Option<Modules>> = Mutex::new(None);

/// An occasion and the files that it needs.
type Demand = (String, Vec<String>);

struct Modules {
    dir: PathBuf,
    demands: Vec<Demand>,
    /// Files that were loaded or failed to load.
    done: BTreeSet<String>,
}

/// Reads the lists in `dir` and loads the modules that are always needed. Without such a directory the guest has no
/// modules.
pub fn start(dir: &Path) {
    let read = |name: &str| match fs::read_to_string(dir.join(name)) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            log::write(Level::Error, format_args!("{}: {error}", dir.join(name).display()));
            None
        }
    };
    let demands = match read("demands") {
        Some(text) => parse_demands(&text),
        None => vec![("always".to_string(), parse_order(&read("order").unwrap_or_default()))],
    };
    let mut modules = Modules { dir: dir.to_path_buf(), demands, done: BTreeSet::new() };
    modules.load_for("always");
    *lock(&MODULES) = Some(modules);
}

/// The entropy device. The agent loads its driver only if the host sends no entropy: it takes as long as all others.
const ENTROPY: &str = "virtio:4";

/// Loads the drivers of the guest's virtio devices, except for entropy. Needs sysfs.
pub fn load_for_devices() {
    let mut modules = lock(&MODULES);
    let Some(modules) = modules.as_mut() else { return };
    if modules.demands.iter().any(|(occasion, _)| occasion.starts_with("virtio:")) {
        for occasion in device_types(Path::new(VIRTIO_DEVICES)).iter().filter(|&occasion| occasion != ENTROPY) {
            modules.load_for(occasion);
        }
    }
}

/// Loads the driver of the entropy device, if it is a module that has not been loaded yet.
pub fn load_for_entropy() {
    if let Some(modules) = lock(&MODULES).as_mut() {
        modules.load_for(ENTROPY);
    }
}

/// Loads the file system `name`, if it is a module that has not been loaded yet.
pub fn load_for_file_system(name: &str) {
    if let Some(modules) = lock(&MODULES).as_mut() {
        modules.load_for(&format!("fs:{name}"));
    }
}

impl Modules {
    /// Loads the modules that `occasion` needs. A failure is logged with the module's name; the others are loaded
    /// still.
    fn load_for(&mut self, occasion: &str) {
        for (_, files) in self.demands.iter().filter(|(other, _)| other == occasion) {
            for name in files {
                if self.done.insert(name.clone())
                    && let Err(errno) = load(&self.dir.join(name))
                {
                    log::write(Level::Error, format_args!("module {name} not loaded: {}", errno.desc()));
                }
            }
        }
    }
}

/// Parses lines of an occasion and file names.
fn parse_demands(text: &str) -> Vec<Demand> {
    let lines = text.lines().map(|line| line.split_ascii_whitespace().map(str::to_string));
    lines.filter_map(|mut words| Some((words.next()?, words.collect()))).collect()
}

/// Parses one file name per line; skips blank lines and `#` comments.
fn parse_order(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_string).collect()
}

/// The occasions of the virtio devices in `devices`, each once.
fn device_types(devices: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let types = entries.filter_map(|entry| {
        let text = fs::read_to_string(entry.path().join("device")).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    });
    types.map(|number| format!("virtio:{number}")).collect()
}

fn load(path: &Path) -> Result<(), Errno> {
    let file = File::open(path).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    match finit_module(file, c"", ModuleInitFlags::empty()) {
        // Built in, or loaded as a dependency.
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demands_are_occasions_and_files() {
        let demands = parse_demands("always a.ko\n\nfs:overlay  o.ko p.ko\nvirtio:2\n");
        let of = |files: &[&str]| files.iter().map(|file| file.to_string()).collect::<Vec<_>>();
        let expected = [("always", of(&["a.ko"])), ("fs:overlay", of(&["o.ko", "p.ko"])), ("virtio:2", of(&[]))];
        assert_eq!(demands, expected.map(|(occasion, files)| (occasion.to_string(), files)));
    }

    #[test]
    fn order_files_may_have_blank_lines_and_comments() {
        let order = "vsock.ko\n\n# trio\n  vmw_vsock_virtio_transport.ko \n";
        assert_eq!(parse_order(order), ["vsock.ko", "vmw_vsock_virtio_transport.ko"]);
    }

    #[test]
    fn a_device_is_an_occasion_by_its_type() {
        let dir = tempfile::tempdir().unwrap();
        for (name, device) in [("virtio0", "0x001a\n"), ("virtio1", "0x0002\n"), ("virtio2", "0x0002\n"), ("odd", "?")]
        {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("device"), device).unwrap();
        }
        assert_eq!(device_types(dir.path()).into_iter().collect::<Vec<_>>(), ["virtio:2", "virtio:26"]);
        assert!(device_types(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn each_file_is_tried_once_and_a_failure_does_not_stop_the_rest() {
        let demands = parse_demands("always none.ko other.ko\nfs:x none.ko third.ko\n");
        let mut modules = Modules { dir: PathBuf::from("/nonexistent"), demands, done: BTreeSet::new() };
        modules.load_for("always");
        assert_eq!(modules.done.len(), 2);
        modules.load_for("fs:x");
        assert_eq!(modules.done.len(), 3);
        modules.load_for("fs:unknown");
        assert_eq!(modules.done.len(), 3);
    }
}
