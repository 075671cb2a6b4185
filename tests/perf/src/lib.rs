//! Measuring, shared by this package's benchmarks.

pub mod measure;
