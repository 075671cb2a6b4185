//! `hutch bench boot`: from arguments to targets, rounds and a report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::error::BenchError;
use super::plan::{self, Rounds, Scratch};
use super::sweep::{self, Point};
use super::target::{self, Target, Until};
use super::{initrd, plot, report};
use crate::args::bench::BootBenchArgs;
use crate::args::growth::MemoryGrowth;
use crate::failure::Failure;

/// Kernel parameters of every VMM's guest: end at a panic.
const CMDLINE: &str = "panic=-1 reboot=t";
/// Kernel parameters for a quiet serial console. hutch adds those of its silent console itself.
const SERIAL: &str = "console=ttyS0 quiet";

/// Runs the measurement and prints the results.
pub fn run(args: &BootBenchArgs) -> Result<u8, Failure> {
    if args.no_boot && args.rootfs.is_none() && args.peers.is_empty() {
        return Err(BenchError::Nothing.into());
    }
    let scratch = Scratch::new()?;
    let points = sweep::points(args, scratch.path())?;
    sweep::create_files(&points, scratch.path())?;
    let initrd = match &args.initrd {
        Some(path) => path.clone(),
        None => {
            let path = scratch.path().join("initrd");
            std::fs::write(&path, initrd::bench_initrd())
                .map_err(|source| BenchError::File { path: path.clone(), source })?;
            path
        }
    };
    let mut targets = Vec::new();
    for point in &points {
        targets.extend(targets_of(args, point, &initrd)?);
    }
    let settings = plan::run_settings(&scratch, Duration::from_secs(args.timeout));
    let rounds = Rounds { kept: args.rounds, warm_up: args.warm_up };
    let progress = |round, name: &str| log::info!("round {round}: {name}");
    let mut measured = plan::interleave(&targets, rounds, &settings, progress)?;
    let mut results = plan::results(std::mem::take(&mut measured.samples), describe(args));
    if !args.no_syscalls {
        let progress = |name: &str| log::info!("system calls: {name}");
        results.syscalls = plan::count_syscalls(&targets, &settings, &mut measured, progress)?;
    }
    results.dropped = measured.dropped;
    report::print(&results, args.format)?;
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&results)).map_err(|source| BenchError::File { path: path.clone(), source })?;
    }
    Ok(0)
}

fn describe(args: &BootBenchArgs) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([
        ("guest kernel".to_owned(), args.kernel.clone()),
        ("memory".to_owned(), args.memory.clone()),
        ("vcpus".to_owned(), args.cpus.to_string()),
    ]);
    if let Some(sweep) = &args.sweep {
        all.insert("sweep".into(), sweep.clone());
    }
    all
}

