//! Calling cargo for what other tasks need.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Target of the programs that run in guests. Naming it keeps cargo from linking build scripts statically too.
pub const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// A call of the cargo that runs us, in the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo puts its results.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Builds a small statically linked program, as pid 1 of a guest has to be, and returns its path.
pub fn static_binary(package: &str, binary: &str) -> Result<PathBuf> {
    statically(package, &["--bin", binary], "agent")
}

/// Builds a statically linked program in the usual profile and returns its path. It starts faster than one that is
/// linked when it starts, and takes less memory.
pub fn static_release(package: &str, binary: &str) -> Result<PathBuf> {
    statically(package, &["--bin", binary], "release")
}

/// Builds an example of a package as [`static_release`] builds a program, and returns its path.
pub fn static_example(package: &str, example: &str) -> Result<PathBuf> {
    statically(package, &["--example", example], "release")
}

/// There is a target directory of its own, so that the other flags do not throw the rest of the build away.
fn statically(package: &str, target: &[&str; 2], profile: &str) -> Result<PathBuf> {
    let dir = target_dir().join("agent");
    let mut command = cargo();
    command.args(["build", "--quiet", "--profile", profile, "--target", STATIC_TARGET, "-p", package]).args(target);
    command.env("CARGO_TARGET_DIR", &dir).env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut command)?;
    let [kind, name] = *target;
    let place = dir.join(STATIC_TARGET).join(profile);
    Ok(if kind == "--example" { place.join("examples") } else { place }.join(name))
}

/// Runs a command to its end; failure is an error that names it.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let status = command.status().map_err(|e| format!("cannot run {}: {e}", program.to_string_lossy()))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{command:?} ended with {status}").into()),
    }
}
