//! Values that several verbs have in common.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;

use hutch_guest::KernelChoice;
use hutch_runtime::spec::MIN_MEMORY_MIB;
use hutch_vmm::arch::x86_64::layout::MAX_VCPUS;

use super::error::ResolveError;
use super::host::Host;
use super::size;

/// Memory of `hutch run` without `--memory`.
const DEFAULT_MEMORY_MIB: u64 = 256;
/// Longest machine name; it is part of thread names and log lines.
pub(super) const MAX_NAME: usize = 64;

/// `text` as UTF-8 without NUL; `what` names it in the error.
pub(super) fn utf8<'a>(what: &'static str, text: &'a OsStr) -> Result<&'a str, ResolveError> {
    let text = text.to_str().ok_or_else(|| ResolveError::NotUtf8 { what, text: text.to_owned() })?;
    match text.contains('\0') {
        true => Err(ResolveError::NotUtf8 { what, text: text.into() }),
        false => Ok(text),
    }
}

pub(super) fn cpus(text: Option<&OsStr>) -> Result<u32, ResolveError> {
    let Some(text) = text else { return Ok(1) };
    match text.to_str().and_then(|t| t.parse().ok()) {
        Some(cpus) if (1..=MAX_VCPUS).contains(&cpus) => Ok(cpus),
        _ => Err(ResolveError::Cpus(text.to_owned())),
    }
}

pub(super) fn memory(text: Option<&OsStr>, host: &Host<'_>) -> Result<u64, ResolveError> {
    let Some(text) = text else { return Ok(DEFAULT_MEMORY_MIB) };
    let mib = text.to_str().and_then(size::mib).ok_or_else(|| ResolveError::MemorySyntax(text.to_owned()))?;
    if mib < MIN_MEMORY_MIB {
        return Err(ResolveError::MemoryTooSmall { mib });
    }
    if mib > host.memory_mib {
        return Err(ResolveError::MemoryTooLarge { mib, host_mib: host.memory_mib });
    }
    Ok(mib)
}

pub(super) fn kernel(text: Option<&OsStr>) -> Result<KernelChoice, ResolveError> {
    let Some(text) = text else { return Ok(KernelChoice::default()) };
    let choice = match text.to_str() {
        Some(word) => word.parse().unwrap_or_else(|never: Infallible| match never {}),
        None => KernelChoice::Path(text.into()),
    };
    if let KernelChoice::Path(path) = &choice {
        regular_file("kernel", path)?;
    }
    Ok(choice)
}

/// Checks that `path` is a regular file that hutch can read.
pub(super) fn regular_file(what: &'static str, path: &Path) -> Result<(), ResolveError> {
    let fail = |source| ResolveError::File { what, path: path.to_owned(), source };
    let meta = File::open(path).and_then(|file| file.metadata()).map_err(fail)?;
    match meta.is_file() {
        true => Ok(()),
        false => Err(ResolveError::NotAFile { what, path: path.to_owned() }),
    }
}

/// Whether `text` has at most `max` letters, digits, `-`, `_` and `.`, and begins with a letter or digit.
pub(super) fn is_name(text: &str, max: usize) -> bool {
    text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
