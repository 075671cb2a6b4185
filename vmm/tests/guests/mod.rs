//! Bare-metal guests: a few instructions each, assembled into this test program and wrapped into an ELF image with a
//! PVH note. They start at [`LOAD`] in 32-bit protected mode without paging (or in 64-bit mode, if booted so).

#![allow(dead_code, reason = "several test programs share these guests, and none uses all of them")]
#![expect(unsafe_code, reason = "the guests' code lies between labels of the assembler")]

use std::arch::global_asm;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hutch_vmm::testing::{pvh_image, PvhImage};
use hutch_vmm::{Machine, MachineConfig, MachineExit};
use tempfile::TempDir;

/// Load address and entry of the guests.
pub const LOAD: u64 = 0x10_0000;

/// Far longer than any guest here takes, even on a busy host whose KVM emulates.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Defines a guest `$name` in assembly. Labels must be numbers (`2:`, `2b`), because all guests share one file.
macro_rules! guest {
    ($(#[$doc:meta])* $name:ident, $bits:literal, $($line:literal),* $(,)?) => {
        global_asm!(
            ".pushsection .rodata",
            concat!("guest_", stringify!($name), "_start:"),
            concat!(".code", $bits),
            $($line,)*
            ".code64",
            concat!("guest_", stringify!($name), "_end:"),
            ".popsection",
        );
        $(#[$doc])*
        pub fn $name() -> &'static [u8] {
            unsafe extern "C" {
                #[link_name = concat!("guest_", stringify!($name), "_start")]
                static START: u8;
                #[link_name = concat!("guest_", stringify!($name), "_end")]
                static END: u8;
            }
            let (start, end) = (&raw const START, &raw const END);
            // SAFETY: both labels are in one read-only section, the second after the first.
            unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
        }
    };
}

guest! {
    /// Prints a line and powers off.
    hello, 32,
    "   mov esp, 0x90000",
    "   call 2f",
    "   .ascii \"hello, world\\n\\0\"",
    "2: pop esi",
    "   mov edx, 0x3f8",
    "3: lodsb",
    "   test al, al",
    "   jz 4f",
    "   out dx, al",
    "   jmp 3b",
    "4: mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// Resets by ACPI's register.
    reset, 32,
    "   mov edx, 0x601",
    "   mov al, 1",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// Resets by the keyboard controller.
    reset_i8042, 32,
    "   mov al, 0xfe",
    "   out 0x64, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// Prints the panic message of Linux, and resets.
    panic, 32,
    "   mov esp, 0x90000",
    "   call 2f",
    "   .ascii \"[    0.1] Kernel panic - not syncing: test\\r\\n\\0\"",
    "2: pop esi",
    "   mov edx, 0x3f8",
    "3: lodsb",
    "   test al, al",
    "   jz 4f",
    "   out dx, al",
    "   jmp 3b",
    "4: mov edx, 0x601",
    "   mov al, 1",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// Executes an invalid instruction without an IDT that could handle it.
    triple_fault, 32,
    "   mov esp, 0x90000",
    "   call 2f",
    "   .word 0",
    "   .long 0",
    "2: pop eax",
    "   lidt [eax]",
    "   ud2",
}

guest! {
    /// Halts for ever, with interrupts off.
    halt, 32,
    "2: cli",
    "   hlt",
    "   jmp 2b",
}

guest! {
    /// Never leaves the guest.
    spin, 32,
    "2: jmp 2b",
}

guest! {
    /// Marks without end, with some work in between.
    tick, 32,
    "2: mov ecx, 2000",
    "3: dec ecx",
    "   jnz 3b",
    "   mov al, 0x54",
    "   out 0xe9, al",
    "   jmp 2b",
}

guest! {
    /// Prints lines without end.
    babble, 32,
    "   mov edx, 0x3f8",
    "2: mov ecx, 63",
    "   mov al, 0x78",
    "3: out dx, al",
    "   dec ecx",
    "   jnz 3b",
    "   mov al, 10",
    "   out dx, al",
    "   jmp 2b",
}

guest! {
    /// Adds up the first and the third page of its initrd and writes to the second, again and again, with a mark each
    /// time. Powers off when the contents have changed.
    watch_initrd, 32,
    "   mov esi, [ebx + 16]",
    "   mov esi, [esi]",
    "   mov edi, 1",
    "   mov [esi + 0x1000], edi",
    "   xor ebp, ebp",
    "2: xor eax, eax",
    "   xor ecx, ecx",
    "3: add eax, [esi + ecx]",
    "   add eax, [esi + ecx + 0x2000]",
    "   add ecx, 4",
    "   cmp ecx, 0x1000",
    "   jne 3b",
    "   test ebp, ebp",
    "   jne 4f",
    "   mov ebp, eax",
    "4: cmp eax, ebp",
    "   jne 5f",
    "   cmp [esi + 0x1000], edi",
    "   jne 5f",
    "   inc edi",
    "   mov [esi + 0x1000], edi",
    "   mov al, 0x54",
    "   out 0xe9, al",
    "   jmp 2b",
    "5: mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "   jmp 5b",
}

guest! {
    /// Reads the first virtio window's magic number and device id and an address without a device, writes them to the
    /// console, and powers off.
    mmio, 32,
    "   mov ebx, 0xd0000000",
    "   mov edx, 0x3f8",
    "   mov eax, [ebx]",
    "   mov ecx, 4",
    "2: out dx, al",
    "   shr eax, 8",
    "   dec ecx",
    "   jnz 2b",
    "   mov eax, [ebx + 8]",
    "   add al, 0x30",
    "   out dx, al",
    "   mov eax, [0xdff00000]",
    "   inc eax",
    "   add al, 0x30",
    "   out dx, al",
    "   mov al, 10",
    "   out dx, al",
    // Notify the first queue, which is not set up: nothing may happen.
    "   mov dword ptr [ebx + 0x50], 0",
    "   mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// In 64-bit mode: prints the kernel command line, found by boot_params, and powers off.
    cmdline64, 64,
    "   mov eax, dword ptr [rsi + 0x228]",
    "   mov rsi, rax",
    "   mov edx, 0x3f8",
    "3: lodsb",
    "   test al, al",
    "   jz 4f",
    "   out dx, al",
    "   jmp 3b",
    "4: mov al, 10",
    "   out dx, al",
    "   mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// By PVH: prints the kernel command line, found by the start info, and powers off.
    cmdline_pvh, 32,
    "   cmp dword ptr [ebx], 0x336ec578",
    "   jne 5f",
    "   mov esi, [ebx + 24]",
    "   mov edx, 0x3f8",
    "3: lodsb",
    "   test al, al",
    "   jz 4f",
    "   out dx, al",
    "   jmp 3b",
    "4: mov al, 10",
    "   out dx, al",
    "   mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// Starts a second processor in real mode, which marks and writes to memory; then powers off.
    smp, 32,
    "   mov esp, 0x90000",
    "   call 2f",
    // The second processor's code, to be copied to 0x8000: 16-bit real mode.
    ".code16",
    "   mov al, 0x41",
    "   out 0xe9, al",
    "   xor ax, ax",
    "   mov ds, ax",
    "   mov word ptr [0x9000], 0x1234",
    "6: hlt",
    "   jmp 6b",
    ".code32",
    "2: pop esi",
    "   mov edi, 0x8000",
    "   mov ecx, 32",
    "   rep movsb",
    "   mov word ptr [0x9000], 0",
    // The local APIC: enabled, then INIT and SIPI with vector 8 to all others.
    "   mov ebx, 0xfee00000",
    "   mov dword ptr [ebx + 0xf0], 0x1ff",
    "   mov dword ptr [ebx + 0x300], 0x000c4500",
    "   mov ecx, 100000",
    "3: dec ecx",
    "   jnz 3b",
    "   mov dword ptr [ebx + 0x300], 0x000c4608",
    "4: cmp word ptr [0x9000], 0x1234",
    "   jne 4b",
    "   mov al, 0x42",
    "   out 0xe9, al",
    "   mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

guest! {
    /// Jumps to an address without memory.
    execute_nothing, 32,
    "   mov eax, 0xdff00000",
    "   jmp eax",
}

guest! {
    /// In 64-bit mode: stores a byte to each page of the 64 MiB at 4 GiB, the last one first, and powers off.
    touch_pluggable, 64,
    // The fifth GiB: 32 pages of 2 MiB, by a page directory at 0x8000.
    "   mov edi, 0x8000",
    "   mov ecx, 1024",
    "   xor eax, eax",
    "   rep stosd",
    "   mov edi, 0x8000",
    "   mov eax, 0x83",
    "   mov ecx, 32",
    "2: mov dword ptr [rdi], eax",
    "   mov dword ptr [rdi + 4], 1",
    "   add eax, 0x200000",
    "   add edi, 8",
    "   dec ecx",
    "   jnz 2b",
    "   mov edi, 0x4020",
    "   mov dword ptr [rdi], 0x8003",
    "   mov dword ptr [rdi + 4], 0",
    "   mov rax, cr3",
    "   mov cr3, rax",
    "   mov edi, 1",
    "   shl rdi, 32",
    "   mov ecx, 0x4000",
    "3: dec ecx",
    "   mov rax, rcx",
    "   shl rax, 12",
    "   mov byte ptr [rdi + rax], 7",
    "   test ecx, ecx",
    "   jnz 3b",
    "   mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
}

/// A guest's image in a directory of its own, and a configuration for it.
pub struct Bench {
    /// Configuration of the machine; change it before the machine is built.
    pub config: MachineConfig,
    dir: TempDir,
}

impl Bench {
    /// A guest in an ELF image with a PVH entry.
    pub fn new(code: &[u8]) -> Self {
        Self::with_image(&PvhImage { load: LOAD, code, memory_len: 0x1000, ..PvhImage::default() })
    }

    /// A guest in any image.
    pub fn with_image(image: &PvhImage<'_>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kernel = dir.path().join("guest");
        std::fs::write(&kernel, pvh_image(image)).expect("a temporary file");
        let mut config = MachineConfig::new("test", kernel);
        config.memory.size_mib = 4;
        config.allow_emulated = true;
        Self { config, dir }
    }

    /// A path for a file of this test.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Builds and starts the machine.
    pub fn start(&self) -> Machine {
        let mut machine = Machine::build(&self.config).expect("bare-metal guests need /dev/kvm");
        machine.start().expect("a new machine can be started");
        machine
    }

    /// Runs the guest to its end.
    pub fn run(&self) -> (Machine, MachineExit) {
        let machine = self.start();
        let exit = machine.wait(Some(TEST_TIMEOUT)).expect("the guest ends in time");
        (machine, exit)
    }
}
