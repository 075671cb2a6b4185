//! Bulk data through stdin and stdout arrives whole, and hutch's memory does not grow with it.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use hutch_e2e::{quick, Hutch, RootFs};

/// Allowed growth of hutch's memory from the beginning of the stream.
const GROWTH_KIB: u64 = 16 << 10;

fn mib() -> usize {
    let default = if quick() { 64 } else { 256 };
    std::env::var("HUTCH_E2E_STREAM_MIB").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn a_large_stream_comes_out_whole_and_memory_stays_flat() {
    let root = RootFs::new();
    let total = mib() << 20;
    let mut command = Hutch::run(&root).args(["--memory", "256M"]).args(["-i", "--", "/bin/cat"]).into_command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("hutch starts");
    let (mut stdin, mut stdout) = (child.stdin.take().expect("stdin"), child.stdout.take().expect("stdout"));
    let feeder = std::thread::spawn(move || {
        let mut pattern = Pattern::default();
        let mut chunk = vec![0; 1 << 20];
        for _ in 0..total >> 20 {
            pattern.fill(&mut chunk);
            stdin.write_all(&chunk).expect("hutch reads its stdin");
        }
    });
    let (mut pattern, mut seen, mut first, mut most) = (Pattern::default(), 0, None, 0);
    let (mut chunk, mut wanted) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let n = stdout.read(&mut chunk).expect("hutch's stdout can be read");
        if n == 0 {
            break;
        }
        pattern.fill(&mut wanted[..n]);
        assert!(chunk[..n] == wanted[..n], "bytes differ within {n} bytes after byte {seen}");
        seen += n;
        let resident = own_memory_kib(child.id());
        first.get_or_insert(resident);
        most = most.max(resident);
    }
    feeder.join().expect("the feeder ends");
    assert_eq!(seen, total);
    assert!(child.wait().expect("hutch ends").success());
    let first = first.expect("there was output");
    println!("{} MiB each way; hutch beyond guest memory: {first} KiB at first, {most} KiB at most", total >> 20);
    assert!(most <= first + GROWTH_KIB, "memory grew from {first} to {most} KiB");
}

/// If the reader stops reading, the writer blocks and hutch buffers no more data.
#[test]
fn back_pressure_reaches_the_command() {
    let root = RootFs::new();
    let script = "yes | head -c 100000000 | dd bs=64k 2>/dev/null; echo $? > /tmp/done";
    let mut command = Hutch::run(&root).sh(script).into_command();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("hutch starts");
    let mut stdout = child.stdout.take().expect("stdout");
    let mut one = [0];
    stdout.read_exact(&mut one).expect("some output");
    let before = own_memory_kib(child.id());
    std::thread::sleep(Duration::from_secs(3));
    let after = own_memory_kib(child.id());
    assert!(!root.at("/tmp/done").exists(), "the writer ended although the test has not read its output");
    assert!(after <= before + GROWTH_KIB, "memory grew from {before} to {after} KiB");
    let rest = std::io::copy(&mut stdout, &mut std::io::sink()).expect("the rest");
    assert_eq!(rest + 1, 100_000_000);
    assert!(child.wait().expect("hutch ends").success());
}

/// Resident memory of a process without its largest mapping, which is guest memory.
fn own_memory_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let field = |line: &str, name: &str| line.strip_prefix(name)?.split_whitespace().next()?.parse::<u64>().ok();
    let (mut resident, mut largest, mut size) = (0, (0, 0), 0);
    for line in text.lines() {
        size = field(line, "Size:").unwrap_or(size);
        if let Some(kib) = field(line, "Rss:") {
            resident += kib;
            largest = largest.max((size, kib));
        }
    }
    resident - largest.1
}

/// Bytes whose period is a prime number, so that they do not repeat in step with any buffer.
struct Pattern {
    period: Vec<u8>,
    at: usize,
}

impl Default for Pattern {
    fn default() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let byte = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        Pattern { period: (0..65_521).map(byte).collect(), at: 0 }
    }
}

impl Pattern {
    fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let n = bytes.len().min(self.period.len() - self.at);
            let (now, later) = bytes.split_at_mut(n);
            now.copy_from_slice(&self.period[self.at..self.at + n]);
            self.at = (self.at + n) % self.period.len();
            bytes = later;
        }
    }
}
