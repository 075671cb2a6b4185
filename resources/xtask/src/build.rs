//! Runs cargo for the other tasks.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Target of the static programs. An explicit target keeps cargo from linking build scripts statically too.
pub(crate) const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program of the workspace: its package and its name.
pub(crate) type Program = (&'static str, &'static str);

/// Small programs that run in guests.
pub(crate) const AGENT: &str = "agent";
/// Programs that run on the host.
pub(crate) const RELEASE: &str = "release";
/// Programs that must be built quickly.
pub(crate) const DEMO: &str = "demo";

/// The cargo that runs this program, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// cargo's target directory.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Builds statically linked programs in a profile of the workspace and returns their paths. Pid 1 of a guest must be static;
/// a static `hutch` starts faster and takes less memory.
///
/// One call of cargo builds them all, so that it compiles their common dependencies once. The programs have a target
/// directory of their own: their flags would otherwise invalidate the rest of the build.
pub(crate) fn static_programs<const N: usize>(programs: [Program; N], profile: &str) -> Result<[PathBuf; N]> {
    let dir = target_dir().join("agent");
    let mut command = cargo();
    command.args(["build", "--profile", profile, "--target", STATIC_TARGET]);
    for (package, binary) in programs {
        command.args(["-p", package, "--bin", binary]);
    }
    command.env("CARGO_TARGET_DIR", &dir).env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut command)?;
    Ok(programs.map(|(_, binary)| dir.join(STATIC_TARGET).join(profile).join(binary)))
}

/// A program of crates.io: its package, which has the same name, and its version.
pub(crate) type External = (&'static str, &'static str);

/// Builds programs of others, and keeps them in `cache`, by version. Returns their paths. They run other programs' tests, so
/// they are built quickly, not for speed.
pub(crate) fn external_programs<const N: usize>(programs: [External; N], cache: &Path) -> Result<[PathBuf; N]> {
    for (name, version) in programs {
        let dir = cache.join(format!("{name}-{version}"));
        if dir.join("bin").join(name).exists() {
            continue;
        }
        println!("    Building {name} {version}, for a test");
        let built = target_dir().join("tools");
        let mut command = cargo();
        command.args(["install", "--quiet", "--locked", "--debug", "--no-track", "--root"]).arg(&dir);
        command.arg(format!("{name}@{version}")).env("CARGO_TARGET_DIR", &built);
        // Without debugging information they build in less time, and into a tenth of the size.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        run(&mut command)?;
        // Only the program is used again.
        std::fs::remove_dir_all(&built)?;
    }
    Ok(programs.map(|(name, version)| cache.join(format!("{name}-{version}/bin/{name}"))))
}

/// Runs a command to its end; failure is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().map_err(|e| format!("cannot run {}: {e}", program.to_string_lossy()))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?} ended with {status}").into()),
    }
}
