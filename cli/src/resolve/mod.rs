//! The meaning of the command line: arguments become a plan, or an error that names the mistake and the remedy.
//!
//! This module finds every mistake that it can find before a machine exists. It changes nothing on the host, except
//! that it creates the console file.
//!
//! | file | contents |
//! |---|---|
//! | `run`, `pod` | `hutch run`; pods and containers, from flags or files |
//! | `root`, `mounts`, `process`, `env` | root file system; volumes and disks; command, user and limits; environment |
//! | `size`, `values` | sizes of memory; values that several verbs share |
//! | `host`, `error` | what the meaning depends on; mistakes and remedies |

mod env;
mod error;
mod host;
mod mounts;
pub(crate) mod pod;
mod process;
mod root;
mod run;
pub(crate) mod size;
#[cfg(test)]
pub(crate) mod tests;
mod values;

pub use error::ResolveError;
pub use host::{memory_of_host, Host};
pub use hutch_guest::guest_dir;
pub use pod::PodPlan;
pub use process::ulimit;
pub use root::RootSource;
pub use run::{run, RootMode, RunPlan};
