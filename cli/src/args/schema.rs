//! `hutch schema`.

/// Arguments of `hutch schema`.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// Which configuration [default: both, as an object]
    #[arg(value_enum)]
    pub of: Option<Configuration>,
}

/// A configuration that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Configuration {
    /// Of `hutch pod create`.
    Pod,
    /// Of `hutch container create`.
    Container,
}
