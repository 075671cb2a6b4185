//! `hutch bench`: measures boots of hutch and of other programs, alternately in one run.
//!
//! A [`target::Target`] is a command line and the event that ends its measurement. [`runner`] runs a target and returns
//! a [`sample::Sample`]; [`plan`] interleaves targets and rounds; [`stats`] summarises; [`report`], [`plot`] and
//! [`compare`] show the results. This module does not know how a VM works: it measures hutch from outside, as it
//! measures the peers, and hutch adds its own marks through a file.
//!
//! | file | contents |
//! |---|---|
//! | `boot`, `density`, `compare` | the three verbs |
//! | `target`, `templates`, `sweep` | what is measured: hutch and peers; commands of known peers; one varied setting |
//! | `plan`, `runner`, `sample` | the order of runs; one run; its results |
//! | `proc`, `syscalls` | memory and exits of a process; counts of its system calls |
//! | `initrd` | the guest of a bare boot |
//! | `stats`, `report`, `plot` | statistics; tables, CSV and JSON; the drawing |
//! | `error` | errors |

pub(crate) mod boot;
pub(crate) mod compare;
pub(crate) mod density;
mod error;
mod initrd;
mod plan;
mod plot;
mod proc;
mod report;
mod runner;
mod sample;
mod stats;
mod sweep;
mod syscalls;
mod target;
mod templates;
