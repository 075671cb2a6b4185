//! Attacks that need no device: ports, model-specific registers, interrupt controllers, hypercalls.

use super::driver::Device;
use super::interpreter::FAULT;
use super::probes::probe;
use super::script::{Script, ARENA, HOLE, PLUGGABLE, RAM_END};

/// Adds the cases.
pub fn add(s: &mut Script) {
    ports(s);
    power(s);
    registers(s);
    controllers(s);
}

/// Puts the serial port back into the state in which it prints.
fn repair_console(s: &mut Script) {
    s.port_out(1, 0x3fb, 3);
    s.port_out(1, 0x3fc, 3);
    s.port_out(1, 0x3f9, 0);
    s.print(b"\n");
}

/// Code that executes `instruction` with port DX for `count` ports from `first` on, each `step` further, AL being `value`.
fn at_ports(instruction: u8, value: u8, [first, step, count]: [u32; 3]) -> Vec<u8> {
    // push rdx; push rcx; mov edx, first; mov ecx, count; the loop; pop rcx; pop rdx; ret
    let (first, step, count) = (first.to_le_bytes(), step.to_le_bytes(), count.to_le_bytes());
    // mov al, value; instruction; add edx, step; dec ecx; jnz back to the mov
    let body = [&[0xb0, value, instruction, 0x81, 0xc2][..], &step, &[0xff, 0xc9, 0x75, 0xf3]].concat();
    [&[0x52, 0x51, 0xba][..], &first, &[0xb9], &count, &body, &[0x59, 0x5a, 0xc3]].concat()
}

/// All ports up to the last one with a device and far past it.
const NEAR: [u32; 3] = [0, 1, 0x1000];
/// A sample of all others, up to the last port.
const FAR: [u32; 3] = [0x1000, 0x3d, 1008];

fn ports(s: &mut Script) {
    s.case("ports are read", "Firecracker, Cloud Hypervisor: reads without a device");
    s.call(&at_ports(0xec, 0, NEAR));
    s.call(&at_ports(0xec, 0, FAR));
    s.port_in(1, 0xffff);
    s.port_in(1, 0x80);
    s.check(0xff, 0xff);
    s.case("ports are written, with zeroes and with ones", "vmm-reference (panic at an unknown port)");
    for value in [0, 0xff] {
        s.call(&at_ports(0xee, value, NEAR));
        s.call(&at_ports(0xee, value, FAR));
    }
    repair_console(s);
    probe(s, Device::Rng);
    s.case("ports of devices in other widths, and across their ends", "Firecracker #809");
    for port in (0x3f5..0x401).chain(0x5d..0x66).chain(0xe6..0xeb).chain(0x5fc..0x604) {
        for size in [2, 4] {
            s.port_in(size, port);
            s.port_out(size, port, 0);
        }
    }
    repair_console(s);
    s.case("string instructions on ports, with many items", "QEMU and KVM: `rep ins` in one exit");
    // push rsi; push rdi; mov edi/esi, address; mov ecx, count; mov edx, port; rep instruction; pop rdi; pop rsi; ret
    let code = |register: u8, address: u64, count: u32, port: u32, instruction: u8| {
        let (address, count, port) = ((address as u32).to_le_bytes(), count.to_le_bytes(), port.to_le_bytes());
        [&[0x56, 0x57, register][..], &address, &[0xb9], &count, &[0xba], &port, &[0xf3, instruction, 0x5f, 0x5e, 0xc3]]
            .concat()
    };
    for port in [0x80, 0x3f8, 0x60, 0xe9, 0x600] {
        s.call(&code(0xbf, ARENA, 5000, port, 0x6c));
        s.call(&code(0xbf, ARENA, 2500, port, 0x6d));
    }
    s.fill(ARENA, 0x8000, 0);
    for port in [0x80, 0xe9, 0x600, 0x64, 0x3f9] {
        s.call(&code(0xbe, ARENA, 300, port, 0x6e));
        s.call(&code(0xbe, ARENA, 150, port, 0x6f));
    }
    repair_console(s);
    s.case("a flood of boot marks", "memory without bound on the host");
    s.fill(ARENA, 0x8000, b'x');
    s.call(&code(0xbe, ARENA, 3000, 0xe9, 0x6e));
    probe(s, Device::Rng);
}

fn power(s: &mut Script) {
    s.case("values of the power and reset ports that mean nothing", "ACPI 6.4, 4.8.3");
    for value in (0..=0xff).filter(|value| value & 0x3c != 0x34) {
        s.port_out(1, 0x600, value);
    }
    for value in (0..=0xff).filter(|value| *value != 1) {
        s.port_out(1, 0x601, value);
    }
    for value in (0..=0xff).filter(|value| *value != 0xfe) {
        s.port_out(1, 0x64, value);
        s.port_out(1, 0x60, 0xfe);
    }
    probe(s, Device::Rng);
}

