//! Resource limits by name, checked before a process starts.

use hutch_agent_proto::Rlimit;
use nix::sys::resource::{getrlimit, setrlimit, Resource};

use crate::failure::{invalid, Outcome};

/// Descriptors that the agent may have: two connections, a pipe and some more for each of many processes.
const AGENT_FILES: u64 = 65536;
/// Descriptors that a process may have unless the host sets another limit. `select(2)` cannot handle more than the soft
/// limit.
const PROCESS_FILES: (u64, u64) = (1024, 524_288);

/// A limit ready to be set: the kernel's number and value.
pub type ReadyLimit = (libc::__rlimit_resource_t, libc::rlimit);

/// Raises the agent's own limits; returns the limits for processes.
pub fn raise_own() -> Vec<ReadyLimit> {
    match setrlimit(Resource::RLIMIT_NOFILE, AGENT_FILES, PROCESS_FILES.1) {
        Ok(()) => {
            let (soft, hard) = PROCESS_FILES;
            vec![(libc::RLIMIT_NOFILE, libc::rlimit { rlim_cur: soft, rlim_max: hard })]
        }
        Err(_) => inherited(),
    }
}

/// The limits of this process, for processes that it starts.
pub fn inherited() -> Vec<ReadyLimit> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => vec![(libc::RLIMIT_NOFILE, libc::rlimit { rlim_cur: soft, rlim_max: hard })],
        Err(_) => Vec::new(),
    }
}

/// The limits `asked` for, and `defaults` for the others.
///
/// # Errors
/// `Invalid` for an unknown name, a repeated one, or a soft limit above the hard one.
pub fn prepare(asked: &[Rlimit], defaults: &[ReadyLimit]) -> Outcome<Vec<ReadyLimit>> {
    let mut limits: Vec<ReadyLimit> = Vec::with_capacity(asked.len() + defaults.len());
    for Rlimit { kind, soft, hard } in asked {
        let number = number(kind).ok_or_else(|| invalid(format!("resource limit {kind:?} is unknown")))?;
        if soft > hard {
            return Err(invalid(format!("resource limit {kind}: soft {soft} is above hard {hard}")));
        }
        if limits.iter().any(|(other, _)| *other == number) {
            return Err(invalid(format!("resource limit {kind} is given twice")));
        }
        limits.push((number, libc::rlimit { rlim_cur: *soft, rlim_max: *hard }));
    }
    for default in defaults {
        if !limits.iter().any(|(number, _)| *number == default.0) {
            limits.push(*default);
        }
    }
    Ok(limits)
}

fn number(name: &str) -> Option<libc::__rlimit_resource_t> {
    Some(match name {
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: &str, soft: u64, hard: u64) -> Rlimit {
        Rlimit { kind: kind.into(), soft, hard }
    }

    #[test]
    fn asked_limits_replace_defaults() {
        let defaults = [(libc::RLIMIT_NOFILE, libc::rlimit { rlim_cur: 1, rlim_max: 2 })];
        let limits = prepare(&[limit("RLIMIT_NOFILE", 5, 6), limit("RLIMIT_CORE", 0, 0)], &defaults).unwrap();
        let plain: Vec<_> = limits.iter().map(|(n, l)| (*n, l.rlim_cur, l.rlim_max)).collect();
        assert_eq!(plain, [(libc::RLIMIT_NOFILE, 5, 6), (libc::RLIMIT_CORE, 0, 0)]);
        assert_eq!(prepare(&[], &defaults).unwrap().len(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            vec![limit("RLIMIT_X", 0, 0)],
            vec![limit("NOFILE", 0, 0)],
            vec![limit("RLIMIT_CORE", 2, 1)],
            vec![limit("RLIMIT_CORE", 0, 0), limit("RLIMIT_CORE", 0, 0)],
        ] {
            assert!(prepare(&bad, &[]).is_err(), "{bad:?}");
        }
    }
}
