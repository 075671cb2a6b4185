//! The life of a machine as a table without locks, threads or devices. [`crate::machine`] holds one behind its lock
//! and changes it by [`MachineState::next`] only.
//!
//! ```text
//!            Start                Pause                  AllPaused
//!   Built ──────────▶ Running ──────────▶ Pausing ──────────────────▶ Paused
//!     │                 │  ▲                 │                          │  │
//!     │ Exit            │  └─────────────────┼────── Resume ────────────┘  │
//!     │                 │ Exit               │ Exit                        │ Exit
//!     └────────────▶ Ended ◀─────────────────┴─────────────────────────────┘
//!                      └─ Exit: stays; the first exit counts
//! ```

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MachineState {
    /// Complete; no vCPU has run.
    Built,
    /// vCPUs run.
    Running,
    /// vCPUs have been asked to pause, and some may still run.
    Pausing,
    /// No vCPU runs, no device works.
    Paused,
    /// Over. vCPUs leave at once and do not come back.
    Ended,
}

/// What changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The owner starts the machine.
    Start,
    /// The owner wants it paused.
    Pause,
    /// The last vCPU has left the guest.
    AllPaused,
    /// The owner wants it to go on.
    Resume,
    /// The guest has ended, or somebody stopped it.
    Exit,
}

/// An event that has no place in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a machine that is {} cannot {}", name(*.state), verb(*.event))]
pub struct Illegal {
    /// The state.
    pub state: MachineState,
    /// The event.
    pub event: Event,
}

impl MachineState {
    /// The state after `event`.
    ///
    /// # Errors
    /// The event has no place here; the state stays.
    pub fn next(self, event: Event) -> Result<Self, Illegal> {
        match (self, event) {
            (Self::Built, Event::Start) | (Self::Paused, Event::Resume) => Ok(Self::Running),
            (Self::Running, Event::Pause) => Ok(Self::Pausing),
            (Self::Pausing, Event::AllPaused) => Ok(Self::Paused),
            (_, Event::Exit) => Ok(Self::Ended),
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

fn verb(event: Event) -> &'static str {
    match event {
        Event::Start => "be started",
        Event::Pause => "be paused",
        Event::AllPaused => "have paused",
        Event::Resume => "be resumed",
        Event::Exit => "end",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            6 => prop_oneof![Just(Event::Start), Just(Event::Pause), Just(Event::AllPaused), Just(Event::Resume)],
            1 => Just(Event::Exit),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn whatever_comes_an_ended_machine_stays_ended_and_none_runs_before_its_start(events in events()) {
            let mut state = MachineState::Built;
            let (mut started, mut ended, mut resumable) = (false, false, false);
            for event in events {
                let before = state;
                match state.next(event) {
                    Ok(next) => state = next,
                    Err(illegal) => prop_assert_eq!(illegal, Illegal { state: before, event }),
                }
                started |= event == Event::Start;
                ended |= event == Event::Exit;
                prop_assert_eq!(state == MachineState::Ended, ended);
                prop_assert!(started || matches!(state, MachineState::Built | MachineState::Ended));
                // Paused is left by Resume or Exit only.
                resumable = if before == MachineState::Paused { event == Event::Resume } else { resumable };
                if before == MachineState::Paused && state == MachineState::Running {
                    prop_assert!(resumable);
                }
            }
        }
    }

    #[test]
    fn a_refusal_reads_like_a_sentence() {
        let refusal = MachineState::Built.next(Event::Pause).expect_err("not running");
        assert_eq!(refusal.to_string(), "a machine that is not started cannot be paused");
    }
}
