//! How a hook fails.

use std::io;
use std::time::Duration;

/// How a hook failed (P-162).
#[derive(Debug, thiserror::Error)]
#[error("{cause}{}", output(.stdout, .stderr))]
pub struct HookFailure {
    /// What went wrong.
    pub cause: HookCause,
    /// What it printed.
    pub stdout: String,
    /// What it printed to stderr.
    pub stderr: String,
}

/// What went wrong with a hook.
#[derive(Debug, thiserror::Error)]
pub enum HookCause {
    /// It could not be started.
    #[error("could not be started: {0}")]
    Launch(io::Error),
    /// It could not be watched.
    #[error("could not be watched: {0}")]
    Watch(io::Error),
    /// It ended with another status than 0.
    #[error("ended with {0}")]
    Status(std::process::ExitStatus),
    /// It took too long and was killed with its process group (P-163).
    #[error("was killed after {} s", .0.as_secs_f32())]
    Timeout(Duration),
}

fn output(stdout: &str, stderr: &str) -> String {
    let mut text = String::new();
    for (name, output) in [("stdout", stdout), ("stderr", stderr)] {
        let output = output.trim();
        if !output.is_empty() {
            text.push_str(&format!("; {name}: {output}"));
        }
    }
    text
}
