//! `cargo xtask setup`: installs Debian packages and fetches the testbed's kernel. Other tasks call [`ensure`] for the packages
//! they need. The code that builds a kernel installs its build dependencies itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use crate::build::run;
use crate::tools::Tools;
use crate::{kernel, Result};

/// Purpose of a group of packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Running the emulated machine.
    Testbed,
    /// A small root file system.
    RootFs,
    /// Kernels taken out of Debian's packages.
    Kernel,
    /// Networks of pods.
    Network,
    /// Building the fuzz targets with libFuzzer.
    Fuzz,
    /// Building the agent of pods, which applies seccomp profiles.
    Seccomp,
    /// Peers of benchmarks.
    Peers,
    /// A root file system with a whole Debian.
    Debootstrap,
    /// Programs that the tests of shared directories use and run.
    Shares,
}

impl Need {
    fn packages(self) -> &'static [&'static str] {
        match self {
            Need::Testbed => &["qemu-system-x86", "qemu-system-common", "kmod", "xz-utils"],
            Need::RootFs => &["busybox-static", "cpio", "e2fsprogs"],
            Need::Kernel => &["kmod", "xz-utils"],
            Need::Network => &["iproute2", "nftables"],
            Need::Fuzz => &["g++"],
            Need::Seccomp => &["libseccomp-dev"],
            Need::Peers => &["crun", "runc"],
            Need::Debootstrap => &["debootstrap"],
            // A program of others that is built for tests is linked with libacl.
            Need::Shares => &["git", "sqlite3", "libacl1-dev"],
        }
    }

    fn purpose(self) -> &'static str {
        match self {
            Need::Testbed => "the emulated machine",
            Need::RootFs => "a root file system",
            Need::Kernel => "Debian's kernels",
            Need::Network => "networks of pods",
            Need::Fuzz => "the fuzz targets",
            Need::Seccomp => "seccomp in the agent of pods",
            Need::Peers => "peers of benchmarks",
            Need::Debootstrap => "a Debian root file system",
            Need::Shares => "the tests of shared directories",
        }
    }
}

/// Installs the packages of all tasks and fetches the testbed's kernel.
pub(crate) fn main() -> Result<ExitCode> {
    ensure(&[
        Need::Testbed,
        Need::RootFs,
        Need::Kernel,
        Need::Network,
        Need::Seccomp,
        Need::Debootstrap,
        Need::Shares,
    ])?;
    let kernel = kernel::testbed(&kernel::Choice::Distro, true, &Tools::default())?;
    println!("setup: the emulated machine's kernel is {}", kernel.vmlinux.display());
    Ok(ExitCode::SUCCESS)
}

/// Announces and installs the missing packages of `needs`.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let mut missing = BTreeSet::new();
    for need in needs {
        let absent = absent(need.packages())?;
        if !absent.is_empty() {
            eprintln!("setup: for {}: installing {}", need.purpose(), absent.join(" "));
            missing.extend(absent);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    if lists_are_old() || !missing.iter().all(|package| has_candidate(package)) {
        eprintln!("setup: apt-get update");
        run(as_root("apt-get").args(["update", "-qq"]))?;
    }
    run(as_root("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(&missing))
}

fn absent(packages: &[&'static str]) -> Result<Vec<&'static str>> {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f", "${db:Status-Status} ${Package}\n"]).args(packages).stderr(Stdio::null());
    let output = command.output().map_err(|e| format!("cannot run dpkg-query: {e}; hutch's tasks are for Debian"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

/// Whether there are no package lists from the last two weeks. The archive may no longer have the packages of older lists.
fn lists_are_old() -> bool {
    let newest = |dir: &Path| {
        let entries = std::fs::read_dir(dir).ok()?;
        let times = entries.filter_map(|e| {
            let entry = e.ok()?;
            let named = entry.file_name().to_string_lossy().contains("_dists_");
            named.then(|| entry.metadata().ok()?.modified().ok()).flatten()
        });
        times.max()
    };
    let newest = newest(Path::new("/var/lib/apt/lists"));
    let age = newest.and_then(|time| SystemTime::now().duration_since(time).ok());
    newest.is_none() || age.is_some_and(|age| age > Duration::from_secs(14 * 24 * 3600))
}

fn has_candidate(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["policy", package]).stderr(Stdio::null()).output();
    output.is_ok_and(|o| {
        let text = String::from_utf8_lossy(&o.stdout);
        text.lines().any(|line| line.trim_start().starts_with("Candidate:") && !line.contains("(none)"))
    })
}

/// A program that needs root, without its stdout. Uses sudo unless this process is root.
pub(crate) fn as_root(program: &str) -> Command {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("DEBIAN_FRONTEND=noninteractive").arg(program);
        sudo
    };
    // Only errors matter, and they go to stderr.
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_that_are_not_installed_count_as_missing() {
        let absent = absent(&["dpkg", "hutch-no-such-package"]).unwrap();
        assert_eq!(absent, ["hutch-no-such-package"]);
    }
}
