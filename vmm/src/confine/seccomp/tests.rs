//! The filters as the kernel would evaluate them.

use std::collections::BTreeSet;
use std::fmt::Write;

use syscalls::Sysno;

use super::calls::{Call, Condition, Rule};
use super::lists::LISTS;
use super::program::evaluator;
use super::*;

const PID: u32 = 1234;
/// Numbers above the last call that exists.
const NUMBERS: u32 = 520;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;

fn lists(kind: Kind) -> &'static [&'static [Call]] {
    LISTS[kind.index()].1
}

/// Both filters of a thread of this kind, and the kernel's answer: the stricter one's.
struct Filters(&'static [Instruction]);

fn program(kind: Kind) -> Filters {
    Filters(kind.program())
}

impl Filters {
    fn len(&self) -> usize {
        self.0.len()
    }
}

fn run(Filters(program): &Filters, number: u32, args: [u64; 6]) -> u32 {
    match evaluator::run(&instruction::signals_to(PID), number, args) {
        ALLOW => evaluator::run(program, number, args),
        answer => answer,
    }
}

fn number(name: &str) -> u32 {
    name.parse::<Sysno>().unwrap_or_else(|_| panic!("{name} is a system call")).id() as u32
}

/// Values of arguments that a filter may check, and some others.
fn probes() -> BTreeSet<u32> {
    let lists = Kind::ALL.into_iter().flat_map(lists).flat_map(|list| list.iter());
    let checked = lists.flat_map(|call| match call.rule {
        Rule::If(Condition { values, .. }) => values,
        _ => &[],
    });
    let others = [0, 4, 7, PID, PID + 1, 17, libc::CLONE_NEWUSER as u32, 0xae01, 0x5401, 0x5412, u32::MAX];
    checked.copied().chain(others).collect()
}

/// One line for each call that is not trapped: its name, and the values that are allowed or the error.
fn table() -> String {
    let probes = probes();
    let mut text = String::new();
    for kind in Kind::ALL {
        writeln!(text, "{kind:?}").unwrap();
        let program = program(kind);
        for number in 0..NUMBERS {
            let answer = |value: u32| run(&program, number, [value.into(); 6]);
            let answers: BTreeSet<u32> = probes.iter().map(|value| answer(*value)).collect();
            if answers == [TRAP].into() {
                continue;
            }
            let name = Sysno::new(number as usize).map_or("?", |call| call.name());
            let what = match answers.iter().collect::<Vec<_>>()[..] {
                [&ALLOW] => String::new(),
                [errno] if errno & libc::SECCOMP_RET_ACTION_FULL == libc::SECCOMP_RET_ERRNO => {
                    format!(" fails: {}", std::io::Error::from_raw_os_error((errno & libc::SECCOMP_RET_DATA) as i32))
                }
                _ => {
                    let (allowed, refused): (Vec<u32>, Vec<u32>) =
                        probes.iter().partition(|value| answer(**value) == ALLOW);
                    let (word, values) =
                        if allowed.len() < refused.len() { ("with", allowed) } else { ("except with", refused) };
                    let values: Vec<_> = values.iter().map(|value| format!("{value:#x}")).collect();
                    format!(" {word} {}", values.join(" "))
                }
            };
            writeln!(text, "  {name}{what}").unwrap();
        }
    }
    text
}

/// A filter that lets more through shows in this file, and so in review.
#[test]
fn the_filters_are_those_of_the_committed_table() {
    let (table, committed) = (table(), include_str!("table.txt"));
    if table != committed {
        let path = std::env::temp_dir().join(format!("hutch-seccomp-table-{}.txt", std::process::id()));
        std::fs::write(&path, table).unwrap();
        panic!("vmm/src/confine/seccomp/table.txt is out of date: compare it with {} and replace it", path.display());
    }
}

#[test]
fn no_thread_can_start_programs_reach_other_processes_or_change_what_it_is() {
    let never = [
        "execve",
        "execveat",
        "fork",
        "vfork",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_open",
        "pidfd_send_signal",
        "pidfd_getfd",
        "kill",
        "tkill",
        "rt_sigqueueinfo",
        "mount",
        "umount2",
        "pivot_root",
        "chroot",
        "open_tree",
        "move_mount",
        "fsopen",
        "fsmount",
        "mount_setattr",
        "setns",
        "open_by_handle_at",
        "bpf",
        "keyctl",
        "add_key",
        "perf_event_open",
        "userfaultfd",
        "memfd_create",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "reboot",
        "swapon",
        "io_uring_setup",
        "io_uring_enter",
        "personality",
        "bind",
        "listen",
        "shmget",
        "shmat",
        "setuid",
        "acct",
        "settimeofday",
        "iopl",
        "ioperm",
        "modify_ldt",
    ];
    for kind in Kind::ALL {
        let program = program(kind);
        for name in never {
            for probe in probes() {
                assert_eq!(run(&program, number(name), [probe.into(); 6]), TRAP, "{name} in {kind:?}");
            }
        }
    }
}

#[test]
fn arguments_that_matter_are_checked() {
    for kind in Kind::ALL {
        let program = program(kind);
        let call = |name: &str, args: [u64; 6]| run(&program, number(name), args);
        let exec = libc::PROT_EXEC as u64;
        assert_eq!(call("mmap", [0, 4096, 3, 0x22, u64::MAX, 0]), ALLOW, "{kind:?}");
        assert_eq!(call("mmap", [0, 4096, 3 | exec, 0x22, u64::MAX, 0]), TRAP, "{kind:?}");
        assert_eq!(call("mprotect", [0, 4096, exec, 0, 0, 0]), TRAP, "{kind:?}");
        // Bits that the kernel cuts off do not help.
        assert_eq!(call("mmap", [0, 4096, 1 << 32 | exec, 0x22, u64::MAX, 0]), TRAP, "{kind:?}");
        assert_eq!(call("tgkill", [PID.into(), 7, 34, 0, 0, 0]), ALLOW, "{kind:?}");
        assert_eq!(call("tgkill", [1, 1, 9, 0, 0, 0]), TRAP, "{kind:?}");
        assert_eq!(call("madvise", [0, 4096, libc::MADV_MERGEABLE as u64, 0, 0, 0]), TRAP, "{kind:?}");
        // A new process, and a thread in another user namespace.
        assert_eq!(call("clone", [17, 0, 0, 0, 0, 0]), TRAP, "{kind:?}");
        assert_eq!(call("clone", [0x3d_0f00 | libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0]), TRAP, "{kind:?}");
        assert_eq!(call("clone3", [0; 6]), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, "{kind:?}");
        assert_eq!(call("ioctl", [3, 0xae01, 0, 0, 0, 0]), TRAP, "KVM_CREATE_VM in {kind:?}");
        assert_eq!(call("ioctl", [0, libc::TIOCSTI, 0, 0, 0, 0]), TRAP, "{kind:?}");
        for family in [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK] {
            assert_eq!(call("socket", [family as u64, 1, 0, 0, 0, 0]), TRAP, "{kind:?}");
        }
        assert_eq!(call("unshare", [libc::CLONE_NEWNS as u64, 0, 0, 0, 0, 0]), TRAP, "{kind:?}");
    }
}

#[test]
fn only_threads_with_files_open_files() {
    let open = number("openat");
    for kind in Kind::ALL {
        let may = matches!(kind, Kind::Maker | Kind::Owner | Kind::Shim | Kind::Device(ThreadKind::FileServer));
        let expected = if may { ALLOW } else { libc::SECCOMP_RET_ERRNO | libc::ENOENT as u32 };
        assert_eq!(run(&program(kind), open, [0; 6]), expected, "{kind:?}");
    }
}

/// A thread has its maker's filter too, so the maker's must allow what its threads do.
#[test]
fn the_makers_filters_allow_what_their_threads_do() {
    let probes = probes();
    for (maker, made) in Kind::ALL.into_iter().flat_map(|kind| [(Kind::Maker, kind), (Kind::Owner, kind)]) {
        if matches!(made, Kind::Shim | Kind::Owner | Kind::Foreground) {
            continue;
        }
        let (outer, inner) = (program(maker), program(made));
        for number in 0..NUMBERS {
            for probe in &probes {
                let args = [(*probe).into(); 6];
                let allowed = run(&inner, number, args) != ALLOW || run(&outer, number, args) == ALLOW;
                assert!(allowed, "{made:?} needs system call {number} with {probe:#x}, which {maker:?} may not make");
            }
        }
    }
}

#[test]
fn other_architectures_and_unknown_numbers_do_not_pass() {
    for kind in Kind::ALL {
        let program = program(kind);
        assert!(program.len() < 4096, "{} instructions in {kind:?}", program.len());
        // i386, where 3 is read(2); and x32, whose numbers have bit 30.
        assert_eq!(evaluator::run_on(program.0, 0x4000_0003, 3, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        for number in [0x4000_0000, 0x4000_0001, 600, u32::MAX] {
            assert_eq!(run(&program, number, [0; 6]), TRAP, "{number:#x} in {kind:?}");
        }
    }
}

#[test]
fn a_program_answers_for_each_number_as_its_lists_say() {
    // Numbers side by side, far apart, and at both ends; enough that branches do not reach across.
    let rule = Rule::If(Condition { argument: 0, mask: u32::MAX, values: &[PID] });
    let list: Vec<Call> = (0..2000).filter(|n| n % 3 != 1).map(|number| Call { number, rule }).collect();
    let last = [Call { number: u32::MAX - 1, rule: Rule::Errno(7) }];
    let program = program::compile(&[&list, &last]);
    for number in 0..2100 {
        let expected = if number < 2000 && number % 3 != 1 { ALLOW } else { TRAP };
        assert_eq!(evaluator::run(&program, number, [PID.into(), 0, 0, 0, 0, 0]), expected, "{number}");
        assert_eq!(evaluator::run(&program, number, [1, 0, 0, 0, 0, 0]), TRAP, "{number}");
    }
    assert_eq!(evaluator::run(&program, u32::MAX - 1, [0; 6]), libc::SECCOMP_RET_ERRNO | 7);
    assert_eq!(evaluator::run(&program, u32::MAX, [0; 6]), TRAP);
}

/// The build script compiled them, and put them in the order of the kinds.
#[test]
fn the_programs_are_those_of_the_lists() {
    for kind in Kind::ALL {
        let name = format!("{kind:?}").replace("Device(", "").replace(')', "");
        assert_eq!(LISTS[kind.index()].0, name.to_uppercase());
        let text = |program: &[Instruction]| format!("{program:?}");
        assert_eq!(text(kind.program()), text(&program::compile(lists(kind))), "{name}");
    }
}
