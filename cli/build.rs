//! Linker options of `hutch`, and the facts that `hutch version` reports about the build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    // A program that is linked statically and still position-independent relocates itself. Packed (DT_RELR), its
    // relocations take a few KiB instead of 200, all of which would be read, and be resident, at every start.
    if features.split(',').any(|feature| feature == "crt-static")
        && env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu")
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    println!("cargo:rustc-env=HUTCH_BUILD_TARGET={}", variable("TARGET"));
    println!("cargo:rustc-env=HUTCH_BUILD_PROFILE={}", variable("PROFILE"));
    println!("cargo:rustc-env=HUTCH_BUILD_OPT_LEVEL={}", variable("OPT_LEVEL"));
    println!("cargo:rustc-env=HUTCH_BUILD_RUSTC={}", rustc_version().unwrap_or_else(|| "unknown".to_owned()));
    // Only the workspace's own repository: a directory further up may belong to another project.
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    if let Some(commit) = head_commit(&root.join(".git")) {
        println!("cargo:rustc-env=HUTCH_BUILD_COMMIT={commit}");
    }
}

fn rustc_version() -> Option<String> {
    let output = Command::new(env::var_os("RUSTC")?).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The commit that is checked out, read from git's files. `None` if there is no repository or it has another layout.
fn head_commit(dot_git: &Path) -> Option<String> {
    let git_dir = git_dir(dot_git)?;
    let head = read(&git_dir.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref:").map(str::trim) else { return commit(&head) };
    // A linked worktree has a HEAD of its own, and shares its branches with the main one.
    let common = read(&git_dir.join("commondir")).map_or_else(|| git_dir.clone(), |dir| git_dir.join(dir));
    let loose = common.join(reference);
    if let Some(text) = read(&loose) {
        return commit(&text);
    }
    // The next commit creates the loose file; until then only its directory can be watched.
    if let Some(parent) = loose.parent() {
        watch(parent);
    }
    let packed = read(&common.join("packed-refs"))?;
    packed.lines().find_map(|line| commit(line.strip_suffix(reference)?.trim_end()))
}

/// The git directory: `.git` itself, or the directory that the file `.git` of a worktree or submodule names.
fn git_dir(dot_git: &Path) -> Option<PathBuf> {
    if dot_git.is_dir() {
        return Some(dot_git.to_owned());
    }
    let text = read(dot_git)?;
    let dir = text.strip_prefix("gitdir:")?.trim();
    Some(dot_git.parent()?.join(dir))
}

/// Reads a file without surrounding white space, and makes cargo run this script again when the file changes.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    watch(path);
    Some(text.trim().to_owned())
}

/// Cargo would run the script at every build for a path that does not exist.
fn watch(path: &Path) {
    if path.exists() {
        println!("cargo:rerun-if-changed={}", path.display());
    }
}

/// `text` if it is an object id: SHA-1 or SHA-256 in hexadecimal.
fn commit(text: &str) -> Option<String> {
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| text.to_owned())
}
