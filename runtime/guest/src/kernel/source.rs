//! Compiles a kernel from Debian's `linux-source` package. About five minutes on two cores; kept until the request,
//! the package's version or this file's method changes.
//!
//! `OUT/` holds `vmlinux`, `config` and their record `kernel.json`, which is written last. During a build `.work-*` has
//! sources and objects (3 GB); the end of the build or the next one removes it.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::super::apt::{Apt, AptError, Package};
use super::super::digest::Digest;
use super::super::progress::{phase, BuildEvent, Progress};
use super::super::store::lock::{Lock, LockError};
use super::super::tool::{end_with_parent, run, ToolError, Tools};
use super::kconfig::{KconfigError, KernelRequest};

/// The source package.
const PACKAGE: &str = "linux-source-6.12";
/// Packages that a build needs, in addition to those of every Debian.
const BUILD_PACKAGES: [&str; 10] =
    ["bc", "binutils", "bison", "flex", "gcc", "libc6-dev", "libelf-dev", "make", "tar", "xz-utils"];
/// Incremented when the same request gives another kernel: part of the key.
const METHOD: u32 = 2;
/// Lines that make prints for the guest kernel; the estimate of the first build.
const FIRST_ESTIMATE: u32 = 2_250;
/// Parts of the source tree that our x86 kernels do not need; a third of it.
const LEFT_OUT: [&str; 6] = [
    "*/drivers/gpu/drm/*/*.[ch]",
    "*/drivers/gpu/drm/*/*/*.[ch]",
    "*/Documentation/*.rst",
    "*/drivers/net/ethernet/*.[ch]",
    "*/drivers/net/wireless/*.[ch]",
    "*/sound/*.[ch]",
];
const VMLINUX: &str = "vmlinux";
const CONFIG: &str = "config";
const RECORD: &str = "kernel.json";
/// Longest wait for another process that builds in the same directory.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

