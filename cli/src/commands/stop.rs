//! The options of `hutch pod stop` and `hutch container stop`. The policy is in `runtime/src/pod/stop_policy.rs`.

use hutch_runtime::{StopOptions, STOP_SIGNAL};

use crate::args::pod::StopFlags;
use crate::failure::Failure;

/// The runtime's options for a stop, from the command line: [`STOP_SIGNAL`] first unless the flags say otherwise.
///
/// # Errors
/// `--signal` does not name a signal.
pub(super) fn stop_options(flags: &StopFlags) -> Result<StopOptions, Failure> {
    let signal = match flags.signal.as_deref() {
        _ if flags.force => None,
        Some("none") => None,
        Some(signal) => Some(hutch_runtime::spec::parse_signal(signal)?),
        None => Some(STOP_SIGNAL),
    };
    Ok(StopOptions { force: flags.force, signal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_term_unless_the_flags_say_otherwise() {
        let signal = |signal: Option<&str>, force| {
            let flags = StopFlags { force, signal: signal.map(str::to_owned), timeout: None };
            stop_options(&flags).map(|options| options.signal)
        };
        assert_eq!(signal(None, false).unwrap(), Some(libc::SIGTERM));
        assert_eq!(signal(Some("INT"), false).unwrap(), Some(libc::SIGINT));
        assert_eq!(signal(Some("none"), false).unwrap(), None);
        assert_eq!(signal(None, true).unwrap(), None);
        assert!(signal(Some("nonsense"), false).is_err());
    }
}
