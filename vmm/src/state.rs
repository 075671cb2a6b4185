//! The life of a machine as a table without locks, threads or devices. The `StateDriver` in `driver.rs` holds the state
//! behind its lock and changes it only by [`MachineState::next`].
//!
//! ```text
//!            Start                Pause                  AllPaused
//!   Built ──────────▶ Running ──────────▶ Pausing ──────────────────▶ Paused
//!     │                 │  ▲ ▲                │ │                       │  │
//!     │                 │  │ └─ PauseFailed ──┘ │                       │  │
//!     │ Exit            │  └────────────────────┼───── Resume ──────────┘  │
//!     │                 │ Exit                  │ Exit                     │ Exit
//!     └────────────▶ Ended ◀────────────────────┴──────────────────────────┘
//!                      └─ Exit: stays; the first exit counts
//! ```

/// A state of the machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineState {
    /// Complete; no vCPU has run yet.
    Built,
    /// vCPUs run.
    Running,
    /// vCPUs have been asked to pause, and some may still run.
    Pausing,
    /// No vCPU runs, and no device works.
    Paused,
    /// Over. vCPUs leave the guest at once and never enter it again.
    Ended,
}

/// An event that changes the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineEvent {
    /// The owner starts the machine.
    Start,
    /// The owner pauses the machine.
    Pause,
    /// The last vCPU has left the guest.
    AllPaused,
    /// A vCPU has not left the guest in time: all of them go on.
    PauseFailed,
    /// The owner resumes the machine.
    Resume,
    /// The guest has ended, or was stopped.
    Exit,
}

/// An event that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a machine that is {} cannot {}", name(*.state), verb(*.event))]
pub struct Illegal {
    /// State of the machine; it stays.
    pub state: MachineState,
    /// Event that was refused.
    pub event: MachineEvent,
}

impl MachineState {
    /// The state after `event`.
    pub fn next(self, event: MachineEvent) -> Result<Self, Illegal> {
        match (self, event) {
            (Self::Built, MachineEvent::Start)
            | (Self::Paused, MachineEvent::Resume)
            | (Self::Pausing, MachineEvent::PauseFailed) => Ok(Self::Running),
            (Self::Running, MachineEvent::Pause) => Ok(Self::Pausing),
            (Self::Pausing, MachineEvent::AllPaused) => Ok(Self::Paused),
            (_, MachineEvent::Exit) => Ok(Self::Ended),
            (state, event) => Err(Illegal { state, event }),
        }
    }
}

fn name(state: MachineState) -> &'static str {
    match state {
        MachineState::Built => "not started",
        MachineState::Running => "running",
        MachineState::Pausing => "about to pause",
        MachineState::Paused => "paused",
        MachineState::Ended => "over",
    }
}

fn verb(event: MachineEvent) -> &'static str {
    match event {
        MachineEvent::Start => "be started",
        MachineEvent::Pause => "be paused",
        MachineEvent::AllPaused => "have paused",
        MachineEvent::PauseFailed => "give up a pause",
        MachineEvent::Resume => "be resumed",
        MachineEvent::Exit => "end",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<MachineEvent>> {
        let event = prop_oneof![
            6 => prop_oneof![Just(MachineEvent::Start), Just(MachineEvent::Pause), Just(MachineEvent::AllPaused), Just(MachineEvent::PauseFailed), Just(MachineEvent::Resume)],
            1 => Just(MachineEvent::Exit),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn an_ended_machine_stays_ended_and_none_runs_before_its_start(events in events()) {
            let mut state = MachineState::Built;
            let (mut started, mut ended, mut resumable) = (false, false, false);
            for event in events {
                let before = state;
                match state.next(event) {
                    Ok(next) => state = next,
                    Err(illegal) => prop_assert_eq!(illegal, Illegal { state: before, event }),
                }
                started |= event == MachineEvent::Start;
                ended |= event == MachineEvent::Exit;
                prop_assert_eq!(state == MachineState::Ended, ended);
                prop_assert!(started || matches!(state, MachineState::Built | MachineState::Ended));
                // No pause is a dead end, and only a pause that has failed goes back.
                if state == MachineState::Pausing {
                    prop_assert_eq!(state.next(MachineEvent::PauseFailed), Ok(MachineState::Running));
                }
                if before == MachineState::Pausing && state == MachineState::Running {
                    prop_assert_eq!(event, MachineEvent::PauseFailed);
                }
                // Only Resume or Exit leave Paused.
                resumable = if before == MachineState::Paused { event == MachineEvent::Resume } else { resumable };
                if before == MachineState::Paused && state == MachineState::Running {
                    prop_assert!(resumable);
                }
            }
        }
    }

    #[test]
    fn a_refusal_reads_like_a_sentence() {
        let refusal = MachineState::Built.next(MachineEvent::Pause).expect_err("not running");
        assert_eq!(refusal.to_string(), "a machine that is not started cannot be paused");
    }
}
