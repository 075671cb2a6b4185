//! `--sweep WHAT=VALUES`: the settings of a measurement, where one setting takes several values.

use std::path::{Path, PathBuf};

use super::error::BenchError;
use crate::args::bench::BootBenchArgs;
use crate::resolve::size;

/// One combination of settings. A sweep has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    pub kernel: String,
    pub memory_mib: u64,
    /// Number of virtual CPUs.
    pub cpus: u32,
    /// Root file system for `hutch run`.
    pub rootfs: Option<PathBuf>,
    /// More arguments for `hutch run`.
    pub run_args: Vec<String>,
    /// Whether the varied setting affects `hutch run` only. Nothing else is measured then.
    pub run_only: bool,
    /// Suffix of the target names; empty without a sweep.
    pub label: String,
}

/// Kinds of root file system, with the arguments of `hutch run` for them.
const ROOTS: [(&str, &[&str]); 3] = [("dir", &[]), ("read-only", &["--read-only"]), ("overlay", &["--rootfs-overlay"])];

/// A device to add to those that `hutch run` always has: vsock, rng and the share of its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    Net,
    Block,
    Fs,
    Console,
}

const DEVICES: [(&str, Device); 4] =
    [("net", Device::Net), ("block", Device::Block), ("fs", Device::Fs), ("console", Device::Console)];

/// Size of the disk of `block`.
const DISK_BYTES: u64 = 1 << 20;

impl Device {
    /// The arguments of `hutch run` that add the device.
    fn args(self, scratch: &Path) -> Vec<String> {
        let file = |name: &str| scratch.join(name).display().to_string();
        match self {
            // The kernel creates the tap device when hutch opens it, and removes it at the close.
            Device::Net => vec!["--net".into(), format!("tap=hb{}", std::process::id())],
            Device::Block => vec!["--disk".into(), file("disk") + ":ro"],
            // Below the guest's own /dev, so that the root directory stays unchanged.
            Device::Fs => vec!["-v".into(), file("share") + ":/dev/hutch-bench"],
            Device::Console => vec!["--console".into(), file("console")],
        }
    }
}

/// The points of the sweep, or a single point without one. Files that devices need have paths below `scratch`.
pub fn points(args: &BootBenchArgs, scratch: &Path) -> Result<Vec<Point>, BenchError> {
    let base = Point {
        kernel: args.kernel.clone(),
        memory_mib: mib(&args.memory)?,
        cpus: args.cpus,
        rootfs: args.rootfs.clone(),
        run_args: Vec::new(),
        run_only: false,
        label: String::new(),
    };
    let Some(sweep) = &args.sweep else { return Ok(vec![base]) };
    let wrong = || BenchError::Sweep(sweep.clone());
    let (what, values) = sweep.split_once('=').ok_or_else(wrong)?;
    if values.split(',').any(str::is_empty) {
        return Err(wrong());
    }
    let each =
        |point: &dyn Fn(&str) -> Result<Point, BenchError>| values.split(',').map(point).collect::<Result<Vec<_>, _>>();
    let points: Vec<Point> = match (what, values.split_once("..")) {
        ("mem", Some((from, to))) => {
            let (from, to) = (mib(from)?, mib(to)?);
            let sizes = std::iter::successors(Some(from), |at| at.checked_mul(2)).take_while(|at| *at <= to);
            sizes.map(|at| Point { memory_mib: at, label: format!(" {at}M"), ..base.clone() }).collect()
        }
        ("mem", None) => each(&|value| {
            let memory_mib = mib(value)?;
            Ok(Point { memory_mib, label: format!(" {memory_mib}M"), ..base.clone() })
        })?,
        ("cpus", None) => each(&|value| {
            let cpus = value.parse().ok().filter(|n| (1..=254).contains(n)).ok_or_else(wrong)?;
            Ok(Point { cpus, label: format!(" {cpus} vCPU"), ..base.clone() })
        })?,
        ("kernel", None) => {
            each(&|value| Ok(Point { kernel: value.to_owned(), label: format!(" {value}"), ..base.clone() }))?
        }
        ("devices", None) => each(&|value| {
            let run_args = devices(value).ok_or_else(wrong)?.iter().flat_map(|d| d.args(scratch)).collect();
            Ok(Point { run_args, ..of_run(&base, value) })
        })?,
        ("rootfs", _) => each(&|value| root(&of_run(&base, value), value).ok_or_else(wrong))?,
        _ => return Err(wrong()),
    };
    if points.is_empty() {
        return Err(wrong());
    }
    if base.rootfs.is_none() && points[0].run_only {
        return Err(BenchError::SweepOfRun(what.to_owned()));
    }
    Ok(points)
}

