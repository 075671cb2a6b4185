//! These tests run compiled profiles in a small interpreter of the kernel's filter machine, so that they do not need a
//! kernel with seccomp.

use super::*;
use hutch_agent_proto::RemoteErrorKind;
use serde_json::{json, Value};

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const KILL_THREAD: u32 = 0;
const KILL_PROCESS: u32 = 0x8000_0000;

fn errno(number: u32) -> u32 {
    0x0005_0000 | number
}

fn compiled(profile: Value) -> Outcome<Compiled> {
    compile(&serde_json::from_value(profile).expect("the OCI form"))
}

/// The action of the filter for a call.
fn verdict(filter: &Filter, arch: u32, call: i64, args: [u64; 6]) -> u32 {
    let mut data = vec![];
    data.extend((call as u32).to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend([0; 8]);
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let (mut at, mut a) = (0, 0u32);
    loop {
        let [c0, c1, jt, jf, k @ ..] = filter.instructions[at].to_ne_bytes();
        let (code, k) = (u16::from_ne_bytes([c0, c1]), u32::from_ne_bytes(k));
        let jump = |yes: bool| usize::from(if yes { jt } else { jf });
        at += 1;
        match code {
            0x20 => a = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
            0x05 => at += k as usize,
            0x15 => at += jump(a == k),
            0x25 => at += jump(a > k),
            0x35 => at += jump(a >= k),
            0x45 => at += jump(a & k != 0),
            0x54 => a &= k,
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn action_for(filter: &Filter, call: i64, args: [u64; 6]) -> u32 {
    verdict(filter, X86_64, call, args)
}

#[test]
fn p_098_each_action_reaches_the_kernel() {
    let of = |action: &str| json!({"names": [action.to_lowercase()], "action": format!("SCMP_ACT_{action}")});
    let profile = |rule: Value, name: &str| {
        let mut rule = rule;
        rule["names"] = json!([name]);
        compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})).unwrap().filter
    };
    for (action, expected) in [
        ("ERRNO", errno(libc::EPERM as u32)),
        ("TRAP", 0x0003_0000),
        ("KILL", KILL_THREAD),
        ("KILL_THREAD", KILL_THREAD),
        ("KILL_PROCESS", KILL_PROCESS),
        ("LOG", 0x7ffc_0000),
        ("TRACE", 0x7ff0_0000 | libc::EPERM as u32),
    ] {
        let filter = profile(of(action), "mkdir");
        assert_eq!(action_for(&filter, libc::SYS_mkdir, [0; 6]), expected, "{action}");
        assert_eq!(action_for(&filter, libc::SYS_rmdir, [0; 6]), ALLOW, "{action}");
    }
    let filter = profile(json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38}), "mkdir");
    assert_eq!(action_for(&filter, libc::SYS_mkdir, [0; 6]), errno(38));
    let denied = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 2,
        "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"}]});
    let filter = compiled(denied).unwrap().filter;
    assert_eq!(action_for(&filter, libc::SYS_read, [0; 6]), ALLOW);
    assert_eq!(action_for(&filter, libc::SYS_mkdir, [0; 6]), errno(2));
}

#[test]
fn p_098_conditions_on_arguments_hold_together() {
    let filter = |args: Value| {
        let rule = json!({"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": args});
        compiled(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})).unwrap().filter
    };
    let arg =
        |index: u32, value: u64, op: &str| json!({"index": index, "value": value, "op": format!("SCMP_CMP_{op}")});
    let denied = |filter: &Filter, a: u64, b: u64| {
        action_for(filter, libc::SYS_socket, [a, b, 0, 0, 0, 0]) == errno(libc::EPERM as u32)
    };
    let both = filter(json!([arg(0, 2, "EQ"), arg(1, 3, "EQ")]));
    assert!(denied(&both, 2, 3) && !denied(&both, 2, 4) && !denied(&both, 1, 3));
    // Several about one argument are alternatives.
    let either = filter(json!([arg(0, 2, "EQ"), arg(0, 5, "EQ")]));
    assert!(denied(&either, 2, 0) && denied(&either, 5, 9) && !denied(&either, 3, 0));
    let high = 1 << 40;
    for (op, least, equal, most) in [
        ("NE", true, false, true),
        ("LT", true, false, false),
        ("LE", true, true, false),
        ("EQ", false, true, false),
        ("GE", false, true, true),
        ("GT", false, false, true),
    ] {
        let filter = filter(json!([arg(0, high, op)]));
        let seen = [high - 1, high, high + 1].map(|value| denied(&filter, value, 0));
        assert_eq!(seen, [least, equal, most], "{op}: all 64 bits count");
    }
    // The condition of Docker's profile for clone: none of these flags.
    let masked = json!([{"index": 0, "value": 0x7e02_0000u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]);
    let masked = filter(masked);
    assert!(denied(&masked, 0x11, 0) && !denied(&masked, 0x1000_0011, 0));
}

#[test]
fn p_098_unknown_names_are_omitted_and_reported() {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_S390X"],
        "syscalls": [{"names": ["mkdir", "no_such_call", "also_not"], "action": "SCMP_ACT_ERRNO"}]});
    let Compiled { filter, unknown } = compiled(profile).unwrap();
    assert_eq!(unknown, ["no_such_call", "also_not"]);
    assert_ne!(action_for(&filter, libc::SYS_mkdir, [0; 6]), ALLOW);
    // 32-bit calls have other numbers: without rules for them no process may make any.
    assert_eq!(verdict(&filter, I386, 39, [0; 6]), KILL_THREAD);
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]});
    let filter = compiled(profile).unwrap().filter;
    assert_eq!(verdict(&filter, I386, 39, [0; 6]), errno(libc::EPERM as u32), "mkdir of 32-bit programs");
    assert_eq!(verdict(&filter, I386, 40, [0; 6]), ALLOW);
    // A rule with the default action.
    let same =
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]});
    assert_eq!(action_for(&compiled(same).unwrap().filter, libc::SYS_read, [0; 6]), ALLOW);
}

#[test]
fn p_098_impossible_profiles_are_refused() {
    let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
    for (profile, word) in [
        (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "SCMP_ACT_NOTIFY"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})), "SCMP_ACT_NOTIFY"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})), "5000"),
        (rule(json!({"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 70000})), "70000"),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
            "WAIT_KILLABLE_RECV",
        ),
        (
            rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
            "the rule for read",
        ),
    ] {
        let error = compiled(profile.clone()).expect_err("a refusal");
        assert_eq!(error.kind, RemoteErrorKind::Invalid, "{profile}");
        assert!(error.message.contains(word), "{error:?}");
    }
}

#[test]
fn a_filter_survives_its_file() {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]});
    let filter = compiled(profile).unwrap().filter;
    assert_eq!(filter.flags, 6);
    let text = serde_json::to_string(&filter).unwrap();
    assert_eq!(serde_json::from_str::<Filter>(&text).unwrap(), filter);
}
