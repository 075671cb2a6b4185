//! A bare-metal guest in 64-bit mode that executes a script: plain accesses, as hostile as the script makes them. The
//! script lies right after its code. [`Script`](super::script::Script) composes it.
//!
//! Memory below 1 MiB, besides the boot protocol's: `0x7000` fault flag (1 after an exception), `0x8000` and `0x9000` page
//! directories of the fourth and the fifth GiB, `0xa000` IDT, stack below `0x90000`. An exception ends the operation that
//! caused it; the next one follows.

#![expect(unsafe_code, reason = "the guest's code lies between labels of the assembler")]

use std::arch::global_asm;

/// Operations, with their operands in the script. Little-endian, without gaps.
pub mod op {
    /// Powers off.
    pub const END: u8 = 0;
    /// `size: u8, address: u64, value: u64`.
    pub const STORE: u8 = 1;
    /// `size: u8, address: u64`: loads into the register.
    pub const LOAD: u8 = 2;
    /// `size: u8, address: u64, mask: u64, value: u64`: loads until the masked value is `value`.
    pub const WAIT: u8 = 3;
    /// `address: u64, len: u32, bytes`.
    pub const COPY: u8 = 4;
    /// `address: u64, len: u32, value: u8`.
    pub const FILL: u8 = 5;
    /// `size: u8, port: u16, value: u32`.
    pub const OUT: u8 = 6;
    /// `size: u8, port: u16`: into the register.
    pub const IN: u8 = 7;
    /// `len: u32, bytes`: to the console.
    pub const PRINT: u8 = 8;
    /// `tag: u16, mask: u64, value: u64`: prints `!tag=register` in hexadecimal unless the masked register is `value`.
    pub const CHECK: u8 = 9;
    /// `count: u32`: the operations up to [`AGAIN`] are executed as often.
    pub const REPEAT: u8 = 10;
    /// The end of a repetition.
    pub const AGAIN: u8 = 11;
    /// `size: u8, address: u64, value: u64`: adds to memory.
    pub const ADD: u8 = 12;
    /// `index: u32`: into the register.
    pub const RDMSR: u8 = 13;
    /// `index: u32, value: u64`.
    pub const WRMSR: u8 = 14;
    /// `leaf: u32, subleaf: u32`: EAX into the register.
    pub const CPUID: u8 = 15;
    /// `len: u32, code`: calls code that keeps RSI, RSP and R12 to R14, and returns.
    pub const CALL: u8 = 16;
    /// `first: u64, second: u64`: loads until the 16-bit values at both addresses are equal.
    pub const WAIT_SAME: u8 = 17;
}

/// Address of the flag that an exception sets.
pub const FAULT: u64 = 0x7000;

