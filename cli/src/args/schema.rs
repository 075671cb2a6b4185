//! `hutch schema`.

/// Arguments of `hutch schema`.
#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// Configuration to describe [default: both, as one object]
    #[arg(value_enum)]
    pub of: Option<Configuration>,
}

/// A configuration that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Configuration {
    /// The CONFIG of `hutch pod create`
    Pod,
    /// The CONFIG of `hutch container create`
    Container,
}
