//! Fakes of everything outside of the pod API: machines, guests, shims, networks, mounts. For tests and examples.
//!
//! A [`FakeHost`] holds it all in memory and is fast and deterministic: it records every call, fails those that a test
//! names, and reports leaks at the end. [`process`] puts the same guest model behind real processes, for tests
//! that kill them.
//!
//! | file | contents |
//! |---|---|
//! | `fake_host`, `calls` | everything outside of the pod API; the record of calls, and failures on request |
//! | `guest`, `session` | the model of a guest with its agent; sessions with it |
//! | `vm`, `shims`, `processes` | machines and shims in memory, and their processes |
//! | `network`, `mounts`, `cgroups`, `disk` | namespaces, bind mounts, control groups; a disk that fails on request |
//! | `process` | the same with real processes |
//! | `table` | the contract's tables as cases for fakes and real machines |
//!
//! The first argument of a command decides what the guest model ([`FakeGuest`]) does:
//!
//! | argument | behaviour |
//! |---|---|
//! | `exit N` | ends with code N as soon as it is started |
//! | `missing` | refused: the program does not exist |
//! | `deaf` | ignores every signal but SIGKILL |
//! | `undead` | ignores every signal |
//! | anything else | runs until a signal ends it |

mod calls;
mod cgroups;
mod disk;
mod fake_host;
pub(crate) mod guest;
mod mounts;
mod network;
pub mod process;
mod processes;
mod session;
mod shims;
pub mod table;
mod vm;

pub use calls::Failing;
pub use disk::FailingDisk;
pub use fake_host::FakeHost;
pub use guest::{Answer, FakeGuest, GuestState};

/// A restart of the host, as far as the markers of pods show it: they name an earlier boot.
pub(crate) fn age_markers(config_root: &std::path::Path) {
    for entry in std::fs::read_dir(config_root).into_iter().flatten().flatten() {
        let path = entry.path().join(hutch_runtime::store::POD_MARKER);
        let Ok(text) = std::fs::read(&path) else { continue };
        let mut marker: serde_json::Value = serde_json::from_slice(&text).expect("a marker");
        marker["data"]["boot_id"] = "an earlier boot".into();
        std::fs::write(&path, marker.to_string()).expect("a marker that can be written");
    }
}
