//! A reader of standard output that stops reading. A program of its own, because it replaces its standard output.

mod guests;

use std::io::Read;
use std::time::{Duration, Instant};

use guests::{Bench, TEST_TIMEOUT};
use hutch_vmm::config::ConsoleOutput;
use hutch_vmm::{Machine, MachineExit};
use nix::unistd::{dup, dup2_stdout, pipe};

/// More than pipe and queue hold.
const ENOUGH: u64 = 200 << 10;

/// A started machine that writes to a pipe, and the pipe's other end.
fn babbling() -> (Machine, std::fs::File) {
    let mut bench = Bench::new(guests::babble());
    bench.config.console.output = ConsoleOutput::Stdout;
    bench.config.timeouts.console = Duration::from_millis(10);
    let (reader, writer) = pipe().expect("a pipe");
    let own = dup(std::io::stdout()).expect("a descriptor");
    dup2_stdout(&writer).expect("a descriptor");
    let machine = Machine::build(&bench.config);
    dup2_stdout(&own).expect("a descriptor");
    let mut machine = machine.expect("bare-metal guests need /dev/kvm");
    machine.start().expect("new");
    (machine, reader.into())
}

#[test]
fn a_reader_that_stops_reading_stops_neither_the_guest_nor_its_owner() {
    let (mut machine, mut reader) = babbling();
    let deadline = Instant::now() + TEST_TIMEOUT;
    while machine.counters().exits.pio_out < ENOUGH {
        assert_eq!(machine.wait(Some(Duration::from_millis(1))), None);
        assert!(Instant::now() < deadline, "the guest waits for the reader");
    }
    machine.pause().expect("it runs");
    machine.resume().expect("it is paused");
    machine.stopper().stop();
    assert_eq!(machine.wait(Some(TEST_TIMEOUT)), Some(MachineExit::Stopped));
    // The stop closes the line that the guest is writing; the guest may write a little more before its vCPU has stopped.
    let tail = machine.console_tail(3);
    assert!(tail.contains(&"x".repeat(63)), "{tail:?}");
    machine.shutdown().expect("everything leaves");
    let mut some = vec![0; 6400];
    reader.read_exact(&mut some).expect("the beginning is there");
    assert!(some.chunks(64).all(|line| line.ends_with(b"x\n")));
}
