//! Finds out whether this host needs the testbed.

use std::fs::{self, OpenOptions};

/// Quality of this host's `/dev/kvm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKvm {
    /// The processor has virtualisation extensions and `/dev/kvm` can be opened: tests run here.
    Usable,
    /// The extensions are there, but this user cannot open `/dev/kvm`.
    NotOpen,
    /// No extensions. A `/dev/kvm`, if there is one, emulates and cannot run a stock guest.
    NoExtensions,
}

/// Examines this host's processor and `/dev/kvm`.
pub fn host() -> HostKvm {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let opens = || OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    match has_extensions(&info) {
        false => HostKvm::NoExtensions,
        true if opens() => HostKvm::Usable,
        true => HostKvm::NotOpen,
    }
}

fn has_extensions(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|l| l.starts_with("flags")).flat_map(str::split_whitespace);
    flags.any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flags_line_counts_and_only_whole_words() {
        assert!(has_extensions("model name\t: x\nflags\t\t: fpu vmx sse\n"));
        assert!(has_extensions("flags\t\t: svm\n"));
        assert!(!has_extensions("flags\t\t: fpu svm_lock\nbugs\t\t: vmx\nvmx flags\t: ept\n"));
        assert!(!has_extensions(""));
    }
}
