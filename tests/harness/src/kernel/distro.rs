//! Debian's cloud kernel: downloaded with apt, unpacked, modules decompressed (far cheaper here than in the bed).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{cache_dir, fill_once, Kernel, KernelError};

/// Newest first to try. 6.12 is in Debian 12's security suite.
const SERIES: [&str; 2] = ["6.12", "6.1"];

/// The kernel from the cache; fetched first if there is none or `refresh` is set and apt has a newer one.
///
/// # Errors
/// As [`KernelError`] says.
pub fn prepare(refresh: bool) -> Result<Kernel, KernelError> {
    let cache = cache_dir().join("bed");
    let cached = newest_cached(&cache);
    let dir = match cached {
        Some(dir) if !refresh => dir,
        _ => {
            let package = newest_package()?;
            let dir = cache.join(&package);
            fill_once(&dir, |partial| unpack(&package, partial))?;
            dir
        }
    };
    let release = release_of(&dir);
    Ok(Kernel {
        name: "distro",
        vmlinux: dir.join("vmlinux"),
        modules: Some(dir.join("lib/modules").join(release)),
        max_cpus: 1,
    })
}

const PREFIX: &str = "linux-image-";

fn release_of(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    name.trim_start_matches(PREFIX).to_owned()
}

fn newest_cached(cache: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).ok()?.filter_map(|e| Some(e.ok()?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = entries.filter(|n| n.starts_with(PREFIX) && !n.ends_with(".partial")).collect();
    newest(names.iter().map(String::as_str)).map(|name| cache.join(name))
}

fn newest_package() -> Result<String, KernelError> {
    for series in SERIES {
        let pattern = format!("^linux-image-{}[.].*cloud-amd64$", series.replace('.', "[.]"));
        let listing = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
        let names = listing.lines().filter_map(|line| line.split_whitespace().next());
        if let Some(name) = newest(names) {
            return Ok(name.to_owned());
        }
    }
    Err(KernelError::NoPackage("linux-image-6.12*cloud-amd64"))
}

/// The name whose numbers are the greatest, compared as numbers.
fn newest<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.max_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit()).filter(|n| !n.is_empty());
        numbers.map(|n| n.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>()
    })
}

fn unpack(package: &str, dir: &Path) -> Result<(), KernelError> {
    let work = dir.join("work");
    let error = |source| KernelError::Cache { path: work.clone(), source };
    fs::create_dir(&work).map_err(error)?;
    output(Command::new("apt-get").args(["download", package]).current_dir(&work))?;
    let deb = fs::read_dir(&work).map_err(error)?.filter_map(Result::ok).map(|e| e.path()).next();
    let deb = deb.ok_or(KernelError::NoPackage("the one apt has just downloaded"))?;
    let tree = dir.join("tree");
    output(Command::new("dpkg-deb").arg("-x").args([&deb, &tree]))?;
    let release = package.trim_start_matches(PREFIX);
    extract_vmlinux(&tree.join(format!("boot/vmlinuz-{release}")), &dir.join("vmlinux"))?;
    let modules = dir.join("lib/modules");
    fs::create_dir_all(&modules).map_err(error)?;
    // Debian 13 has them below /usr.
    let from = ["lib/modules", "usr/lib/modules"].map(|m| tree.join(m).join(release)).into_iter().find(|p| p.exists());
    let from = from.ok_or(KernelError::Image { path: deb, reason: "the package has no modules" })?;
    fs::rename(from, modules.join(release)).map_err(error)?;
    let pipeline = "find \"$0\" -name '*.ko.xz' -print0 | xargs -0 -r -n64 -P\"$(nproc)\" xz -d -f";
    output(Command::new("sh").args(["-c", pipeline]).arg(&modules))?;
    output(Command::new("/sbin/depmod").arg("-b").arg(dir).arg(release))?;
    fs::remove_dir_all(&tree).and_then(|()| fs::remove_dir_all(&work)).map_err(error)
}

/// Takes the compressed ELF image out of a bzImage (Documentation/arch/x86/boot.rst: `setup_sects` at 0x1f1,
/// `payload_offset` and `payload_length` at 0x248, counted from the protected-mode code).
fn extract_vmlinux(image: &Path, to: &Path) -> Result<(), KernelError> {
    let bytes = fs::read(image).map_err(|source| KernelError::Cache { path: image.into(), source })?;
    let bad = |reason| KernelError::Image { path: image.into(), reason };
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize);
    let payload = || {
        let setup = match *bytes.get(0x1f1)? {
            0 => 4,
            sectors => sectors as usize,
        };
        let start = ((setup + 1) * 512).checked_add(word(0x248)?)?;
        bytes.get(start..start.checked_add(word(0x24c)?)?)
    };
    let payload = payload().ok_or_else(|| bad("its header points outside of it"))?;
    let program = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        _ => return Err(bad("its compression is unknown")),
    };
    let packed = to.with_extension("packed");
    let cache = |source| KernelError::Cache { path: to.into(), source };
    fs::write(&packed, payload).map_err(cache)?;
    let (from, out) = (fs::File::open(&packed).map_err(cache)?, fs::File::create(to).map_err(cache)?);
    // The payload ends with the image's size, which the programs take for trailing garbage: they complain, having
    // written everything. So the result is checked, not their status.
    let status = Command::new(program).arg("-dc").stdin(from).stdout(out).stderr(Stdio::null()).status();
    status.map_err(|e| KernelError::Program { command: format!("{program} -dc"), reason: e.to_string() })?;
    fs::remove_file(&packed).map_err(cache)?;
    let mut head = [0; 4];
    let mut file = fs::File::open(to).map_err(cache)?;
    match std::io::Read::read_exact(&mut file, &mut head) {
        Ok(()) if &head == b"\x7fELF" => Ok(()),
        _ => Err(bad("its payload is no ELF image")),
    }
}

/// Runs a program to its end and returns its stdout.
fn output(command: &mut Command) -> Result<String, KernelError> {
    let line = format!("{command:?}");
    let failed = |reason| KernelError::Program { command: line.clone(), reason };
    let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rev().take(5).collect::<Vec<_>>();
    Err(failed(format!("{}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join(" | "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.12+bpo-cloud-amd64",
        ];
        assert_eq!(newest(names.into_iter()), Some(names[1]));
        assert_eq!(newest([].into_iter()), None);
    }
}
