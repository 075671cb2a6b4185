//! Errors of `hutch bench boot` and `hutch bench density`.

use std::path::PathBuf;

/// Mistakes in the arguments, and files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0:?} is not a size of memory; give for example 128M or 2G")]
    Size(String),
    #[error(
        "--sweep {0:?} is not a valid sweep; give mem=128M..8G, mem=64M,256M, cpus=1,2,4, kernel=distro,source, \
         devices=none,net,block,fs,console,net+fs or rootfs=dir,read-only,overlay,PATH"
    )]
    Sweep(String),
    /// The sweep varies a setting of `hutch run`, which is not measured without `--rootfs`.
    #[error("--sweep {0}=… varies a setting of `hutch run`: give its root directory with --rootfs DIR")]
    SweepOfRun(String),
    #[error("nothing to measure: --no-boot needs --rootfs or --peer")]
    Nothing,
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
}
