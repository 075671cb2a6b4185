//! Scripts for the interpreter: single operations, checks of what the guest sees, and the cases that they belong to.

use std::panic::Location;

use super::driver::Device;
use super::interpreter::{op, FAULT};

/// First address of the memory that cases may use, and the end of the guest's memory.
pub const ARENA: u64 = 4 << 20;
/// End of the guest's memory.
pub const RAM_END: u64 = 8 << 20;
/// Start of the pluggable region, of which nothing is plugged in.
pub const PLUGGABLE: u64 = 4 << 30;
/// An address with neither memory nor a device.
pub const HOLE: u64 = 0x8000_0000;

/// One attack.
#[derive(Debug)]
pub struct Case {
    /// The name, which is the sentence that the case proves, or the attack.
    pub name: &'static str,
    /// The flaw of a peer, or the section of VIRTIO 1.2 that the driver violates.
    pub source: &'static str,
}

/// A comparison that the guest makes.
struct Check {
    case: usize,
    place: &'static Location<'static>,
    mask: u64,
    value: u64,
}

/// A script that is being composed.
#[derive(Default)]
pub struct Script {
    bytes: Vec<u8>,
    checks: Vec<Check>,
    cases: Vec<Case>,
    next: u64,
    net: bool,
}

impl Script {
    /// An empty script for a machine with or without a network device.
    pub fn new(net: bool) -> Self {
        Self { net, ..Self::default() }
    }

    /// Address of a device's window.
    pub fn base(&self, device: Device) -> u64 {
        device.base(self.net)
    }

    /// The script's bytes and its cases, when all operations have been added.
    pub fn finish(&self) -> Vec<u8> {
        [&self.bytes[..], &[op::END]].concat()
    }

    /// The cases in the order in which they run.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// Begins a case. The guest prints its number, so that the last one printed is the one that hangs.
    pub fn case(&mut self, name: &'static str, source: &'static str) {
        self.next = ARENA;
        self.print(format!("case {}\n", self.cases.len()).as_bytes());
        self.cases.push(Case { name, source });
    }

    /// The failed checks in the guest's output, each as a sentence.
    pub fn failures(&self, console: &str) -> Vec<String> {
        let failed = console.lines().filter_map(|line| line.strip_prefix('!')).filter_map(|line| line.split_once('='));
        failed
            .map(|(tag, seen)| {
                let check = usize::from_str_radix(tag, 16).ok().and_then(|tag| self.checks.get(tag));
                let Some(check) = check else { return format!("unknown check {tag}: {seen}") };
                let (case, place) = (&self.cases[check.case], check.place);
                format!(
                    "{}: {}:{}: expected {:#x} in {:#x}, the guest saw {seen}",
                    case.name,
                    place.file(),
                    place.line(),
                    check.value,
                    check.mask
                )
            })
            .collect()
    }

    /// The last case that the guest began.
    pub fn last_case(&self, console: &str) -> Option<&Case> {
        let number = console.lines().filter_map(|line| line.strip_prefix("case ")).next_back()?;
        self.cases.get(number.trim().parse::<usize>().ok()?)
    }

    /// Lets [`Self::alloc`] begin at `address` for the rest of the case.
    pub fn place(&mut self, address: u64) {
        self.next = address;
    }

    /// Memory for a case, aligned to `align`, a power of two. The next case uses it again.
    pub fn alloc(&mut self, len: u64, align: u64) -> u64 {
        let address = self.next.next_multiple_of(align);
        self.next = address + len;
        assert!(self.next <= RAM_END, "a case uses too much memory");
        address
    }

    /// Memory with `data`.
    pub fn put(&mut self, data: &[u8]) -> u64 {
        let address = self.alloc(data.len() as u64, 16);
        self.copy(address, data);
        address
    }

    fn push(&mut self, op: u8, operands: &[&[u8]]) {
        self.bytes.push(op);
        operands.iter().for_each(|operand| self.bytes.extend_from_slice(operand));
    }

    /// Stores `size` bytes.
    pub fn store(&mut self, size: u8, address: u64, value: u64) {
        self.push(op::STORE, &[&[size], &address.to_le_bytes(), &value.to_le_bytes()]);
    }

