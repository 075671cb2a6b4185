//! From files on the host to a guest that can start: kernel image, initrd, command line, and the data that the entry
//! protocol expects in memory. Runs on the builder's thread.
//!
//! | file | contents |
//! |---|---|
//! | `kernel`, `initrd` | the two images: opened and checked before anything is built, then loaded |
//! | `elf`, `bzimage`, `segments` | parse kernel images; the parts of an image to load |
//! | `load_plan`, `loader`, `file_pages` | which parts are mapped; loads images; copies or maps a file's pages |
//! | `lease` | keeps mapped files unchanged for the guest |
//! | `cmdline` | the kernel command line |
//! | `linux64`, `pvh` | boot data of the two entry protocols |
//!
//! Numbers in images come from outside: they never reach an index, an unwrap or a truncating cast.
#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod bzimage;
pub mod cmdline;
pub mod elf;
pub mod file_pages;
pub mod initrd;
pub mod kernel;
pub mod lease;
pub mod linux64;
pub mod load_plan;
pub mod loader;
pub mod pvh;
pub mod segments;
