//! The verbs, one file each. Each returns the program's exit code.

pub(crate) mod bench;
pub(crate) mod boot;
pub(crate) mod completions;
pub(crate) mod container;
pub(crate) mod doctor;
pub(crate) mod guest;
pub(crate) mod pod;
pub(crate) mod records;
pub(crate) mod run;
pub(crate) mod schema;
mod stop;
pub(crate) mod version;
pub(crate) mod volume;
