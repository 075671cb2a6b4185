//! Instructions of a filter (`linux/filter.h`, `linux/bpf_common.h`), and the one filter that depends on the process.

/// `struct sock_filter`.
pub(super) type Instruction = libc::sock_filter;

/// Offsets in `struct seccomp_data`, which is the program's input.
pub(super) const NUMBER_OFFSET: u32 = 0;
pub(super) const ARGS_OFFSET: u32 = 16;

pub(super) const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
pub(super) const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
pub(super) const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

pub(super) fn load(offset: u32) -> Instruction {
    Instruction { code: opcode(LOAD), jt: 0, jf: 0, k: offset }
}

/// Skips `yes` or `no` instructions.
pub(super) fn branch(kind: u32, k: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code: opcode(kind), jt: yes, jf: no, k }
}

pub(super) fn result(value: u32) -> Instruction {
    Instruction { code: opcode(RETURN), jt: 0, jf: 0, k: value }
}

pub(super) fn opcode(code: u32) -> u16 {
    u16::try_from(code).unwrap_or_default()
}

/// Traps signals to threads of other processes than `pid` (tgkill(2)), whatever the thread's other filter says of the call. All
/// others depend on no process, and are part of the program.
pub(super) fn signals_to(pid: u32) -> [Instruction; 6] {
    #[expect(clippy::cast_possible_truncation, reason = "a small number")]
    let tgkill = libc::SYS_tgkill as u32;
    [
        load(NUMBER_OFFSET),
        branch(EQUAL, tgkill, 0, 3),
        load(ARGS_OFFSET),
        branch(EQUAL, pid, 1, 0),
        result(libc::SECCOMP_RET_TRAP),
        result(libc::SECCOMP_RET_ALLOW),
    ]
}
