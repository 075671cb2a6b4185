//! Statistics of a container, from its group and the guest's interfaces; and its processes, from `/proc`.
//!
//! libcontainer brings libcgroups, whose statistics this does not use (0.7). A caller can only read all of them, and
//! the call fails if one file is missing: `cpu.pressure` and the like in a kernel without PSI, `memory.swap.current` in
//! one without swap. They also lack `oom_kill` of `memory.events`; the memory `fail_count` is its `oom`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use hutch_agent_proto::{ContainerStats, InterfaceStats, ProcessInfo, Token};
use nix::unistd::{sysconf, SysconfVar};

use crate::cgroup::Cgroup;

/// Longest command line that the agent reports, in bytes.
const MAX_COMMAND: usize = 4096;

/// Statistics of a container.
pub fn stats(group: &Cgroup) -> ContainerStats {
    let cpu = |key| group.keyed("cpu.stat", key).unwrap_or_default();
    let memory = group.number("memory.current").unwrap_or_default();
    let (block_read_bytes, block_write_bytes) = block(&group.read("io.stat"));
    ContainerStats {
        cpu_usage_us: cpu("usage_usec"),
        cpu_user_us: cpu("user_usec"),
        cpu_system_us: cpu("system_usec"),
        cpu_throttled: cpu("nr_throttled"),
        memory_bytes: memory,
        memory_peak_bytes: group.number("memory.peak").unwrap_or(memory),
        memory_limit_bytes: group.number("memory.max").unwrap_or(u64::MAX),
        oom_kills: group.keyed("memory.events", "oom_kill").unwrap_or_default(),
        pids: group.number("pids.current").unwrap_or_else(|| group.members().len() as u64),
        block_read_bytes,
        block_write_bytes,
        network: interfaces(Path::new("/sys/class/net")),
    }
}

/// Sums of `rbytes` and `wbytes` over the devices of `io.stat`.
fn block(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        words.filter_map(|number| number.parse::<u64>().ok()).fold(0, u64::saturating_add)
    };
    (sum("rbytes"), sum("wbytes"))
}

/// All interfaces but the loopback; the containers of a pod share them.
fn interfaces(class: &Path) -> Vec<InterfaceStats> {
    let entries = fs::read_dir(class).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let read = |name: &str, file: &str| {
        let text = fs::read_to_string(class.join(name).join("statistics").join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let interfaces = names.into_iter().filter(|name| name != "lo").filter_map(|name| {
        Some(InterfaceStats {
            rx_bytes: read(&name, "rx_bytes")?,
            rx_packets: read(&name, "rx_packets")?,
            tx_bytes: read(&name, "tx_bytes")?,
            tx_packets: read(&name, "tx_packets")?,
            name,
        })
    });
    interfaces.collect()
}

/// The processes of a container; `tokens` are the tokens of processes that the host started, by pid.
pub fn processes(group: &Cgroup, tokens: &BTreeMap<i32, Token>) -> Vec<ProcessInfo> {
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|hertz| u64::try_from(hertz).ok()).unwrap_or(100);
    let proc = Path::new("/proc");
    group
        .members()
        .into_iter()
        .filter_map(|pid| process_info(proc, pid, hertz.max(1), tokens.get(&pid).cloned()))
        .collect()
}

/// One process; `None` if it has ended meanwhile.
fn process_info(proc: &Path, pid: i32, hertz: u64, token: Option<Token>) -> Option<ProcessInfo> {
    let dir = proc.join(pid.to_string());
    let stat = parse_stat(&fs::read_to_string(dir.join("stat")).ok()?)?;
    let uid = uid(&fs::read_to_string(dir.join("status")).ok()?)?;
    let mut command = fs::read(dir.join("cmdline")).ok()?;
    command.truncate(MAX_COMMAND);
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{}]", stat.name) } else { command };
    let ticks = stat.ticks.saturating_mul(1000) / hertz;
    Some(ProcessInfo {
        pid,
        ppid: stat.parent,
        uid,
        cpu_ms: ticks,
        start_secs: stat.start / hertz,
        tty: tty(stat.tty),
        command,
        token,
    })
}

#[derive(Debug, PartialEq)]
struct Stat {
    name: String,
    parent: i32,
    tty: u64,
    ticks: u64,
    start: u64,
}

/// Parses `/proc/PID/stat` (proc(5)). The name may contain any byte, so the fields are counted from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.split_once(" (")?;
    let (name, fields) = rest.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    // The first field after the name is number 3, the state.
    let field = |number: usize| fields.get(number.checked_sub(3)?).copied();
    let number = |number| field(number)?.parse::<u64>().ok();
    Some(Stat {
        name: name.to_owned(),
        parent: field(4)?.parse().ok()?,
        tty: field(7)?.parse::<i64>().ok()? as u64,
        ticks: number(14)?.saturating_add(number(15)?),
        start: number(22)?,
    })
}

/// Effective user id in `/proc/PID/status`.
fn uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// Name of a terminal by its device number; `?` if the process has none.
fn tty(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        // The eight major numbers of pseudo-terminals.
        136..=143 => format!("pts/{}", (major - 136) * (1 << 20) + minor),
        4 => format!("tty{minor}"),
        5 if minor == 1 => "console".into(),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_are_parsed_from_the_last_parenthesis() {
        let text = "12 (a) b) S 3 4 5 34817 -1 0 0 0 0 0 10 20 0 0 0 0 1 0 999 1";
        let stat = Stat { name: "a) b".into(), parent: 3, tty: 34817, ticks: 30, start: 999 };
        assert_eq!(parse_stat(text), Some(stat));
        for bad in ["", "12", "12 (x", "12 (x) S 3"] {
            assert_eq!(parse_stat(bad), None, "{bad}");
        }
    }

    #[test]
    fn terminals_have_names() {
        assert_eq!([tty(0), tty(34817), tty(0x0501), tty(0x0401)], ["?", "pts/1", "console", "tty1"]);
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text = "254:0 rbytes=10 wbytes=20 rios=1\n254:16 rbytes=5 wbytes=x dbytes=7\n";
        assert_eq!(block(text), (15, 20));
    }

    #[test]
    fn the_own_process_is_described() {
        let pid = std::process::id() as i32;
        let info = process_info(Path::new("/proc"), pid, 100, Some("me".into())).unwrap();
        assert_eq!((info.pid, info.token.as_deref()), (pid, Some("me")));
        assert!(!info.command.is_empty());
        assert!(process_info(Path::new("/proc"), i32::MAX, 100, None).is_none());
    }
}