fn registers(s: &mut Script) {
    s.case("model-specific registers that do not exist", "KVM; Firecracker #5494");
    for index in [0xffff_ffff, 0x1234_5678, 0x4fff_ffff, 0xc001_ffff, 0x0000_5000] {
        s.forget_faults();
        s.rdmsr(index);
        s.wrmsr(index, u64::MAX);
        s.expect_fault();
    }
    s.case("model-specific registers with wrong values", "KVM; Firecracker #5494, #6120");
    for index in [0x1b, 0x3a, 0x9e, 0xfe, 0x174, 0x175, 0x200, 0x201, 0x277, 0x2ff, 0x38f, 0x480, 0x6e0, 0xc000_0080]
        .into_iter()
        .chain([0xc000_0081, 0xc000_0100, 0xc000_0102, 0xc001_0114, 0xc001_0117, 0x4000_0000, 0x4000_0001, 0x1d9])
    {
        s.rdmsr(index);
        s.wrmsr(index, u64::MAX);
        s.wrmsr(index, 1 << 63);
    }
    s.case("shared pages of KVM in devices, holes and memory that is not plugged in", "KVM paravirtual clock");
    for index in [0x11, 0x12].into_iter().chain(0x4b56_4d00..=0x4b56_4d08) {
        for address in [RAM_END, 0xd000_0000, 0xfee0_0000, HOLE, PLUGGABLE, PLUGGABLE + 0x1000, u64::MAX << 6] {
            s.wrmsr(index, address | 1);
            s.wrmsr(index, address | 5);
        }
        s.wrmsr(index, 0);
    }
    probe(s, Device::Rng);
    s.case("all leaves of CPUID", "Firecracker #5738");
    for leaf in (0..0x24).chain(0x4000_0000..0x4000_0012).chain(0x8000_0000..0x8000_0024).chain([u32::MAX]) {
        for subleaf in [0, 1, 2, 0xff, u32::MAX] {
            s.cpuid(leaf, subleaf);
        }
    }
    s.cpuid(1, 0);
    s.case("exceptions of the guest's own", "KVM; each goes to the guest");
    // ud2; division by zero; a load from an address that is not canonical.
    for code in
        [&[0x0f, 0x0b][..], &[0x31, 0xc9, 0xf7, 0xf1, 0xc3], &[0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x8a, 0, 0xc3]]
    {
        s.forget_faults();
        s.call(code);
        s.expect_fault();
    }
    s.case("a stack in a device's registers", "QEMU CVE-2021-3748 (memory that is a device)");
    // mov eax, 0xd0000f00; mov rsp, rax; push rax; pop rax; lea rsp, [r14 - 16]; ret
    s.call(&[0xb8, 0, 0xf, 0, 0xd0, 0x48, 0x89, 0xc4, 0x50, 0x58, 0x49, 0x8d, 0x66, 0xf0, 0xc3]);
    s.store(4, FAULT, 0);
    probe(s, Device::Rng);
}

fn controllers(s: &mut Script) {
    s.case("registers of the interrupt controllers with any value", "Cloud Hypervisor #6353; KVM");
    for index in (0..0x40).chain([0x7f, 0xff]) {
        s.store(4, 0xfec0_0000, index);
        s.load(4, 0xfec0_0010);
        // Masked, whatever else they say.
        s.store(4, 0xfec0_0010, 0xffff_ffff);
    }
    for register in (0..0x400).step_by(0x10).filter(|register| !(0x300..=0x310).contains(register)) {
        s.load(4, 0xfee0_0000 + register);
        s.store(4, 0xfee0_0000 + register, 0xffff_ffff);
    }
    for size in [1, 2, 8] {
        for offset in [1, 0x21, 0x44, 0x303, 0x3f1, 0xff8] {
            s.load(size, 0xfee0_0000 + offset);
            s.load(size, 0xfec0_0000 + offset);
            s.store(size, 0xfec0_0000 + offset, 0);
        }
    }
    // Interrupts without a receiver: reserved delivery modes, to all others, of which there are none.
    for mode in [0x000c_4300, 0x000c_0700, 0x000c_45ff, 0x000c_46ff] {
        s.store(4, 0xfee0_0300, mode);
    }
    probe(s, Device::Rng);
}

/// Code that makes one hypercall: by `vmcall`, or by `vmmcall`.
pub fn hypercall(number: u32, vmmcall: bool) -> Vec<u8> {
    // push rbx; mov eax, number; or rbx, -1; or rcx, -1; or rdx, -1; vmcall or vmmcall; pop rbx; ret
    let ones = [0x48, 0x83, 0xcb, 0xff, 0x48, 0x83, 0xc9, 0xff, 0x48, 0x83, 0xca, 0xff];
    let call = [0x0f, 0x01, if vmmcall { 0xd9 } else { 0xc1 }, 0x5b, 0xc3];
    [&[0x53, 0xb8][..], &number.to_le_bytes(), &ones, &call].concat()
}
