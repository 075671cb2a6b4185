//! `hutch completions`.

use std::io::{self, Write};

use clap_complete::aot;

use crate::args::completions::{CompletionsArgs, Shell};
use crate::args::definition;
use crate::failure::Failure;

/// Prints the completion script for a shell.
pub fn run(args: &CompletionsArgs) -> Result<u8, Failure> {
    io::stdout().write_all(&script(args.shell))?;
    Ok(0)
}

fn script(shell: Shell) -> Vec<u8> {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    // Into memory first: the generator panics if its output cannot be written.
    let mut script = Vec::new();
    aot::generate(shell, &mut definition(), "hutch", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_completes_verbs_and_options() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(script(shell)).unwrap();
            for verb in definition().get_subcommands() {
                assert!(text.contains(verb.get_name()), "{shell:?} lacks {}", verb.get_name());
            }
            for word in ["exec", "rootfs-overlay", "block-slots", "log-level"] {
                assert!(text.contains(word), "{shell:?} lacks {word}");
            }
            assert!(!text.contains("__man") && !text.contains("__vmm"), "{shell:?} completes a hidden verb");
        }
    }
}