/// A kernel that could not be built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum SourceError {
    #[error(transparent)]
    Apt(#[from] AptError),
    #[error(transparent)]
    Config(#[from] KconfigError),
    #[error("the archive has no package {PACKAGE}; Debian 12 has it in its security suite, Debian 13 in main. Add that to apt's sources, or use `--kernel distro`")]
    NoPackage,
    #[error("the package {PACKAGE} {version} has no source archive in /usr/src")]
    NoArchive { version: String },
    #[error("cannot unpack the kernel's source (3 GB of room are needed)")]
    Unpack { source: ToolError },
    #[error("cannot configure the kernel")]
    Configure { source: ToolError },
    #[error("the kernel does not compile")]
    Compile { source: ToolError },
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// A kernel that was compiled, or found up to date.
#[derive(Debug, Clone)]
pub struct SourceKernel {
    /// The ELF file, without symbols.
    pub vmlinux: PathBuf,
    /// The complete configuration it was compiled with.
    pub config: PathBuf,
    /// `uname -r` of it.
    pub release: String,
    /// Same key, same kernel: the sum of request, package version and method.
    pub key: String,
    /// Name and version of the source package.
    pub package: (String, String),
    /// The sum of the source archive.
    pub source_sha256: Digest,
    /// The sum of the request.
    pub config_sha256: Digest,
    /// Name and version of the compiler.
    pub compiler: String,
    /// Whether the kernel existed already.
    pub reused: bool,
    /// Duration of the build.
    pub build_time: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: String,
    release: String,
    package: String,
    package_version: String,
    source_sha256: Digest,
    config_sha256: Digest,
    vmlinux_sha256: Digest,
    compiler: String,
    make_lines: u32,
    build_ms: u64,
}

/// Request and directory of a build.
#[derive(Debug, Clone)]
pub struct SourceBuild {
    /// Options over `allnoconfig`, as in `resources/kernel/*.config`.
    pub config: String,
    /// Directory for the kernel and its record; kept between builds.
    pub out_dir: PathBuf,
    /// Builds even if the same kernel exists.
    pub force: bool,
}

/// Builds the kernel that `config` requests in `out_dir`, unless it exists.
///
/// Installs missing apt packages after a note with their names. Only root can install; without missing packages any
/// user can build.
///
/// # Errors
/// [`SourceError`], for example with every option that Kconfig did not set.
pub fn build_from_source(
    config: &str,
    out_dir: &Path,
    progress: &mut dyn Progress,
) -> Result<SourceKernel, SourceError> {
    SourceBuild { config: config.to_owned(), out_dir: out_dir.to_owned(), force: false }.run(progress)
}

/// Key of the kernel that `config` gives with apt's present source package.
pub(crate) fn source_key(config: &str, apt: &Apt) -> Result<Option<String>, SourceError> {
    let request = KernelRequest::parse(config)?;
    Ok(find_package(apt)?.map(|package| key(&request, &package)))
}

fn key(request: &KernelRequest, package: &Package) -> String {
    Digest::of(format!("{METHOD}\n{} {}\n{}\n", package.name, package.version, request.digest()).as_bytes()).to_string()
}

fn find_package(apt: &Apt) -> Result<Option<Package>, SourceError> {
    if let Some(package) = apt.candidate(PACKAGE)? {
        return Ok(Some(package));
    }
    let installed = apt.installed(PACKAGE)?;
    Ok(installed.map(|version| Package { name: PACKAGE.to_owned(), version, sha256: None }))
}

impl SourceBuild {
    /// [`build_from_source`] with this request.
    pub fn run(&self, progress: &mut dyn Progress) -> Result<SourceKernel, SourceError> {
        self.run_with(&Apt::default(), progress)
    }

    pub(crate) fn run_with(&self, apt: &Apt, progress: &mut dyn Progress) -> Result<SourceKernel, SourceError> {
        let request = KernelRequest::parse(&self.config)?;
        let out = &self.out_dir;
        fs::create_dir_all(out).map_err(write_error(out))?;
        let _lock = Lock::acquire(&out.join(".lock"), BUILD_TIMEOUT, &mut |who| {
            progress.event(BuildEvent::Note(&format!("{who} is building in {}; waiting", out.display())));
        })?;
        let package = match find_package(apt)? {
            Some(package) => package,
            None => {
                apt.update(progress)?;
                find_package(apt)?.ok_or(SourceError::NoPackage)?
            }
        };
        let key = key(&request, &package);
        let former = self.former();
        if let Some(record) = former.as_ref().filter(|record| record.key == key && !self.force) {
            let sum = Digest::of_file(&out.join(VMLINUX)).map(|(sum, _)| sum).ok();
            if sum == Some(record.vmlinux_sha256) {
                return Ok(self.kernel(record, true));
            }
        }
        apt.ensure_installed(&BUILD_PACKAGES, progress)?;
        let estimate = former.map_or(FIRST_ESTIMATE, |record| record.make_lines);
        let record = self.build(apt, &package, &request, key, estimate, progress)?;
        Ok(self.kernel(&record, false))
    }

    fn former(&self) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.out_dir.join(RECORD)).ok()?).ok()
    }

    fn kernel(&self, record: &Record, reused: bool) -> SourceKernel {
        SourceKernel {
            vmlinux: self.out_dir.join(VMLINUX),
            config: self.out_dir.join(CONFIG),
            release: record.release.clone(),
            key: record.key.clone(),
            package: (record.package.clone(), record.package_version.clone()),
            source_sha256: record.source_sha256,
            config_sha256: record.config_sha256,
            compiler: record.compiler.clone(),
            reused,
            build_time: Duration::from_millis(record.build_ms),
        }
    }

    fn build(
        &self,
        apt: &Apt,
        package: &Package,
        request: &KernelRequest,
        key: String,
        estimate: u32,
        progress: &mut dyn Progress,
    ) -> Result<Record, SourceError> {
        let start = Instant::now();
        let work = self.fresh_work_dir()?;
        let tree = Tree { tools: &apt.tools, dir: work.path() };
        let archive = phase(progress, "get the kernel source", |_| tree.archive(apt, package))?;
        let (source_sha256, _) = Digest::of_file(&archive).map_err(read_error(&archive))?;
        phase(progress, "unpack the kernel source", |_| tree.unpack(&archive))?;
        phase(progress, "configure the kernel", |_| tree.configure(&self.config, request))?;
        let make_lines = phase(progress, "compile the kernel", |progress| tree.compile(&archive, estimate, progress))?;
        let release = tree.release()?;
        let vmlinux = work.path().join("vmlinux.stripped");
        tree.strip(&vmlinux)?;
        let (vmlinux_sha256, _) = Digest::of_file(&vmlinux).map_err(read_error(&vmlinux))?;
        let record = Record {
            key,
            release,
            package: package.name.clone(),
            package_version: package.version.clone(),
            source_sha256,
            config_sha256: request.digest(),
            vmlinux_sha256,
            compiler: tree.compiler()?,
            make_lines,
            build_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.keep(&tree.objects().join(".config"), &vmlinux, &record)?;
        phase(progress, "tidy up", |_| work.close().map_err(write_error(&self.out_dir)))?;
        Ok(record)
    }

    /// Removes the remains of interrupted builds (the lock is held) and makes a new directory.
    fn fresh_work_dir(&self) -> Result<tempfile::TempDir, SourceError> {
        let out = &self.out_dir;
        for entry in fs::read_dir(out).map_err(read_error(out))?.filter_map(Result::ok) {
            if entry.file_name().to_string_lossy().starts_with(".work-") {
                fs::remove_dir_all(entry.path()).map_err(write_error(&entry.path()))?;
            }
        }
        tempfile::Builder::new().prefix(".work-").tempdir_in(out).map_err(write_error(out))
    }

    /// Removes the record first and writes it last, so that it never describes another kernel.
    fn keep(&self, config: &Path, vmlinux: &Path, record: &Record) -> Result<(), SourceError> {
        let [to_record, to_vmlinux, to_config] = [RECORD, VMLINUX, CONFIG].map(|name| self.out_dir.join(name));
        match fs::remove_file(&to_record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(write_error(&to_record)(error)),
            _ => {}
        }
        fs::rename(config, &to_config).map_err(write_error(&to_config))?;
        fs::rename(vmlinux, &to_vmlinux).map_err(write_error(&to_vmlinux))?;
        let json = match serde_json::to_vec_pretty(record) {
            Ok(json) => json,
            Err(error) => unreachable!("a record of strings and numbers always serializes: {error}"),
        };
        let staged = self.out_dir.join(format!(".{RECORD}"));
        fs::write(&staged, json).map_err(write_error(&staged))?;
        fs::rename(&staged, &to_record).map_err(write_error(&to_record))
    }
}

