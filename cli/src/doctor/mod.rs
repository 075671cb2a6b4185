//! `hutch doctor`: whether `hutch run` would work on this host, and how to fix it if not. [`checks`] decides, [`host`]
//! reads the facts.

mod checks;
mod host;
mod report;
#[cfg(test)]
mod tests;

pub use checks::examine;
pub use host::ThisHost;
pub use report::Report;
