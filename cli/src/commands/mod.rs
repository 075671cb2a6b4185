//! The verbs, one file each. They return the program's exit code.

pub mod bench;
pub mod boot;
pub mod container;
pub mod doctor;
pub mod guest;
pub mod pod;
pub mod records;
pub mod run;
pub mod schema;
pub mod version;
pub mod volume;
