//! Named points at which a test can make a call fail or kill the process, to prove that nothing is left behind.
//!
//! Compiled in under `cfg(test)` or the feature `faults`; otherwise [`point`] is empty.
//!
//! - Environment `HUTCH_FAULT=NAME[#N]:ACTION`: at the N-th pass of the point (default the first) `kill` the process
//!   with SIGKILL, `stop` it with SIGSTOP (it goes on after SIGCONT), return an `error`, or `exit` with
//!   status 70.
//! - Environment `HUTCH_FAULT_TRACE=FILE`: append the name of every point passed, one per line. A test matrix runs the
//!   scenario once with this and then once per line.
//! - `arm` does the same for the calling thread only, so that unit tests can run side by side.

#[cfg(any(test, feature = "faults"))]
pub use armed::{arm, backend_point, passed, point, point_of, Action, Armed, Injected};

/// The error of a fault point: cannot occur in this build.
#[cfg(not(any(test, feature = "faults")))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Injected {}

/// Does nothing in this build.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub fn point(_name: &'static str) -> Result<(), Injected> {
    Ok(())
}

/// Does nothing in this build.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub fn point_of(_scope: &'static str, _stage: &'static str) -> Result<(), Injected> {
    Ok(())
}

/// Does nothing in this build.
#[cfg(not(any(test, feature = "faults")))]
#[inline(always)]
pub fn backend_point(_component: &'static str, _operation: &'static str, _stage: &'static str) -> Result<(), Injected> {
    Ok(())
}

#[cfg(any(test, feature = "faults"))]
mod armed {
    use std::cell::RefCell;
    use std::fs::OpenOptions;
    use std::io::Write;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::OnceLock;

    /// The error that a test asked for.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("fault injected at {point}")]
    pub struct Injected {
        /// Name of the point.
        pub point: String,
    }

    /// The action at an armed point.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Action {
        /// SIGKILL to this process.
        Kill,
        /// SIGSTOP to this process; after SIGCONT it goes on as if nothing had happened.
        Stop,
        /// The point returns an error.
        Error,
        /// The process exits with status 70, without unwinding.
        Exit,
    }

    #[derive(Debug, Clone)]
    struct Plan {
        name: String,
        nth: usize,
        action: Action,
    }

    impl Plan {
        /// `NAME[#N]:ACTION`.
        fn parse(text: &str) -> Option<Plan> {
            let (point, action) = text.rsplit_once(':')?;
            let action = match action {
                "kill" => Action::Kill,
                "stop" => Action::Stop,
                "error" => Action::Error,
                "exit" => Action::Exit,
                _ => return None,
            };
            let (name, nth) = match point.rsplit_once('#') {
                Some((name, nth)) => (name, nth.parse().ok()?),
                None => (point, 1),
            };
            Some(Plan { name: name.to_owned(), nth, action })
        }

        fn perform(&self) -> Result<(), Injected> {
            let send = |signal| {
                let _ = nix::sys::signal::kill(nix::unistd::getpid(), signal);
            };
            match self.action {
                Action::Kill => {
                    send(nix::sys::signal::Signal::SIGKILL);
                    unreachable!("SIGKILL to oneself returned");
                }
                Action::Stop => {
                    // To this thread: sent to the process, the signal may go to another one, and this one would run on
                    // for a while.
                    let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
                    Ok(())
                }
                Action::Exit => std::process::exit(70),
                Action::Error => Err(Injected { point: self.name.clone() }),
            }
        }
    }

    /// Plan and count of passes for the whole process, from the environment.
    struct Process {
        plan: Option<Plan>,
        seen: AtomicUsize,
        trace: Option<String>,
    }

    fn process() -> &'static Process {
        static PROCESS: OnceLock<Process> = OnceLock::new();
        PROCESS.get_or_init(|| Process {
            plan: std::env::var("HUTCH_FAULT")
                .ok()
                .map(|text| Plan::parse(&text).unwrap_or_else(|| panic!("HUTCH_FAULT={text}: not NAME[#N]:ACTION"))),
            seen: AtomicUsize::new(0),
            trace: std::env::var("HUTCH_FAULT_TRACE").ok(),
        })
    }

    #[derive(Default)]
    struct Local {
        plan: Option<Plan>,
        seen: usize,
        record: bool,
        passed: Vec<String>,
    }

    thread_local! {
        static LOCAL: RefCell<Local> = RefCell::default();
    }

    /// Disarms on drop.
    #[derive(Debug)]
    pub struct Armed(());

    /// Arms the `nth` (from 1) pass of `name` on this thread; an empty name only records what is [`passed`].
    pub fn arm(name: &str, nth: usize, action: Action) -> Armed {
        LOCAL.with(|local| {
            let plan = (!name.is_empty()).then(|| Plan { name: name.to_owned(), nth, action });
            *local.borrow_mut() = Local { plan, seen: 0, record: true, passed: Vec::new() };
        });
        Armed(())
    }

    /// Points passed on this thread since [`arm`].
    pub fn passed() -> Vec<String> {
        LOCAL.with(|local| local.borrow().passed.clone())
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            LOCAL.with(|local| *local.borrow_mut() = Local::default());
        }
    }

    /// A place where a test may interfere, named `SCOPE:STAGE`.
    ///
    /// # Errors
    /// [`Injected`] if a test asked for it.
    pub fn point_of(scope: &'static str, stage: &'static str) -> Result<(), Injected> {
        point(&format!("{scope}:{stage}"))
    }

    /// A place before or after a call of a backend, named `COMPONENT.OPERATION:STAGE`.
    ///
    /// # Errors
    /// [`Injected`] if a test asked for it.
    pub fn backend_point(
        component: &'static str,
        operation: &'static str,
        stage: &'static str,
    ) -> Result<(), Injected> {
        point(&format!("{component}.{operation}:{stage}"))
    }

    /// A place where a test may interfere.
    ///
    /// # Errors
    /// [`Injected`] if a test asked for it.
    pub fn point(name: &str) -> Result<(), Injected> {
        let process = process();
        if let Some(path) = &process.trace {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
            written.unwrap_or_else(|e| panic!("HUTCH_FAULT_TRACE={path}: {e}"));
        }
        if let Some(plan) = process.plan.as_ref().filter(|plan| plan.name == name)
            && process.seen.fetch_add(1, Ordering::SeqCst) + 1 == plan.nth
        {
            return plan.perform();
        }
        let hit = LOCAL.with(|local| {
            let mut local = local.borrow_mut();
            if local.record {
                local.passed.push(name.to_owned());
            }
            let plan = local.plan.clone().filter(|plan| plan.name == name)?;
            local.seen += 1;
            (local.seen == plan.nth).then_some(plan)
        });
        hit.map_or(Ok(()), |plan| plan.perform())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_asked_for_pass_fails_and_no_other() {
            let _armed = arm("here", 2, Action::Error);
            assert!(point("here").is_ok());
            assert!(point("there").is_ok());
            assert_eq!(point("here"), Err(Injected { point: "here".into() }));
            assert!(point("here").is_ok());
            assert_eq!(passed(), ["here", "there", "here", "here"]);
        }

        #[test]
        fn plans_are_read_from_their_text() {
            let plan = Plan::parse("vm.start:before#3:kill").unwrap();
            assert_eq!((plan.name.as_str(), plan.nth, plan.action), ("vm.start:before", 3, Action::Kill));
            assert_eq!(Plan::parse("x:error").unwrap().nth, 1);
            assert!(Plan::parse("x").is_none());
            assert!(Plan::parse("x:melt").is_none());
        }
    }
}
