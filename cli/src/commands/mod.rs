//! The verbs, one file each. They return the program's exit code.

pub mod bench;
pub mod boot;
pub mod doctor;
pub mod guest;
pub mod run;
pub mod version;
