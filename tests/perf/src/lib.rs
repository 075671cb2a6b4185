//! What the benchmarks of this package have in common.
#![deny(unsafe_code)]

pub mod measure;
