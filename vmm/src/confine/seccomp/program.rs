//! Compiles lists of system calls to a program for the kernel (seccomp(2)). The build script does that, so that a boot has no part
//! in it.
//!
//! The kernel runs a new program once for each number that exists, to find those that are always allowed. A chain of
//! comparisons would cost a boot about a millisecond; here the number is found by halving, with three actions in one
//! program. (The crate `seccompiler` makes chains, and programs that know one action beside the default: each thread
//! would need two of them, and twice the system calls.)

use std::collections::BTreeMap;

use super::calls::{Call, Condition, Rule};
use super::instruction::{branch, load, opcode, result, Instruction, ARGS_OFFSET, EQUAL, NUMBER_OFFSET};

/// `AUDIT_ARCH_X86_64` of `linux/audit.h`.
const ARCH: u32 = 0xc000_003e;
const ARCH_OFFSET: u32 = 4;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;

/// A program for the kernel.
pub(super) type Program = Box<[Instruction]>;

/// A program's answer to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    /// Of a call that is on no list.
    Trap,
    Allow,
    Errno(u16),
    If(Checked),
}

/// Conditions of several lists for one call; the call is allowed if its argument has one of the values.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Checked {
    argument: u8,
    mask: u32,
    values: Vec<u32>,
}

/// Compiles the union of `lists`. A call that is on no list is trapped: the thread gets SIGSYS.
///
/// # Panics
/// If two lists check different arguments of one call: a mistake in the lists, which a test finds.
pub(super) fn compile(lists: &[&[Call]]) -> Program {
    let mut rules: BTreeMap<u32, Action> = BTreeMap::new();
    for call in lists.iter().flat_map(|list| list.iter()) {
        let new = action(&call.rule);
        let merged = match rules.remove(&call.number) {
            None => new,
            Some(old) => union(old, new, call.number),
        };
        rules.insert(call.number, merged);
    }
    let mut code = vec![
        load(ARCH_OFFSET),
        branch(EQUAL, ARCH, 1, 0),
        // Numbers mean other calls there.
        result(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER_OFFSET),
    ];
    dispatch(&ranges(rules), &mut code);
    code.into_boxed_slice()
}

fn action(rule: &Rule) -> Action {
    match rule {
        // For other processes `signals_to` traps it.
        Rule::Allow | Rule::OwnProcess => Action::Allow,
        Rule::Errno(errno) => Action::Errno(*errno),
        Rule::If(Condition { argument, mask, values }) => {
            Action::If(Checked { argument: *argument, mask: *mask, values: values.to_vec() })
        }
    }
}

/// The more permissive of two actions.
fn union(old: Action, new: Action, number: u32) -> Action {
    match (old, new) {
        (Action::Allow, _) | (_, Action::Allow) => Action::Allow,
        (Action::If(mut old), Action::If(new)) => {
            let same = (old.argument, old.mask) == (new.argument, new.mask);
            assert!(same, "the lists check system call {number} in different ways");
            old.values.extend(new.values);
            old.values.sort_unstable();
            old.values.dedup();
            Action::If(old)
        }
        (Action::If(checked), _) | (_, Action::If(checked)) => Action::If(checked),
        (Action::Trap, other) | (other, Action::Trap) => other,
        (old @ Action::Errno(_), Action::Errno(_)) => old,
    }
}

/// All numbers as ranges with the same action: each with its first number.
fn ranges(rules: BTreeMap<u32, Action>) -> Vec<(u32, Action)> {
    let mut ranges = vec![(0, Action::Trap)];
    let mut add = |first: u32, action: Action| {
        if let Some(last) = ranges.last_mut() {
            if last.0 == first {
                ranges.pop();
            } else if last.1 == action {
                return;
            }
        }
        if ranges.last().is_none_or(|last| last.1 != action) {
            ranges.push((first, action));
        }
    };
    for (number, action) in rules {
        add(number, action);
        add(number + 1, Action::Trap);
    }
    ranges
}

/// Code that finds the number, which is loaded, among `ranges` and acts on it.
fn dispatch(ranges: &[(u32, Action)], code: &mut Vec<Instruction>) {
    if let [(_, action)] = ranges {
        return act(action, code);
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (mut below, mut above) = (Vec::new(), Vec::new());
    dispatch(low, &mut below);
    dispatch(high, &mut above);
    let middle = high.first().map_or(0, |range| range.0);
    match u8::try_from(below.len()) {
        Ok(skip) => code.push(branch(AT_LEAST, middle, skip, 0)),
        // A branch reaches 255 instructions, a jump all.
        Err(_) => {
            code.push(branch(AT_LEAST, middle, 0, 1));
            code.push(Instruction { code: opcode(JUMP), jt: 0, jf: 0, k: below.len() as u32 });
        }
    }
    code.extend(below);
    code.extend(above);
}

fn act(action: &Action, code: &mut Vec<Instruction>) {
    match action {
        Action::Trap => code.push(result(libc::SECCOMP_RET_TRAP)),
        Action::Allow => code.push(result(libc::SECCOMP_RET_ALLOW)),
        Action::Errno(errno) => code.push(result(errno_result(*errno))),
        Action::If(checked) => {
            // The kernel's parameters here are 32 bits wide, so the low half is what it will use (x86-64 is little-endian).
            code.push(load(ARGS_OFFSET + 8 * u32::from(checked.argument)));
            if checked.mask != u32::MAX {
                code.push(Instruction { code: opcode(AND), jt: 0, jf: 0, k: checked.mask });
            }
            for value in &checked.values {
                code.push(branch(EQUAL, *value, 0, 1));
                code.push(result(libc::SECCOMP_RET_ALLOW));
            }
            code.push(result(libc::SECCOMP_RET_TRAP));
        }
    }
}

fn errno_result(errno: u16) -> u32 {
    libc::SECCOMP_RET_ERRNO | u32::from(errno)
}

/// An evaluator of programs, for tests.
#[cfg(test)]
pub(super) mod evaluator {
    use super::super::instruction::{LOAD, RETURN};
    use super::*;

    /// The kernel's answer to a call: one of `SECCOMP_RET_*`.
    pub fn run(program: &[Instruction], number: u32, args: [u64; 6]) -> u32 {
        run_on(program, ARCH, number, args)
    }

    pub fn run_on(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER_OFFSET => number,
            ARCH_OFFSET => arch,
            offset => {
                let (index, half) = ((offset - ARGS_OFFSET) / 8, (offset - ARGS_OFFSET) % 8);
                (args[index as usize] >> (8 * half)) as u32
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                LOAD => accumulator = word(k),
                AND => accumulator &= k,
                EQUAL => at += usize::from(if accumulator == k { jt } else { jf }),
                AT_LEAST => at += usize::from(if accumulator >= k { jt } else { jf }),
                JUMP => at += k as usize,
                RETURN => return k,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }
}
