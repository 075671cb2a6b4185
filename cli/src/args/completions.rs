//! `hutch completions`.

/// Arguments of `hutch completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell that will read the script
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Shells for which hutch can write a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}
