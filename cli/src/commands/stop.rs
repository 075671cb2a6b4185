//! The first signal of `hutch pod stop` and `hutch container stop`: SIGTERM unless `--signal` names another. The time
//! until SIGKILL is `Options::stop_timeout` of the runtime (10 s); `resolve::pod::options` sets it from `--timeout`.
//! `runtime/src/pod/stop.rs` executes both.

use hutch_runtime::StopOptions;

use crate::args::pod::StopFlags;
use crate::failure::Failure;

/// The runtime's options for a stop, from the command line: SIGTERM first unless the flags say otherwise.
///
/// # Errors
/// `--signal` does not name a signal.
pub(super) fn stop_options(flags: &StopFlags) -> Result<StopOptions, Failure> {
    let signal = match flags.signal.as_deref() {
        _ if flags.force => None,
        Some("none") => None,
        signal => Some(hutch_runtime::spec::parse_signal(signal.unwrap_or("TERM"))?),
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
