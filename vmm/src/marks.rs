//! Boot marks: events with their time on the host's CLOCK_MONOTONIC. The VMM marks its own steps; a guest marks by
//! writing a byte to I/O port 0xE9.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, OnceLock};

use crate::counters::{ExitCounts, VcpuCounters};
use crate::sync::lock;

/// A guest may write any number of bytes; hutch keeps no more marks than this.
const MAX_MARKS: usize = 1024;

/// An event and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Name of the event.
    pub name: String,
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub at_ns: u64,
    /// Exits to user space up to this mark; only for marks of the guest.
    pub exits: Option<ExitCounts>,
}

/// Names of the VMM's marks, in their usual order.
pub mod names {
    /// `Machine::build` was called.
    pub const BUILD: &str = "build";
    /// The KVM machine exists.
    pub const VM_CREATED: &str = "vm-created";
    /// Guest memory is mapped.
    pub const MEMORY_READY: &str = "memory-ready";
    /// Kernel, initrd and tables are in memory.
    pub const KERNEL_LOADED: &str = "kernel-loaded";
    /// Devices are on their buses.
    pub const DEVICES_READY: &str = "devices-ready";
    /// vCPUs and their threads exist.
    pub const VCPUS_READY: &str = "vcpus-ready";
    /// The vCPUs got the command to run.
    pub const START: &str = "start";
    /// The guest has plugged in all requested memory. Marked again after each further request.
    pub const MEMORY_PLUGGED: &str = "memory-plugged";
    /// The machine has ended.
    pub const END: &str = "end";
}

/// The marks of one machine. The collection only grows.
#[derive(Default)]
pub struct Marks {
    all: Mutex<Vec<Entry>>,
    vcpus: OnceLock<Vec<Arc<VcpuCounters>>>,
    ready: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

/// A [`Mark`] whose name is not yet a `String`.
#[derive(Debug)]
struct Entry {
    name: Cow<'static, str>,
    at_ns: u64,
    exits: Option<ExitCounts>,
}

impl Marks {
    /// Adds a mark with the current time.
    pub fn add(&self, name: impl Into<Cow<'static, str>>) {
        self.push(Entry { at_ns: now_ns(), name: name.into(), exits: None });
    }

    /// Gives later marks of the guest the sum of these counters.
    pub fn watch(&self, vcpus: Vec<Arc<VcpuCounters>>) {
        // Called once per machine.
        let _ = self.vcpus.set(vcpus);
    }

    /// Calls `job` when the guest first marks that it is ready (`A`), on that vCPU's thread.
    pub fn on_ready(&self, job: Box<dyn FnOnce() + Send>) {
        *lock(&self.ready) = Some(job);
    }

    fn push(&self, entry: Entry) {
        let mut all = lock(&self.all);
        if all.len() < MAX_MARKS {
            all.push(entry);
        }
    }

    /// Adds the mark for a byte that the guest wrote to the mark port.
    pub fn add_guest(&self, byte: u8) {
        let at_ns = now_ns();
        let name = match byte {
            b'I' => "guest:init".into(),
            b'A' => "guest:agent-ready".into(),
            b'C' => "guest:command".into(),
            b'X' => "guest:shutting-down".into(),
            other => format!("guest:{other:#04x}").into(),
        };
        let exits = self.vcpus.get().map(|vcpus| ExitCounts::sum(vcpus.iter().map(Arc::as_ref)));
        self.push(Entry { name, at_ns, exits });
        if byte == b'A' {
            let job = lock(&self.ready).take();
            if let Some(job) = job {
                job();
            }
        }
    }

    /// All marks so far, in order of time.
    pub fn all(&self) -> Vec<Mark> {
        let entries = lock(&self.all);
        let mark = |e: &Entry| Mark { name: e.name.to_string(), at_ns: e.at_ns, exits: e.exits };
        let mut all: Vec<Mark> = entries.iter().map(mark).collect();
        all.sort_by_key(|mark| mark.at_ns);
        all
    }
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of all marks.
pub fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_kept_in_order_of_time_with_names_for_the_agents_bytes() {
        let marks = Marks::default();
        marks.add(names::BUILD);
        for byte in *b"IAC\x01" {
            marks.add_guest(byte);
        }
        let all = marks.all();
        let names: Vec<&str> = all.iter().map(|mark| mark.name.as_str()).collect();
        assert_eq!(names, ["build", "guest:init", "guest:agent-ready", "guest:command", "guest:0x01"]);
        assert!(all.windows(2).all(|pair| pair[0].at_ns <= pair[1].at_ns));
    }

    #[test]
    fn a_guest_cannot_fill_the_hosts_memory_with_marks() {
        let marks = Marks::default();
        (0..5000).for_each(|_| marks.add_guest(b'I'));
        assert_eq!(marks.all().len(), MAX_MARKS);
    }
}