global_asm!(
    ".pushsection .rodata",
    "attack_interpreter_start:",
    ".code64",
    // The fourth and the fifth GiB, one to one, by pages of 2 MiB.
    "   mov edi, 0x8000",
    "   mov eax, 0xc0000083",
    "   xor edx, edx",
    "   mov ecx, 1024",
    "2: mov dword ptr [rdi], eax",
    "   mov dword ptr [rdi + 4], edx",
    "   add eax, 0x200000",
    "   adc edx, 0",
    "   add edi, 8",
    "   dec ecx",
    "   jnz 2b",
    "   mov dword ptr [0x4018], 0x8003",
    "   mov dword ptr [0x401c], 0",
    "   mov dword ptr [0x4020], 0x9003",
    "   mov dword ptr [0x4024], 0",
    "   mov rax, cr3",
    "   mov cr3, rax",
    "   mov esp, 0x90000",
    // All exceptions go to one handler, which lies in the first 64 KiB after 1 MiB: addresses in two halves.
    "   lea rax, [rip + 9f]",
    "   mov edi, 0xa000",
    "   mov ecx, 32",
    "2: mov word ptr [rdi], ax",
    "   mov word ptr [rdi + 2], 0x10",
    "   mov word ptr [rdi + 4], 0x8e00",
    "   mov rdx, rax",
    "   shr rdx, 16",
    "   mov dword ptr [rdi + 6], edx",
    "   mov word ptr [rdi + 10], 0",
    "   mov dword ptr [rdi + 12], 0",
    "   add edi, 16",
    "   dec ecx",
    "   jnz 2b",
    "   push 0",
    "   push 0",
    "   mov word ptr [rsp], 0x1ff",
    "   mov dword ptr [rsp + 2], 0xa000",
    "   lidt [rsp]",
    "   lea rsi, [rip + 99f]",
    "   mov r14, rsp",
    // The next operation. R14: the stack pointer of operations; R15: the register.
    "3: mov r14, rsp",
    "   cld",
    "   xor eax, eax",
    "   lodsb",
    "   cmp al, 17",
    "   ja 4f",
    "   lea rdx, [rip + 8f]",
    "   movsxd rax, dword ptr [rdx + rax * 4]",
    "   add rax, rdx",
    "   jmp rax",
    "   .balign 4",
    "8: .long 4f - 8b, 20f - 8b, 30f - 8b, 40f - 8b, 50f - 8b, 52f - 8b, 60f - 8b, 70f - 8b, 80f - 8b",
    "   .long 82f - 8b, 90f - 8b, 92f - 8b, 22f - 8b, 94f - 8b, 95f - 8b, 96f - 8b, 97f - 8b, 98f - 8b",
    // An exception.
    "9: mov rsp, r14",
    "   mov dword ptr [0x7000], 1",
    "   jmp 3b",
    // END, and an operation that does not exist.
    "4: mov edx, 0x600",
    "   mov al, 0x34",
    "   out dx, al",
    "5: hlt",
    "   jmp 5b",
    // STORE
    "20: movzx ecx, byte ptr [rsi]",
    "   mov rdi, qword ptr [rsi + 1]",
    "   mov rax, qword ptr [rsi + 9]",
    "   add rsi, 17",
    "   cmp cl, 2",
    "   jb 24f",
    "   je 25f",
    "   cmp cl, 4",
    "   je 26f",
    "   mov qword ptr [rdi], rax",
    "   jmp 3b",
    "24: mov byte ptr [rdi], al",
    "   jmp 3b",
    "25: mov word ptr [rdi], ax",
    "   jmp 3b",
    "26: mov dword ptr [rdi], eax",
    "   jmp 3b",
    // ADD
    "22: movzx ecx, byte ptr [rsi]",
    "   mov rdi, qword ptr [rsi + 1]",
    "   mov rdx, qword ptr [rsi + 9]",
    "   add rsi, 17",
    "   call 33f",
    "   lea rax, [rax + rdx]",
    "   cmp cl, 2",
    "   jb 24b",
    "   je 25b",
    "   cmp cl, 4",
    "   je 26b",
    "   mov qword ptr [rdi], rax",
    "   jmp 3b",
    // Loads CL bytes at RDI into RAX.
    "33: xor eax, eax",
    "   cmp cl, 2",
    "   jb 34f",
    "   je 35f",
    "   cmp cl, 4",
    "   je 36f",
    "   mov rax, qword ptr [rdi]",
    "   ret",
    "34: mov al, byte ptr [rdi]",
    "   ret",
    "35: mov ax, word ptr [rdi]",
    "   ret",
    "36: mov eax, dword ptr [rdi]",
    "   ret",
    // LOAD
    "30: movzx ecx, byte ptr [rsi]",
    "   mov rdi, qword ptr [rsi + 1]",
    "   add rsi, 9",
    "   call 33b",
    "   mov r15, rax",
    "   jmp 3b",
    // WAIT
    "40: movzx ecx, byte ptr [rsi]",
    "   mov rdi, qword ptr [rsi + 1]",
    "   mov rbx, qword ptr [rsi + 9]",
    "   mov rbp, qword ptr [rsi + 17]",
    "   add rsi, 25",
    "42: call 33b",
    "   mov r15, rax",
    "   and rax, rbx",
    "   cmp rax, rbp",
    "   je 3b",
    "   pause",
    "   jmp 42b",
    // COPY
    "50: mov rdi, qword ptr [rsi]",
    "   mov ecx, dword ptr [rsi + 8]",
    "   add rsi, 12",
    "   rep movsb",
    "   jmp 3b",
    // FILL
    "52: mov rdi, qword ptr [rsi]",
    "   mov ecx, dword ptr [rsi + 8]",
    "   mov al, byte ptr [rsi + 12]",
    "   add rsi, 13",
    "   rep stosb",
    "   jmp 3b",
    // OUT
    "60: movzx ecx, byte ptr [rsi]",
    "   mov dx, word ptr [rsi + 1]",
    "   mov eax, dword ptr [rsi + 3]",
    "   add rsi, 7",
    "   cmp cl, 2",
    "   jb 64f",
    "   je 65f",
    "   out dx, eax",
    "   jmp 3b",
    "64: out dx, al",
    "   jmp 3b",
    "65: out dx, ax",
    "   jmp 3b",
    // IN
    "70: movzx ecx, byte ptr [rsi]",
    "   mov dx, word ptr [rsi + 1]",
    "   add rsi, 3",
    "   xor eax, eax",
    "   cmp cl, 2",
    "   jb 74f",
    "   je 75f",
    "   in eax, dx",
    "   jmp 76f",
    "74: in al, dx",
    "   jmp 76f",
    "75: in ax, dx",
    "76: mov r15, rax",
    "   jmp 3b",
    // PRINT
    "80: mov ecx, dword ptr [rsi]",
    "   add rsi, 4",
    "   mov edx, 0x3f8",
    "   rep outsb",
    "   jmp 3b",
    // CHECK
    "82: movzx ebx, word ptr [rsi]",
    "   mov rax, r15",
    "   and rax, qword ptr [rsi + 2]",
    "   mov rbp, rax",
    "   cmp rax, qword ptr [rsi + 10]",
    "   lea rsi, [rsi + 18]",
    "   je 3b",
    "   mov al, 0x21",
    "   mov edx, 0x3f8",
    "   out dx, al",
    "   shl rbx, 48",
    "   mov ecx, 4",
    "   call 84f",
    "   mov al, 0x3d",
    "   out dx, al",
    "   mov rbx, rbp",
    "   mov ecx, 16",
    "   call 84f",
    "   mov al, 10",
    "   out dx, al",
    "   jmp 3b",
    // Prints the first ECX digits of RBX to port DX.
    "84: rol rbx, 4",
    "   mov eax, ebx",
    "   and al, 15",
    "   add al, 0x30",
    "   cmp al, 0x3a",
    "   jb 85f",
    "   add al, 0x27",
    "85: out dx, al",
    "   dec ecx",
    "   jnz 84b",
    "   ret",
    // REPEAT
    "90: lodsd",
    "   push rsi",
    "   push rax",
    "   jmp 3b",
    // AGAIN
    "92: dec dword ptr [rsp]",
    "   jz 93f",
    "   mov rsi, qword ptr [rsp + 8]",
    "   jmp 3b",
    "93: add rsp, 16",
    "   jmp 3b",
    // RDMSR
    "94: mov ecx, dword ptr [rsi]",
    "   add rsi, 4",
    "   rdmsr",
    "   shl rdx, 32",
    "   mov eax, eax",
    "   or rax, rdx",
    "   mov r15, rax",
    "   jmp 3b",
    // WRMSR
    "95: mov ecx, dword ptr [rsi]",
    "   mov eax, dword ptr [rsi + 4]",
    "   mov edx, dword ptr [rsi + 8]",
    "   add rsi, 12",
    "   wrmsr",
    "   jmp 3b",
    // CPUID
    "96: mov eax, dword ptr [rsi]",
    "   mov ecx, dword ptr [rsi + 4]",
    "   add rsi, 8",
    "   cpuid",
    "   mov r15d, eax",
    "   jmp 3b",
    // CALL
    "97: mov ecx, dword ptr [rsi]",
    "   lea rax, [rsi + 4]",
    "   lea rsi, [rax + rcx]",
    "   push rsi",
    "   call rax",
    "   pop rsi",
    "   jmp 3b",
    // WAIT_SAME
    "98: mov rdi, qword ptr [rsi]",
    "   mov rbx, qword ptr [rsi + 8]",
    "   add rsi, 16",
    "7: mov ax, word ptr [rdi]",
    "   cmp ax, word ptr [rbx]",
    "   je 3b",
    "   pause",
    "   jmp 7b",
    "99:",
    "attack_interpreter_end:",
    ".popsection",
);

