//! The verbs, one file each. Each returns the program's exit code.
//!
//! | file | contents |
//! |---|---|
//! | `run`, `boot` | one command in a virtual machine; any kernel, without the agent |
//! | `pod`, `container`, `volume` | pods, containers and volumes, through the runtime |
//! | `records`, `stop` | the runtime that these verbs use; the options of a stop |
//! | `guest`, `doctor`, `bench` | guest assets; the check of this host; measurements |
//! | `schema`, `completions`, `version` | schemas of configurations; completion scripts; versions |

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
