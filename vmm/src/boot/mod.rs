//! From files on the host to a guest that can start: kernel image, initrd, command line, and what the entry protocol
//! wants in memory. Runs on the builder's thread.

pub mod bzimage;
pub mod cmdline;
pub mod cold;
pub mod elf;
pub mod initrd;
pub mod kernel;
pub mod lease;
pub mod linux64;
pub mod load;
pub mod pieces;
pub mod place;
pub mod pvh;
