//! Helpers of the end-to-end tests, which run the built `hutch` with real guests. The tests need a `/dev/kvm` that
//! runs stock guests: `cargo xtask test` runs them in the testbed where the host has none. Where `hutch` cannot run they
//! fail; they are never skipped.
//!
//! The helpers panic when something fails, and show all they know.
//!
//! | file | contents |
//! |---|---|
//! | `run`, `terminal` | runs `hutch`; runs it on a pseudoterminal |
//! | `assets`, `kernels` | the guest assets, and broken ones; tiny guest kernels that misbehave |
//! | `rootfs`, `image` | a small root file system; disk images |
//! | `pods`, `machines` | pods with directories of their own; real machines as the subject of the runtime's tables |
//! | `leaks` | finds what a run leaves behind |
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `HUTCH_BIN` | the program under test | `target/dist/hutch` |
//! | `HUTCH_AGENT`, `HUTCH_AGENT_OCI`, `HUTCH_GUEST_DIR` | read by `hutch` itself | |
//! | `HUTCH_E2E_KERNELS` | kinds of guest kernels to try, with commas | `distro` |
//! | `HUTCH_E2E_OTHER_AGENT` | the static program `other-version-agent` of this package | |
//! | `HUTCH_E2E_EMBED` | the example `embed` of the runtime | |
//! | `HUTCH_E2E_BZIMAGE` | a compressed kernel image | |
//! | `HUTCH_E2E_FSX`, `HUTCH_E2E_PJDFSTEST` | programs that test file systems; absent in a quick run | |
//! | `HUTCH_E2E_FSX_OPERATIONS` | operations of fsx | 200 |
//! | `HUTCH_E2E_PROGRAMS` | set: git, dpkg and SQLite run on a share | unset |
//! | `HUTCH_E2E_POSIX` | parts of the names of tests of pjdfstest | some |
//! | `HUTCH_E2E_QUICK` | shorten the long tests | unset |
//! | `HUTCH_E2E_BOOTS` | boots of the leak test | 100, short: 20 |
//! | `HUTCH_E2E_PODS` | pods of the leak test, in two rows | 40, short: 5 |
//! | `HUTCH_E2E_STREAM_MIB` | size of the stream test | 256, short: 64 |

mod assets;
mod image;
mod kernels;
mod leaks;
mod machines;
mod pods;
mod rootfs;
mod run;
mod terminal;

pub use hutch_testbed::in_testbed;

pub use assets::{guest_dir, guest_file, initrd_with_other_agent, readable_guest_assets};
pub use image::{toml_file, Image};
pub use kernels::TinyKernel;
pub use leaks::Snapshot;
pub use machines::Machines;
pub use pods::Pods;
pub use rootfs::RootFs;
pub use run::{Ended, Hutch, Running};
pub use terminal::Terminal;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Limit for anything that a test waits for. A working host takes seconds, and the slowest and busiest a few minutes, so that
/// only a hang comes to it.
pub const HANG_TIMEOUT: Duration = Duration::from_secs(600);

/// Kinds of guest kernels to try, for `--kernel`.
pub fn kernels() -> Vec<String> {
    let list = std::env::var("HUTCH_E2E_KERNELS").unwrap_or_else(|_| "distro".to_owned());
    list.split(',').map(str::to_owned).collect()
}

/// Whether the long tests should be short.
pub fn quick() -> bool {
    std::env::var_os("HUTCH_E2E_QUICK").is_some()
}

/// The program under test.
pub fn hutch_path() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/dist/hutch");
    let path = std::env::var_os("HUTCH_BIN").map_or_else(built, PathBuf::from);
    assert!(path.exists(), "{} is missing: run `cargo xtask build` or set HUTCH_BIN", path.display());
    path
}

/// Programs of others that the task has built for tests, named by these variables. A quick run goes without, and says so.
///
/// # Panics
/// If one is missing in a whole run.
pub fn external<const N: usize>(variables: [&str; N]) -> Option<[PathBuf; N]> {
    if let Some(missing) = variables.iter().find(|name| std::env::var_os(name).is_none()) {
        assert!(quick(), "{missing} is not set: run the tests with `cargo xtask test`");
        let _ = writeln!(std::io::stdout(), "SKIPPED: {missing} is not set in a quick run");
        return None;
    }
    Some(variables.map(|name| std::env::var_os(name).map(PathBuf::from).unwrap_or_default()))
}

/// Directory for scratch files. Not on an overlay: the kernel cannot stack another overlay on one.
pub fn scratch_dir() -> PathBuf {
    let testbed = Path::new("/scratch");
    if testbed.is_dir() {
        testbed.to_owned()
    } else {
        std::env::temp_dir()
    }
}
