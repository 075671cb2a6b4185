//! Debian's cloud kernel. Downloads it with apt, unpacks it and decompresses its modules, which is far cheaper here than in
//! the testbed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hutch_guest::{extract_vmlinux, ImageError};
use hutch_testbed_host::kernel::{cache_dir, newest, DISTRO_PREFIX};
use nix::fcntl::{Flock, FlockArg};

/// Kernel series in order of preference. 6.12 is in Debian 12's security suite.
const SERIES: [&str; 2] = ["6.12", "6.1"];

/// An error that leaves the cache without a kernel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DistroError {
    /// apt knows no such package.
    #[error(
        "apt knows no package linux-image-6.12*-cloud-amd64: run `apt-get update`, and see that apt's sources have the \
         suite bookworm-security"
    )]
    NoPackage,
    /// A program failed.
    #[error("`{command}` failed: {reason}")]
    Program { command: String, reason: String },
    /// The package lacks an expected file.
    #[error("the package {package} has no {what}")]
    Contents { package: String, what: &'static str },
    /// The kernel image cannot be unpacked.
    #[error("cannot unpack the kernel of {package}")]
    Image { package: String, source: ImageError },
    /// The cache cannot be used.
    #[error("cannot use {path} of the cache: make it writable, or name another directory in HUTCH_CACHE_DIR")]
    Cache { path: PathBuf, source: io::Error },
}

/// Puts the newest kernel that apt knows into the cache, unless the cache has it.
pub(crate) fn prepare() -> Result<(), DistroError> {
    let package = newest_package()?;
    fill_once(&cache_dir().join(&package), |partial| unpack(&package, partial))
}

fn newest_package() -> Result<String, DistroError> {
    for series in SERIES {
        let pattern = format!("^linux-image-{}[.].*cloud-amd64$", series.replace('.', "[.]"));
        let listing = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names = listing.lines().filter_map(|line| line.split_whitespace().next());
        if let Some(name) = newest(names) {
            return Ok(name.to_owned());
        }
    }
    Err(DistroError::NoPackage)
}

/// Makes `dir` atomically: `fill` writes a temporary directory beside it, which is then renamed. A lock keeps a second caller
/// waiting instead of doing the work twice.
fn fill_once(dir: &Path, fill: impl FnOnce(&Path) -> Result<(), DistroError>) -> Result<(), DistroError> {
    let parent = dir.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(cache_error(parent))?;
    let lock = File::create(parent.join(".lock")).map_err(cache_error(parent))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| cache_error(parent)(errno.into()))?;
    if dir.exists() {
        return Ok(());
    }
    let partial = parent.join(".partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(cache_error(&partial))?;
    }
    fs::create_dir(&partial).map_err(cache_error(&partial))?;
    fill(&partial)?;
    fs::rename(&partial, dir).map_err(cache_error(dir))
}

/// Leaves `vmlinux`, `vmlinuz` and `lib/modules/RELEASE` in `dir`.
fn unpack(package: &str, dir: &Path) -> Result<(), DistroError> {
    eprintln!("testbed-kernel: fetching {package}");
    let work = dir.join("work");
    fs::create_dir(&work).map_err(cache_error(&work))?;
    output(Command::new("apt-get").args(["download", package]).current_dir(&work))?;
    let missing = |what| DistroError::Contents { package: package.to_owned(), what };
    let found = fs::read_dir(&work).map_err(cache_error(&work))?.filter_map(Result::ok).map(|e| e.path()).next();
    let archive = found.ok_or_else(|| missing("archive"))?;
    let tree = work.join("tree");
    output(Command::new("dpkg-deb").arg("-x").args([&archive, &tree]))?;

    let release = package.trim_start_matches(DISTRO_PREFIX);
    let vmlinuz = dir.join("vmlinuz");
    fs::rename(tree.join(format!("boot/vmlinuz-{release}")), &vmlinuz).map_err(cache_error(&vmlinuz))?;
    let image = fs::read(&vmlinuz).map_err(cache_error(&vmlinuz))?;
    let image = extract_vmlinux(&image).map_err(|source| DistroError::Image { package: package.to_owned(), source })?;
    fs::write(dir.join("vmlinux"), image).map_err(cache_error(dir))?;

    let modules = dir.join("lib/modules");
    fs::create_dir_all(&modules).map_err(cache_error(&modules))?;
    // Debian 13 has them below /usr.
    let places = ["lib/modules", "usr/lib/modules"].map(|m| tree.join(m).join(release));
    let from = places.into_iter().find(|p| p.exists()).ok_or_else(|| missing("modules"))?;
    fs::rename(from, modules.join(release)).map_err(cache_error(&modules))?;
    let pipeline = "find \"$0\" -name '*.ko.xz' -print0 | xargs -0 -r -n64 -P\"$(nproc)\" xz -d -f";
    output(Command::new("sh").args(["-c", pipeline]).arg(&modules))?;
    output(Command::new("/sbin/depmod").arg("-b").arg(dir).arg(release))?;
    fs::remove_dir_all(&work).map_err(cache_error(&work))
}

/// Runs a program to its end and returns its stdout.
fn output(command: &mut Command) -> Result<String, DistroError> {
    let line = format!("{command:?}");
    let failed = |reason| DistroError::Program { command: line.clone(), reason };
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let skip = words.lines().count().saturating_sub(5);
    let last: Vec<&str> = words.lines().skip(skip).collect();
    Err(failed(format!("{}: {}", output.status, last.join(" | "))))
}

fn cache_error(path: &Path) -> impl Fn(io::Error) -> DistroError + use<> {
    let path = path.to_owned();
    move |source| DistroError::Cache { path: path.clone(), source }
}
