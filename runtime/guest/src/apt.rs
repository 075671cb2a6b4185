//! Debian's archive through its own programs: apt-cache, apt-get, dpkg-query and dpkg-deb.
//!
//! Packages are downloaded and read, but not installed. The exceptions are the tools of a kernel build, which a note
//! names before they are installed.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::progress::{BuildEvent, Progress};
use super::tool::{run, ToolError, Tools};

/// A package that is not available.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AptError {
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("apt downloaded no package for {package}; run `apt-get update` and try again")]
    NothingDownloaded { package: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has the SHA-256 sum {got}, the archive's index says {expected}; run `apt-get update` and try again", path.display())]
    WrongSum { path: PathBuf, expected: Digest, got: Digest },
    #[error("the packages {} are needed and only root may install them; run: apt-get install --no-install-recommends {}", packages.join(", "), packages.join(" "))]
    NotRoot { packages: Vec<String> },
}

/// A package in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// From the signed index; absent for a package that is known only because it is installed.
    pub(crate) sha256: Option<Digest>,
}

/// A downloaded package.
#[derive(Debug)]
pub(crate) struct Deb {
    pub(crate) path: PathBuf,
    pub(crate) sha256: Digest,
}

/// The archive as apt on this host sees it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Apt {
    pub(crate) tools: Tools,
}

impl Apt {
    /// Names that match the regular expression, in no particular order.
    pub(crate) fn search(&self, regex: &str) -> Result<Vec<String>, AptError> {
        let out = self.tools.output("apt-cache", &["search", "--names-only", regex])?;
        let text = String::from_utf8_lossy(&out);
        Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// The version of `name` that apt would install; `None` if the archive has no such package.
    pub(crate) fn candidate(&self, name: &str) -> Result<Option<Package>, AptError> {
        match self.tools.output("apt-cache", &["show", "--no-all-versions", name]) {
            Ok(out) => Ok(parse_record(&String::from_utf8_lossy(&out), name)),
            Err(ToolError::Failed { stderr, .. }) if stderr.contains("No packages found") => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Names of the packages that `name` depends on.
    pub(crate) fn dependencies(&self, name: &str) -> Result<Vec<String>, AptError> {
        let out = self.tools.output("apt-cache", &["depends", "--important", name])?;
        let text = String::from_utf8_lossy(&out);
        Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
    }

    /// Updates the package lists: they are empty in a fresh container image.
    pub(crate) fn update(&self, progress: &mut dyn Progress) -> Result<(), AptError> {
        progress.event(BuildEvent::Note("the package lists lack the kernel: running apt-get update"));
        self.tools.output("apt-get", &["-q", "update"])?;
        Ok(())
    }

    /// Downloads a package into the empty directory `into` and checks its sum.
    pub(crate) fn download(&self, package: &Package, into: &Path) -> Result<Deb, AptError> {
        let mut command = self.tools.command("apt-get");
        // As root, apt would fetch as the user _apt, who may not write here, and would print a warning.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
        command.arg(format!("{}={}", package.name, package.version)).current_dir(into);
        run(command, |out| io::copy(out, &mut io::sink()))?;
        let read = |source| AptError::Read { path: into.to_owned(), source };
        let mut files = fs::read_dir(into).map_err(read)?.filter_map(Result::ok).map(|entry| entry.path());
        let path = files
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .ok_or_else(|| AptError::NothingDownloaded { package: package.name.clone() })?;
        let (got, _) = Digest::of_file(&path).map_err(|source| AptError::Read { path: path.clone(), source })?;
        match package.sha256 {
            Some(expected) if expected != got => Err(AptError::WrongSum { path, expected, got }),
            _ => Ok(Deb { path, sha256: got }),
        }
    }

    /// Shows every regular file of a package to `visit`, with its path ("./boot/vmlinuz-6.12") and length.
    pub(crate) fn read_files(
        &self,
        deb: &Path,
        mut visit: impl FnMut(&str, u64, &mut dyn Read) -> io::Result<()>,
    ) -> Result<(), AptError> {
        let mut command = self.tools.command("dpkg-deb");
        command.arg("--fsys-tarfile").arg(deb);
        run(command, |out| {
            let mut archive = tar::Archive::new(out);
            for entry in archive.entries()? {
                let mut entry = entry?;
                if entry.header().entry_type().is_file() {
                    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                    let size = entry.size();
                    visit(&path, size, &mut entry)?;
                }
            }
            // Read to the end, padding too, so that dpkg-deb can finish.
            io::copy(&mut archive.into_inner(), &mut io::sink())?;
            Ok(())
        })?;
        Ok(())
    }

    /// The installed version of `name`.
    pub(crate) fn installed(&self, name: &str) -> Result<Option<String>, AptError> {
        match self.tools.output("dpkg-query", &["-W", "-f", "${db:Status-Status} ${Version}", name]) {
            Ok(out) => {
                Ok(String::from_utf8_lossy(&out).strip_prefix("installed ").map(|version| version.trim().to_owned()))
            }
            Err(ToolError::Failed { .. }) => Ok(None), // "no packages found matching"
            Err(error) => Err(error.into()),
        }
    }

    /// Installs those of `names` that are missing, after a note with their names.
    pub(crate) fn ensure_installed(&self, names: &[&str], progress: &mut dyn Progress) -> Result<(), AptError> {
        let mut missing = Vec::new();
        for name in names {
            if self.installed(name)?.is_none() {
                missing.push((*name).to_owned());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(AptError::NotRoot { packages: missing });
        }
        progress.event(BuildEvent::Note(&format!("installing the apt packages {}", missing.join(" "))));
        let mut args = vec!["-q", "-y", "--no-install-recommends", "install"];
        args.extend(missing.iter().map(String::as_str));
        if self.tools.output("apt-get", &args).is_err() {
            self.update(progress)?; // lists may be absent or name versions that are gone
            self.tools.output("apt-get", &args)?;
        }
        Ok(())
    }
}

fn parse_record(text: &str, name: &str) -> Option<Package> {
    let field = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).map(str::trim);
    Some(Package {
        name: name.to_owned(),
        version: field("Version")?.to_owned(),
        sha256: field("SHA256").and_then(Digest::parse),
    })
}

/// Orders names that contain versions: digits by their value, the rest by bytes.
pub(crate) fn version_key(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let text_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(text_len);
        let digits = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (number, tail) = tail.split_at(digits);
        key.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let mut names = ["linux-image-6.12.9+deb12", "linux-image-6.12.117+deb12", "linux-image-6.12.86+deb12"];
        names.sort_by_key(|name| version_key(name));
        assert_eq!(names[2], "linux-image-6.12.117+deb12");
    }

    #[test]
    fn a_record_yields_version_and_sum() {
        let sum = Digest::of(b"x");
        let text = format!("Package: p\nVersion: 6.12.1-1\nDescription: a\n Version: no\nSHA256: {sum}\n\n");
        let package = parse_record(&text, "p").unwrap();
        assert_eq!((package.version.as_str(), package.sha256), ("6.12.1-1", Some(sum)));
        assert_eq!(parse_record("Package: p\n", "p"), None);
    }
}