/// The targets at one point of the sweep: hutch, `hutch run` and the peers.
fn targets_of(args: &BootBenchArgs, point: &Point, initrd: &Path) -> Result<Vec<Target>, Failure> {
    let kernel = target::kernel_path(&point.kernel, args.guest_dir.as_deref());
    let text = |p: &Path| p.display().to_string();
    let silent = [CMDLINE, &args.append.join(" "), "benchhold"].join(" ");
    let cmdline = [SERIAL, &silent].join(" ");
    let hutch = std::env::current_exe().map_err(|source| BenchError::File { path: "/proc/self/exe".into(), source })?;
    let guest_mib = point.memory_mib;
    let (cpus, memory) = (point.cpus.to_string(), format!("{}M", point.memory_mib));
    let mut targets = Vec::new();
    let consoles: &[(&str, Option<&str>)] = match (args.no_boot || point.run_only, args.serial) {
        (true, _) => &[],
        (false, false) => &[("hutch", Some("--silent"))],
        (false, true) => &[("hutch", Some("--silent")), ("hutch serial", None)],
    };
    for (name, console) in consoles {
        let mut argv = vec![text(&hutch), "boot".into(), "--kernel".into(), text(&kernel)];
        argv.extend(["--initrd".into(), text(initrd), "--cpus".into(), cpus.clone()]);
        argv.extend(["--memory".into(), memory.clone(), "--append".into()]);
        argv.push(if console.is_some() { silent.clone() } else { cmdline.clone() });
        argv.extend(console.map(str::to_owned));
        // The default of `hutch run`.
        let growth = MemoryGrowth::default().beyond_mib(point.kernel == "source");
        if growth.is_some_and(|beyond_mib| guest_mib > beyond_mib) && !args.no_growth {
            argv.push("--memory-growth".into());
        }
        argv.extend(args.hutch_args.iter().flat_map(|a| a.split_whitespace()).map(str::to_owned));
        targets.push(Target { name: (*name).into(), argv, until: Until::InitLine, own_marks: true, guest_mib });
    }
    if let Some(rootfs) = &point.rootfs {
        let mut argv = vec![text(&hutch), "run".into(), "--kernel".into(), point.kernel.clone()];
        if let Some(dir) = &args.guest_dir {
            argv.extend(["--guest-dir".into(), text(dir)]);
        }
        argv.extend(["--cpus".into(), cpus.clone(), "--memory".into(), memory]);
        argv.extend(point.run_args.iter().cloned());
        if args.no_growth {
            argv.extend(["--memory-growth".into(), "off".into()]);
        }
        argv.extend(["--rootfs".into(), text(rootfs), "--".into()]);
        match args.command.is_empty() {
            true => argv.extend(["/bin/echo".into(), "hi".into()]),
            false => argv.extend(args.command.iter().cloned()),
        }
        targets.push(Target { name: "hutch run".into(), argv, until: Until::Exit, own_marks: true, guest_mib });
    }
    let values = BTreeMap::from([
        ("kernel", text(&kernel)),
        ("initrd", text(initrd)),
        ("cmdline", cmdline),
        ("memory_mib", point.memory_mib.to_string()),
        ("cpus", cpus),
    ]);
    for peer in args.peers.iter().filter(|_| !point.run_only) {
        targets.push(target::peer(peer, &values)?);
    }
    for target in &mut targets {
        target.name.push_str(&point.label);
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_share_kernel_initrd_and_settings() {
        let args = BootBenchArgs::of(&[
            "--kernel",
            "/k",
            "--peer",
            "q=vmm {kernel} {memory_mib}",
            "--memory",
            "64M",
            "--rootfs",
            "/r",
        ]);
        let point = &sweep::points(&args, Path::new("/s")).unwrap()[0];
        let targets = targets_of(&args, point, Path::new("/i")).unwrap();
        assert_eq!(targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["hutch", "hutch run", "q"]);
        assert!(targets[0].argv.iter().any(|a| a.ends_with(" benchhold")));
        assert!(targets[0].argv.iter().any(|a| a == "--silent"));
        assert_eq!(targets[1].argv.last().map(String::as_str), Some("hi"));
        assert_eq!(targets[2].argv, ["vmm", "/k", "64"]);
    }

    #[test]
    fn a_sweep_of_a_setting_of_run_measures_nothing_else() {
        let args = BootBenchArgs::of(&["--peer", "q=vmm {kernel}", "--rootfs", "/r", "--sweep", "rootfs=dir,overlay"]);
        let points = sweep::points(&args, Path::new("/s")).unwrap();
        let targets: Vec<Target> = points.iter().flat_map(|p| targets_of(&args, p, Path::new("/i")).unwrap()).collect();
        assert_eq!(targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["hutch run dir", "hutch run overlay"]);
        let has = |t: &Target| t.argv.iter().any(|arg| arg == "--rootfs-overlay");
        assert!(!has(&targets[0]) && has(&targets[1]));
    }

    #[test]
    fn nothing_to_measure_is_an_error() {
        let failure = run(&BootBenchArgs::of(&["--no-boot"])).unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(format!("{failure:?}").contains("Nothing"), "{failure:?}");
    }
}