/// Address of [`scribbler`]'s code, below 1 MiB and at the beginning of a page.
pub const SCRIBBLER: u64 = 0x6000;
/// Byte that the scribbler sets when it runs.
pub const SCRIBBLES: u64 = 0x7004;
/// Byte that ends the scribbler.
pub const SCRIBBLER_END: u64 = 0x7005;
/// First address that the scribbler writes.
pub const SCRIBBLED: u64 = 0x2_0000;
/// Number of bytes that the scribbler writes, again and again.
pub const SCRIBBLED_LEN: u64 = 0x1000;

global_asm!(
    ".pushsection .rodata",
    "attack_scribbler_start:",
    ".code16",
    "   cli",
    "   xor ax, ax",
    "   mov fs, ax",
    "   mov ax, 0x2000",
    "   mov ds, ax",
    "   mov byte ptr fs:[0x7004], 1",
    "   mov ebx, 0x12345678",
    "2: imul ebx, ebx, 1664525",
    "   add ebx, 1013904223",
    "   mov edi, ebx",
    "   shr edi, 20",
    "   and di, 0xffe",
    "   mov eax, ebx",
    "   shr eax, 4",
    // Half of the values are small: indices and flags that make sense.
    "   test ebx, 0x80000",
    "   jz 3f",
    "   and ax, 0x1f",
    // Addresses in descriptors stay at 4 MiB or above: a device that writes there does not hurt the interpreter.
    "3: mov cx, di",
    "   and cx, 0xe",
    "   cmp cx, 2",
    "   jne 5f",
    "   or ax, 0x40",
    "5: mov word ptr [di], ax",
    "   cmp byte ptr fs:[0x7005], 0",
    "   je 2b",
    "4: hlt",
    "   jmp 4b",
    ".code64",
    "attack_scribbler_end:",
    ".popsection",
);

/// Code between two labels.
macro_rules! between {
    ($start:literal, $end:literal) => {{
        unsafe extern "C" {
            #[link_name = $start]
            static START: u8;
            #[link_name = $end]
            static END: u8;
        }
        let (start, end) = (&raw const START, &raw const END);
        // SAFETY: both labels are in one read-only section, the second after the first.
        unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
    }};
}

/// The interpreter's code, without a script.
pub fn code() -> &'static [u8] {
    between!("attack_interpreter_start", "attack_interpreter_end")
}

/// Code for a second processor in real mode: writes values to [`SCRIBBLED`] until it is told to end.
pub fn scribbler() -> &'static [u8] {
    between!("attack_scribbler_start", "attack_scribbler_end")
}
