//! The capabilities of a thread (capabilities(7)). A thread inherits them from the one that makes it.
//!
//! | thread | keeps |
//! |---|---|
//! | vCPUs, devices, the console, a VMM process's first thread, its control socket | none |
//! | file servers | [`FILE_SERVER`] |
//! | `images` | [`IMAGES`] |
//! | a shim | [`SHIM`] |
//! | `maker`, which makes all of these but the last two of the first line | [`IMAGES`], and with shares [`FILE_SERVER`] |
//!
//! The bounding set stays: only exec would make use of it.
#![expect(unsafe_code, reason = "capget(2) and capset(2) have no safe form")]

use std::io;

use hutch_devices::threads::ThreadKind;

use super::seccomp::Kind;

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`: two words for each set.
const VERSION: u32 = 0x2008_0522;

const CHOWN: u32 = 0;
const DAC_OVERRIDE: u32 = 1;
const DAC_READ_SEARCH: u32 = 2;
const FOWNER: u32 = 3;
const FSETID: u32 = 4;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const LEASE: u32 = 28;
const SETFCAP: u32 = 31;

/// Enough for a file server to act for every user of its guest: read and write the files of all owners, give files away,
/// take on a user's ids, set the capabilities of a program file. It is not enough to make device nodes (but the whiteouts
/// of overlay file systems), to set `trusted.*` attributes, or to open files by handle.
pub const FILE_SERVER: CapabilitySet = CapabilitySet(
    1 << CHOWN | 1 << DAC_OVERRIDE | 1 << FOWNER | 1 << FSETID | 1 << SETGID | 1 << SETUID | 1 << SETFCAP,
);

/// Enough for the holder of a lease on another owner's kernel to give it back.
pub const IMAGES: CapabilitySet = CapabilitySet(1 << LEASE);

/// Enough to come to the pod's records in a directory below one that another user owns. Landlock decides which files it may open.
pub const SHIM: CapabilitySet = CapabilitySet(1 << DAC_READ_SEARCH);

/// A set of capabilities: bit n is number n of `linux/capability.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapabilitySet(u64);

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// One word of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl CapabilitySet {
    /// No capability.
    pub const NONE: Self = Self(0);

    /// Those that a thread of this kind needs, in a machine with shares or without.
    pub fn of(kind: Kind, shares: bool) -> Self {
        match kind {
            Kind::Maker if shares => FILE_SERVER.with(IMAGES),
            Kind::Maker => IMAGES,
            Kind::Device(ThreadKind::FileServer) => FILE_SERVER,
            Kind::Images => IMAGES,
            Kind::Vcpu
            | Kind::Device(
                ThreadKind::Block
                | ThreadKind::Entropy
                | ThreadKind::Memory
                | ThreadKind::Network
                | ThreadKind::Sockets,
            )
            | Kind::Console
            | Kind::Owner
            | Kind::Foreground => Self::NONE,
            Kind::Shim => SHIM,
        }
    }

    /// Those of both sets.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of this set that are in the other one too.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// How many they are.
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Those that the calling thread could have in effect: its permitted set.
    ///
    /// # Errors
    /// Only if the kernel does not know the interface.
    pub fn of_this_thread() -> io::Result<Self> {
        let mut header = THIS_THREAD;
        let mut words = [Word::default(); 2];
        // SAFETY: version 3 writes two words to `words`; the header is ours and may be written too.
        check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) })?;
        let [low, high] = words;
        Ok(Self(u64::from(high.permitted) << 32 | u64::from(low.permitted)))
    }

    /// Takes all other capabilities from the calling thread for good; it has those of the set that it had before. Returns
    /// these.
    ///
    /// # Errors
    /// Only if the kernel does not know the interface.
    pub fn limit_this_thread(self) -> io::Result<Self> {
        // A thread that keeps none need not be asked.
        let kept = if self == Self::NONE { 0 } else { self.0 & Self::of_this_thread()?.0 };
        #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
        let word = |half: u64| Word { effective: half as u32, permitted: half as u32, inheritable: 0 };
        let words = [word(kept), word(kept >> 32)];
        let mut header = THIS_THREAD;
        // SAFETY: version 3 reads two words from `words`; the header is ours and may be written.
        check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) })?;
        Ok(Self(kept))
    }
}

/// A pid of 0 is the calling thread.
const THIS_THREAD: Header = Header { version: VERSION, pid: 0 };

/// The error of a system call that returned -1.
pub(super) fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// The sets of the calling thread as the kernel shows them: inheritable, permitted, effective, ambient.
    fn shown() -> [u64; 4] {
        let status = std::fs::read_to_string("/proc/thread-self/status").expect("a mounted /proc");
        ["CapInh", "CapPrm", "CapEff", "CapAmb"].map(|name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            u64::from_str_radix(line.expect("a line of each set").trim(), 16).expect("a hexadecimal number")
        })
    }

    fn on_a_thread<T: Send>(job: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(job).join().expect("no panic"))
    }

    #[test]
    fn a_thread_keeps_no_more_than_the_set_and_no_more_than_it_had() {
        let [_, had, ..] = shown();
        for set in [CapabilitySet::NONE, FILE_SERVER, IMAGES, FILE_SERVER.with(IMAGES)] {
            let [inheritable, permitted, effective, ambient] = on_a_thread(|| {
                set.limit_this_thread().expect("less is always permitted");
                shown()
            });
            assert_eq!((permitted, effective), (set.0 & had, set.0 & had), "{set:?}");
            assert_eq!((inheritable, ambient), (0, 0), "{set:?}");
        }
        let [_, has, ..] = shown();
        assert_eq!(has, had, "the thread that made the others is as before");
    }

    #[test]
    fn what_a_thread_gave_up_its_own_threads_do_not_have() {
        let after = on_a_thread(|| {
            CapabilitySet::NONE.limit_this_thread().expect("less is always permitted");
            on_a_thread(|| {
                FILE_SERVER.limit_this_thread().expect("less is always permitted");
                shown()
            })
        });
        assert_eq!(after, [0; 4]);
    }
}
