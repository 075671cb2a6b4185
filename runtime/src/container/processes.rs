//! ListProcesses (pod contract, §7.9).

use std::fmt::Write as _;
use std::str::FromStr;

use hutch_agent_proto::{ProcessInfo, Request, Response};

use crate::container::ids;
use crate::error::{Error, Result};
use crate::pod::{unexpected, OpenPod};
use crate::runtime::Runtime;
use crate::verb::Verb;

/// Form of a process list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListFormat {
    /// A JSON array.
    Json,
    /// Columns with a header, as ps(1) prints them.
    #[default]
    Table,
}

impl FromStr for ListFormat {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidConfig`] for anything but `json` and `table` (P-150).
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "json" => Ok(ListFormat::Json),
            "table" => Ok(ListFormat::Table),
            _ => Err(Error::invalid(format!("process list format {text:?}"), "is unknown; use json or table")),
        }
    }
}

/// How to list processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListProcessesOptions {
    /// `json` or `table`; empty is `table`.
    pub format: String,
    /// As for ps(1): `-ef` (if empty), `aux`, or `-o` with columns (`pid,ppid,uid,user,tty,time,stime,cmd,args,comm`).
    pub args: Vec<String>,
}

/// A column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Uid,
    Pid,
    Ppid,
    Start,
    Tty,
    Time,
    Command,
    Name,
}

impl Column {
    const FULL: [Column; 7] =
        [Column::Uid, Column::Pid, Column::Ppid, Column::Start, Column::Tty, Column::Time, Column::Command];
    const AUX: [Column; 6] = [Column::Uid, Column::Pid, Column::Tty, Column::Start, Column::Time, Column::Command];

    fn parse(name: &str) -> Result<Self> {
        Ok(match name.trim().to_ascii_lowercase().as_str() {
            "uid" | "user" | "euid" => Column::Uid,
            "pid" => Column::Pid,
            "ppid" => Column::Ppid,
            "stime" | "start" | "lstart" => Column::Start,
            "tty" | "tt" => Column::Tty,
            "time" | "cputime" => Column::Time,
            "cmd" | "args" | "command" => Column::Command,
            "comm" => Column::Name,
            other => return Err(Error::invalid(format!("process list column {other:?}"), "is unknown")),
        })
    }

    fn title(self) -> &'static str {
        match self {
            Column::Uid => "UID",
            Column::Pid => "PID",
            Column::Ppid => "PPID",
            Column::Start => "STIME",
            Column::Tty => "TTY",
            Column::Time => "TIME",
            Column::Command => "CMD",
            Column::Name => "COMMAND",
        }
    }

    fn text(self, info: &ProcessInfo) -> String {
        let clock = |secs: u64| format!("{:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60);
        match self {
            Column::Uid => info.uid.to_string(),
            Column::Pid => info.pid.to_string(),
            Column::Ppid => info.ppid.to_string(),
            Column::Start => clock(info.start_secs),
            Column::Tty => info.tty.clone(),
            Column::Time => clock(info.cpu_ms / 1000),
            Column::Command => info.command.clone(),
            Column::Name => {
                let program = info.command.split(' ').next().unwrap_or_default();
                program.rsplit('/').next().unwrap_or_default().to_owned()
            }
        }
    }
}

impl ListProcessesOptions {
    /// Checks the options before the guest is asked (P-150).
    fn parse(&self) -> Result<(ListFormat, Vec<Column>)> {
        let format = if self.format.is_empty() { ListFormat::Table } else { self.format.parse()? };
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let columns = match args.as_slice() {
            [] | ["-ef"] | ["-e", "-f"] | ["-eF"] => Column::FULL.to_vec(),
            ["aux"] | ["-aux"] => Column::AUX.to_vec(),
            ["-o", list] | ["-e", "-o", list] | ["-eo", list] => {
                list.split(',').map(Column::parse).collect::<Result<_>>()?
            }
            _ => {
                let what = format!("process list arguments {:?}", self.args.join(" "));
                return Err(Error::invalid(what, "are not supported; use -ef, aux, or -o with columns"));
            }
        };
        Ok((format, columns))
    }
}

impl Runtime {
    /// The processes of a running container in a running pod, as bytes to be printed unmodified (P-150).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for unknown options, before the guest is asked; [`Error::WrongState`]; an error of the
    /// agent.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # use hutch_runtime::ListProcessesOptions;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// runtime.run_pod(host.pod("web", &["server"]))?;
    /// let table = runtime.list_processes("web", "server", &ListProcessesOptions::default())?;
    /// assert!(table.starts_with(b"UID"));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn list_processes(&self, pod: &str, container: &str, options: &ListProcessesOptions) -> Result<Vec<u8>> {
        let (pod, container) = ids(pod, container)?;
        let (format, columns) = options.parse()?;
        let mut pod = OpenPod::shared(self, &pod)?;
        let state = pod.find(&container)?.state.state;
        Verb::ListProcesses.check_pod(pod.id.as_str(), pod.state.state)?;
        Verb::ListProcesses.check_container(container.as_str(), state)?;
        match pod.sandbox.call("list-processes", Request::ListProcesses { id: container.to_string() })? {
            Response::Processes(list) => Ok(render(&list, format, &columns)),
            _ => Err(unexpected("list-processes")),
        }
    }
}

fn render(list: &[ProcessInfo], format: ListFormat, columns: &[Column]) -> Vec<u8> {
    if format == ListFormat::Json {
        // Plain data: strings and numbers only.
        return serde_json::to_vec(list).unwrap_or_default();
    }
    let header: Vec<String> = columns.iter().map(|column| column.title().to_owned()).collect();
    let lines = list.iter().map(|info| columns.iter().map(|column| column.text(info)).collect());
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(lines).collect();
    let widths: Vec<usize> =
        (0..columns.len()).map(|c| rows.iter().map(|row| row[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let last = row.len().saturating_sub(1);
        for (number, cell) in row.iter().enumerate() {
            let _ = match number == last {
                true => writeln!(text, "{cell}"),
                false => write!(text, "{cell:<width$} ", width = widths[number]),
            };
        }
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> ProcessInfo {
        ProcessInfo {
            pid: 12,
            ppid: 1,
            uid: 0,
            cpu_ms: 61_500,
            start_secs: 3,
            tty: "?".into(),
            command: "/bin/server --port 80".into(),
            token: None,
        }
    }

    #[test]
    fn p_150_columns_are_aligned_and_chosen() {
        let (format, columns) = ListProcessesOptions::default().parse().unwrap();
        let text = String::from_utf8(render(&[info()], format, &columns)).unwrap();
        assert_eq!(
            text,
            "UID PID PPID STIME    TTY TIME     CMD\n0   12  1    00:00:03 ?   00:01:01 /bin/server --port 80\n"
        );
        let options = ListProcessesOptions { args: vec!["-o".into(), "pid,comm".into()], ..Default::default() };
        let (format, columns) = options.parse().unwrap();
        assert_eq!(render(&[info()], format, &columns), b"PID COMMAND\n12  server\n");
    }

    #[test]
    fn p_150_json_is_the_list() {
        let options = ListProcessesOptions { format: "json".into(), ..Default::default() };
        let (format, columns) = options.parse().unwrap();
        let list: Vec<ProcessInfo> = serde_json::from_slice(&render(&[info()], format, &columns)).unwrap();
        assert_eq!(list, [info()]);
    }

    #[test]
    fn p_150_unknown_options_are_refused() {
        for options in [
            ListProcessesOptions { format: "xml".into(), ..Default::default() },
            ListProcessesOptions { args: vec!["-z".into()], ..Default::default() },
            ListProcessesOptions { args: vec!["-o".into(), "pid,colour".into()], ..Default::default() },
        ] {
            assert_eq!(options.parse().unwrap_err().kind(), crate::ErrorKind::InvalidConfig, "{options:?}");
        }
    }
}
