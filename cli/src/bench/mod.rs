//! `hutch bench`: measures boots of hutch and of other programs in one run, turn by turn.
//!
//! A [`target::Target`] is a command line with a way to recognise that its guest has arrived. [`runner`] starts one
//! and gives back a [`sample::Sample`]; [`plan`] interleaves targets and rounds; [`stats`] condenses; [`report`],
//! [`plot`] and [`compare`] show. Nothing here knows how a VM works: hutch is measured from outside, as its peers are,
//! and adds its own marks through a file.

pub mod boot;
pub mod compare;
pub mod density;
pub mod initrd;
pub mod plan;
pub mod plot;
pub mod proc;
pub mod report;
pub mod runner;
pub mod sample;
pub mod stats;
pub mod sweep;
pub mod syscalls;
pub mod target;
mod templates;
