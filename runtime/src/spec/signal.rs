//! Signals by name or number (P-199).

use nix::sys::signal::Signal;

use crate::error::{Error, Result};

/// Lowest real-time signal as programs see it; glibc keeps two for itself.
const RT_MIN: i32 = 34;
/// Highest signal number on x86-64.
const RT_MAX: i32 = 64;

/// A signal number from `TERM`, `SIGTERM` (any case), `RTMIN+3` or `15`; an empty text is SIGTERM.
///
/// # Errors
/// [`Error::InvalidConfig`] for anything else.
pub fn parse_signal(text: &str) -> Result<i32> {
    if text.is_empty() {
        return Ok(libc::SIGTERM);
    }
    let unknown = || Error::invalid(format!("signal {text:?}"), "is unknown; give a name such as TERM, or a number");
    if let Ok(number) = text.parse::<i32>() {
        let known = (1..=31).contains(&number) || (RT_MIN..=RT_MAX).contains(&number);
        return if known { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(name) {
        return Ok(number);
    }
    let name = match name {
        "CLD" => "CHLD",
        "POLL" => "IO",
        name => name,
    };
    format!("SIG{name}").parse::<Signal>().map(|signal| signal as i32).map_err(|_| unknown())
}

fn real_time(name: &str) -> Option<i32> {
    let (base, sign, rest) = if let Some(rest) = name.strip_prefix("RTMIN") {
        (RT_MIN, '+', rest)
    } else {
        (RT_MAX, '-', name.strip_prefix("RTMAX")?)
    };
    if rest.is_empty() {
        return Some(base);
    }
    let offset: i32 = rest.strip_prefix(sign)?.parse().ok().filter(|n| (0..=30).contains(n))?;
    Some(if sign == '+' { base + offset } else { base - offset })
}