/// Creates the files in `scratch` that `points` name.
pub fn create_files(points: &[Point], scratch: &Path) -> Result<(), BenchError> {
    let make = |name: &str, make: fn(&Path) -> std::io::Result<()>| {
        let path = scratch.join(name);
        make(&path).map_err(|source| BenchError::File { path, source })
    };
    let wants = |flag: &str| points.iter().any(|p| p.run_args.iter().any(|arg| arg == flag));
    if wants("--disk") {
        make("disk", |path| std::fs::File::create(path)?.set_len(DISK_BYTES))?;
    }
    if wants("-v") {
        make("share", |path| std::fs::create_dir(path))?;
    }
    Ok(())
}

fn of_run(base: &Point, value: &str) -> Point {
    Point { run_only: true, label: format!(" {value}"), ..base.clone() }
}

/// `none`, or devices joined by `+`.
fn devices(value: &str) -> Option<Vec<Device>> {
    if value == "none" {
        return Some(Vec::new());
    }
    let device = |name: &str| DEVICES.iter().find(|(n, _)| *n == name).map(|(_, device)| *device);
    value.split('+').map(device).collect()
}

/// A kind of root file system, or with a `/` the path of another one.
fn root(point: &Point, value: &str) -> Option<Point> {
    if value.contains('/') {
        return Some(Point { rootfs: Some(value.into()), ..point.clone() });
    }
    let (_, args) = ROOTS.iter().find(|(name, _)| *name == value)?;
    Some(Point { run_args: args.iter().map(|&arg| arg.to_owned()).collect(), ..point.clone() })
}

fn mib(text: &str) -> Result<u64, BenchError> {
    size::mib(text).filter(|mib| *mib > 0).ok_or_else(|| BenchError::Size(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swept(words: &[&str]) -> Result<Vec<Point>, BenchError> {
        points(&BootBenchArgs::of(words), Path::new("/s"))
    }

    #[test]
    fn sweeps_make_points() {
        let memory =
            |text: &str| -> Vec<u64> { swept(&["--sweep", text]).unwrap().iter().map(|p| p.memory_mib).collect() };
        assert_eq!(memory("mem=128M..1G"), [128, 256, 512, 1024]);
        assert_eq!(memory("mem=64M,2G"), [64, 2048]);
        let cpus: Vec<u32> = swept(&["--sweep", "cpus=1,4"]).unwrap().iter().map(|p| p.cpus).collect();
        assert_eq!(cpus, [1, 4]);
        assert_eq!(swept(&[]).unwrap().len(), 1);
        let wrong = ["mem", "mem=", "mem=2G..1G", "cpus=0", "cpus=x", "disk=1", "kernel=", "kernel=a,"];
        for wrong in wrong.into_iter().chain(["devices=", "devices=gpu", "devices=net+", "rootfs=floppy", "rootfs="]) {
            assert!(swept(&["--rootfs", "/r", "--sweep", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn devices_become_arguments_of_run() {
        let points = swept(&["--rootfs", "/r", "--sweep", "devices=none,block,fs+console,net"]).unwrap();
        assert!(points.iter().all(|p| p.run_only));
        assert_eq!(points[0].run_args, [""; 0]);
        assert_eq!(points[1].run_args, ["--disk", "/s/disk:ro"]);
        assert_eq!(points[2].run_args, ["-v", "/s/share:/dev/hutch-bench", "--console", "/s/console"]);
        assert_eq!(points[2].label, " fs+console");
        // An interface's name has at most 15 bytes.
        assert!(points[3].run_args[1].strip_prefix("tap=").unwrap().len() <= 15);
    }

    #[test]
    fn roots_are_kinds_or_paths() {
        let points = swept(&["--rootfs", "/r", "--sweep", "rootfs=dir,read-only,overlay,/other"]).unwrap();
        let args: Vec<&[String]> = points.iter().map(|p| p.run_args.as_slice()).collect();
        assert_eq!(args, [&[] as &[&str], &["--read-only"], &["--rootfs-overlay"], &[]]);
        assert_eq!(points[1].rootfs.as_deref(), Some(Path::new("/r")));
        assert_eq!(points[3].rootfs.as_deref(), Some(Path::new("/other")));
    }

    #[test]
    fn settings_of_run_need_a_root() {
        let error = swept(&["--sweep", "devices=none,fs"]).unwrap_err().to_string();
        assert!(error.contains("devices") && error.contains("--rootfs DIR"), "{error}");
    }

    #[test]
    fn files_are_created_for_the_devices_that_need_them() {
        let dir = tempfile::tempdir().unwrap();
        let points = |text: &str| points(&BootBenchArgs::of(&["--rootfs", "/r", "--sweep", text]), dir.path()).unwrap();
        create_files(&points("devices=none,console,net"), dir.path()).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        create_files(&points("devices=none,block+fs"), dir.path()).unwrap();
        assert_eq!(dir.path().join("disk").metadata().unwrap().len(), DISK_BYTES);
        assert!(dir.path().join("share").is_dir());
    }
}