/// The source tree of one build: `DIR/src`, and objects in `DIR/obj`.
struct Tree<'a> {
    tools: &'a Tools,
    dir: &'a Path,
}

impl Tree<'_> {
    fn sources(&self) -> PathBuf {
        self.dir.join("src")
    }

    fn objects(&self) -> PathBuf {
        self.dir.join("obj")
    }

    /// The source archive: from the installed package, else from the downloaded one.
    fn archive(&self, apt: &Apt, package: &Package) -> Result<PathBuf, SourceError> {
        let name = format!("{}.tar.xz", package.name);
        let there = Path::new("/usr/src").join(&name);
        if apt.installed(&package.name)?.as_ref() == Some(&package.version) && there.is_file() {
            return Ok(there);
        }
        let path = self.dir.join(&name);
        let deb = apt.download(package, self.dir)?;
        let mut found = false;
        apt.read_files(&deb.path, |file, _, contents| {
            if file.ends_with(&name) {
                found = true;
                io::copy(contents, &mut fs::File::create(&path)?)?;
            }
            Ok(())
        })?;
        fs::remove_file(&deb.path).map_err(write_error(&deb.path))?;
        if found {
            Ok(path)
        } else {
            Err(SourceError::NoArchive { version: package.version.clone() })
        }
    }

    fn unpack(&self, archive: &Path) -> Result<(), SourceError> {
        let sources = self.sources();
        fs::create_dir(&sources).map_err(write_error(&sources))?;
        let mut command = self.tools.command("tar");
        command.arg("-C").arg(&sources).args(["--strip-components=1", "--use-compress-program=xz -T0"]);
        command.args(LEFT_OUT.iter().map(|pattern| format!("--exclude={pattern}")));
        command.arg("-xf").arg(archive);
        end_with_parent(&mut command);
        run(command, |out| io::copy(out, &mut io::sink())).map_err(|source| SourceError::Unpack { source })?;
        Ok(())
    }

    fn make(&self) -> std::process::Command {
        let mut command = self.tools.command("make");
        command.arg("-C").arg(self.sources()).arg(format!("O={}", self.objects().display()));
        // Removes settings of the caller's own kernel builds, and names of this host.
        for variable in ["MAKEFLAGS", "ARCH", "CROSS_COMPILE", "KCFLAGS", "LOCALVERSION", "KCONFIG_CONFIG"] {
            command.env_remove(variable);
        }
        command.env("KBUILD_BUILD_USER", "hutch").env("KBUILD_BUILD_HOST", "hutch").env("KBUILD_BUILD_VERSION", "1");
        end_with_parent(&mut command);
        command
    }

    fn configure(&self, config: &str, request: &KernelRequest) -> Result<(), SourceError> {
        let asked = self.dir.join("request.config");
        fs::write(&asked, config).map_err(write_error(&asked))?;
        let mut command = self.make();
        command.args(["-s", "allnoconfig"]).env("KCONFIG_ALLCONFIG", &asked);
        run(command, |out| io::copy(out, &mut io::sink())).map_err(|source| SourceError::Configure { source })?;
        let finished = self.objects().join(".config");
        let text = fs::read_to_string(&finished).map_err(read_error(&finished))?;
        Ok(request.check(&text)?)
    }

    /// Compiles and returns the number of lines that make printed.
    fn compile(&self, archive: &Path, estimate: u32, progress: &mut dyn Progress) -> Result<u32, SourceError> {
        let jobs = std::thread::available_parallelism().map_or(1, NonZero::get);
        let mut command = self.make();
        command.arg(format!("-j{jobs}")).arg("vmlinux");
        // `uname -v` contains the date of the source, so the same source gives the same kernel.
        let date = fs::metadata(archive).and_then(|meta| meta.modified()).map_err(read_error(archive))?;
        let seconds = date.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let date = self.tools.output("date", &["-u", "-d", &format!("@{seconds}")]).map_err(AptError::from)?;
        command.env("KBUILD_BUILD_TIMESTAMP", String::from_utf8_lossy(&date).trim());
        let count = |out: &mut std::process::ChildStdout| {
            let mut done = 0u32;
            for line in BufReader::new(out).split(b'\n') {
                line?;
                done = done.saturating_add(1);
                let expected = Some(estimate).filter(|&estimate| done <= estimate);
                progress.event(BuildEvent::Step { done, expected });
            }
            Ok(done)
        };
        run(command, count).map_err(|source| SourceError::Compile { source })
    }

    fn release(&self) -> Result<String, SourceError> {
        let path = self.objects().join("include/config/kernel.release");
        Ok(fs::read_to_string(&path).map_err(read_error(&path))?.trim().to_owned())
    }

    fn strip(&self, to: &Path) -> Result<(), SourceError> {
        let mut command = self.tools.command("objcopy");
        command.args(["--strip-all", "--remove-section=.comment"]).arg(self.objects().join(VMLINUX)).arg(to);
        run(command, |_| Ok(())).map_err(|source| SourceError::Compile { source })
    }

    fn compiler(&self) -> Result<String, SourceError> {
        let out = self.tools.output("gcc", &["--version"]).map_err(AptError::from)?;
        Ok(String::from_utf8_lossy(&out).lines().next().unwrap_or("gcc").to_owned())
    }
}

fn write_error(path: &Path) -> impl Fn(io::Error) -> SourceError + use<> {
    let path = path.to_owned();
    move |source| SourceError::Write { path: path.clone(), source }
}

fn read_error(path: &Path) -> impl Fn(io::Error) -> SourceError + use<> {
    let path = path.to_owned();
    move |source| SourceError::Read { path: path.clone(), source }
}
