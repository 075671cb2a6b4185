//! Measures two functions in turn, so that disturbances on the machine affect both.

use std::fmt;
use std::time::{Duration, Instant};

/// Result of a measured step.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Median and quartiles of the times of a call, and its counts.
#[derive(Clone)]
pub struct Row {
    name: &'static str,
    call: [Duration; 3],
    peer: [Duration; 3],
    /// Read and write calls of one round.
    reads: u64,
    writes: u64,
}

impl Row {
    /// Titles of the columns that [`Row`]'s `Display` prints.
    pub fn header() -> String {
        format!(
            "{:<28} {:>10} {:>17} {:>10} {:>6} {:>6} {:>6}",
            "call", "median", "quartiles", "peer", "ratio", "reads", "writes"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let spread = format!("{:.0}-{:.0}", us(self.call[0]), us(self.call[2]));
        let ratio = us(self.call[1]) / us(self.peer[1]);
        write!(
            f,
            "{:<28} {:>7.0} us {:>14} us {:>7.0} us {:>6.2} {:>6} {:>6}",
            self.name,
            us(self.call[1]),
            spread,
            us(self.peer[1]),
            ratio,
            self.reads,
            self.writes
        )
    }
}

/// Runs `call` and `peer` in turn; the first tenth is warm-up. Stops at the first failure.
pub fn measure<T, E: Into<Box<dyn std::error::Error>>>(
    name: &'static str,
    rounds: usize,
    call: impl Fn() -> Result<T, E>,
    peer: impl Fn(usize) -> Outcome,
) -> Result<Row, Box<dyn std::error::Error>> {
    let (mut calls, mut peers, mut counts) = (Vec::new(), Vec::new(), (0, 0));
    let warm_up = rounds.div_ceil(10);
    for round in 0..rounds + warm_up {
        let before = io_calls()?;
        let begin = Instant::now();
        call().map_err(Into::into)?;
        let time = begin.elapsed();
        let after = io_calls()?;
        let begin = Instant::now();
        peer(round)?;
        if round >= warm_up {
            calls.push(time);
            peers.push(begin.elapsed());
            // Reading the counters is itself counted; see below.
            counts = (after.0 - before.0, after.1 - before.1);
        }
    }
    let own = {
        let before = io_calls()?;
        let after = io_calls()?;
        (after.0 - before.0, after.1 - before.1)
    };
    Ok(Row {
        name,
        call: quartiles(&mut calls),
        peer: quartiles(&mut peers),
        reads: counts.0.saturating_sub(own.0),
        writes: counts.1.saturating_sub(own.1),
    })
}

/// First quartile, median and third quartile.
pub fn quartiles(times: &mut [Duration]) -> [Duration; 3] {
    times.sort();
    [1, 2, 3].map(|quarter| times[(times.len() - 1) * quarter / 4])
}

/// Read and write calls of this process so far (proc(5), `/proc/PID/io`).
fn io_calls() -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.ok_or_else(|| format!("/proc/self/io has no {name}"))
    };
    Ok((field("syscr:")?, field("syscw:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_those_of_the_sorted_times() {
        let mut times = [5, 1, 4, 2, 3].map(Duration::from_millis);
        assert_eq!(quartiles(&mut times), [2, 3, 4].map(Duration::from_millis));
    }

    #[test]
    fn reads_of_a_call_are_counted() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), "x").unwrap();
        let row = measure("read", 10, || std::fs::read(path.path()), |_| Ok(())).unwrap();
        assert!((1..=3).contains(&row.reads) && row.writes == 0, "{} {}", row.reads, row.writes);
    }
}