    /// Loads `size` bytes into the register.
    pub fn load(&mut self, size: u8, address: u64) {
        self.push(op::LOAD, &[&[size], &address.to_le_bytes()]);
    }

    /// Adds to `size` bytes of memory.
    pub fn add(&mut self, size: u8, address: u64, value: u64) {
        self.push(op::ADD, &[&[size], &address.to_le_bytes(), &value.to_le_bytes()]);
    }

    /// Loads until the masked value is `value`.
    pub fn wait(&mut self, size: u8, address: u64, mask: u64, value: u64) {
        self.push(op::WAIT, &[&[size], &address.to_le_bytes(), &mask.to_le_bytes(), &value.to_le_bytes()]);
    }

    /// Loads until the 16-bit values at both addresses are equal.
    pub fn wait_same(&mut self, first: u64, second: u64) {
        self.push(op::WAIT_SAME, &[&first.to_le_bytes(), &second.to_le_bytes()]);
    }

    /// Checks that the masked register is `value`.
    #[track_caller]
    pub fn check(&mut self, mask: u64, value: u64) {
        let tag = u16::try_from(self.checks.len()).expect("fewer checks");
        self.push(op::CHECK, &[&tag.to_le_bytes(), &mask.to_le_bytes(), &value.to_le_bytes()]);
        let case = self.cases.len().checked_sub(1).expect("a case before its checks");
        self.checks.push(Check { case, place: Location::caller(), mask, value });
    }

    /// Checks that `size` bytes at `address` are `value`.
    #[track_caller]
    pub fn expect(&mut self, size: u8, address: u64, value: u64) {
        self.load(size, address);
        self.check(u64::MAX, value);
    }

    /// Writes `data` to memory.
    pub fn copy(&mut self, address: u64, data: &[u8]) {
        self.push(op::COPY, &[&address.to_le_bytes(), &(data.len() as u32).to_le_bytes(), data]);
    }

    /// Fills memory.
    pub fn fill(&mut self, address: u64, len: u32, value: u8) {
        self.push(op::FILL, &[&address.to_le_bytes(), &len.to_le_bytes(), &[value]]);
    }

    /// Writes to an I/O port.
    pub fn port_out(&mut self, size: u8, port: u16, value: u32) {
        self.push(op::OUT, &[&[size], &port.to_le_bytes(), &value.to_le_bytes()]);
    }

    /// Reads an I/O port into the register.
    pub fn port_in(&mut self, size: u8, port: u16) {
        self.push(op::IN, &[&[size], &port.to_le_bytes()]);
    }

    /// Prints to the console.
    pub fn print(&mut self, data: &[u8]) {
        self.push(op::PRINT, &[&(data.len() as u32).to_le_bytes(), data]);
    }

    /// Executes the operations that `body` adds `count` times, which is not 0.
    pub fn repeat(&mut self, count: u32, body: impl FnOnce(&mut Self)) {
        self.push(op::REPEAT, &[&count.to_le_bytes()]);
        body(self);
        self.push(op::AGAIN, &[]);
    }

    /// Reads a model-specific register.
    pub fn rdmsr(&mut self, index: u32) {
        self.push(op::RDMSR, &[&index.to_le_bytes()]);
    }

    /// Writes a model-specific register.
    pub fn wrmsr(&mut self, index: u32, value: u64) {
        self.push(op::WRMSR, &[&index.to_le_bytes(), &value.to_le_bytes()]);
    }

    /// Executes CPUID; EAX goes into the register.
    pub fn cpuid(&mut self, leaf: u32, subleaf: u32) {
        self.push(op::CPUID, &[&leaf.to_le_bytes(), &subleaf.to_le_bytes()]);
    }

    /// Calls machine code, which returns by itself.
    pub fn call(&mut self, code: &[u8]) {
        self.push(op::CALL, &[&(code.len() as u32).to_le_bytes(), code]);
    }

    /// Clears the flag that an exception sets.
    pub fn forget_faults(&mut self) {
        self.store(4, FAULT, 0);
    }

    /// Checks that there was an exception since [`Self::forget_faults`].
    #[track_caller]
    pub fn expect_fault(&mut self) {
        self.expect(4, FAULT, 1);
    }
}
