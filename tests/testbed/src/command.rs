//! Runs the job's command and relays its stdio, with one thread per stream.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{channel, Sender};
use std::time::Duration;

use hutch_testbed::{Frame, Job, MAX_DATA};
use nix::fcntl::{fcntl, FcntlArg, FdFlag, OFlag};
use nix::pty::Winsize;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;

use crate::{send, Port, Result};

/// Limit for draining the output after the command and all its children are dead.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);

/// Our end of the command's stdin.
enum Input {
    None,
    Pipe(File),
    Terminal(File),
}

/// Runs the command to its end and returns its exit code, 128 + n for signal n, 126 or 127 if it could not start.
pub(crate) fn run(job: &Job, reader: File, port: &Port) -> Result<u8> {
    let (done, finished) = channel();
    let mut command = command_of(job)?;
    let (input, outputs) = connect(job, &mut command)?;
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = job.args[0].to_string_lossy();
            send(port, &Frame::Stderr(format!("testbed: cannot run {program}: {error}\n").into_bytes()))?;
            return Ok(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 });
        }
    };
    drop(command); // our copies of the command's ends of the pipes
    send(port, &Frame::Started)?;
    let relays = outputs.len();
    for (output, frame) in outputs {
        relay_output(output, frame, port.clone(), done.clone());
    }
    std::thread::spawn(move || relay_input(reader, input));
    let code = reap(Pid::from_raw(child.id() as i32))?;
    // The machine ends with its command. Processes that still run would keep the pipes open.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    for _ in 0..relays {
        if finished.recv_timeout(DRAIN_TIMEOUT).is_err() {
            return Err("a process that cannot be killed keeps the command's output open".into());
        }
    }
    Ok(code)
}

fn command_of(job: &Job) -> Result<Command> {
    let (program, args) = job.args.split_first().ok_or("the job has no command")?;
    let mut command = Command::new(program);
    command.args(args).env_clear();
    for var in &job.env {
        let text = var.as_bytes();
        let split = text.iter().position(|b| *b == b'=').ok_or("an environment entry of the job has no '='")?;
        command.env(OsStr::from_bytes(&text[..split]), OsStr::from_bytes(&text[split + 1..]));
    }
    command.current_dir(&job.cwd);
    Ok(command)
}

type Wrap = fn(Vec<u8>) -> Frame;

/// Connects the command's stdio. Returns our ends: one for input, and each output with its kind of frame.
fn connect(job: &Job, command: &mut Command) -> Result<(Input, Vec<(File, Wrap)>)> {
    if let Some((rows, cols)) = job.terminal {
        return connect_terminal(command, rows, cols);
    }
    let (out_read, out_write) = pipe()?;
    let (err_read, err_write) = pipe()?;
    command.stdout(out_write).stderr(err_write);
    let input = if job.stdin {
        let (read, write) = pipe()?;
        command.stdin(read);
        Input::Pipe(write.into())
    } else {
        command.stdin(Stdio::null());
        Input::None
    };
    leave_session(command, false);
    Ok((input, vec![(out_read.into(), Frame::Stdout as Wrap), (err_read.into(), Frame::Stderr as Wrap)]))
}

/// A pipe whose ends the command inherits only as its stdio.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| format!("cannot make a pipe: {e}").into())
}

fn connect_terminal(command: &mut Command, rows: u16, cols: u16) -> Result<(Input, Vec<(File, Wrap)>)> {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(&size, None).map_err(|e| format!("cannot make a terminal: {e}"))?;
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| format!("cannot set up the terminal: {e}"))?;
    }
    command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(pty.slave);
    leave_session(command, true);
    let master = File::from(pty.master);
    Ok((Input::Terminal(master.try_clone()?), vec![(master, Frame::Stdout as Wrap)]))
}

#[expect(unsafe_code, reason = "code between fork and exec")]
fn leave_session(command: &mut Command, terminal: bool) {
    let between = move || {
        nix::unistd::setsid()?;
        if terminal {
            // SAFETY: TIOCSCTTY takes a plain number; stdin is the terminal by now.
            unsafe { set_controlling_terminal(0, 0) }?;
        }
        Ok(())
    };
    // SAFETY: only system calls, no allocation and no locks.
    unsafe { command.pre_exec(between) };
}

fn relay_output(mut output: File, frame: Wrap, port: Port, done: Sender<()>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; MAX_DATA];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    if let Err(error) = send(&port, &frame(buffer[..n].to_vec())) {
                        eprintln!("testbed-init: {error}");
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // After its last user is gone, a terminal returns EIO.
                Err(_) => break,
            }
        }
        let _ = done.send(());
    });
}

fn relay_input(mut port: File, mut input: Input) {
    loop {
        match (Frame::read_from(&mut port), &mut input) {
            (Ok(Frame::Stdin(data)), Input::Pipe(pipe)) => {
                // An empty frame is the end of input; a failed write means that the command closed its stdin.
                if data.is_empty() || pipe.write_all(&data).is_err() {
                    input = Input::None;
                }
            }
            (Ok(Frame::Stdin(data)), Input::Terminal(terminal)) => {
                let end_of_text = [4];
                let bytes = if data.is_empty() { &end_of_text[..] } else { &data[..] };
                let _ = terminal.write_all(bytes);
            }
            (Ok(Frame::Resize(rows, cols)), Input::Terminal(terminal)) => resize(terminal, rows, cols),
            (Ok(_), _) => {}
            (Err(error), _) => {
                eprintln!("testbed-init: {error}");
                return;
            }
        }
    }
}

#[expect(unsafe_code, reason = "no crate in the tree wraps this ioctl")]
fn resize(terminal: &File, rows: u16, cols: u16) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and `size` outlives the call. The call fails if the terminal is gone, which is harmless.
    let _ = unsafe { set_window_size(terminal.as_raw_fd(), &size) };
}

/// Reaps everything, as pid 1 must, until `child` has ended.
fn reap(child: Pid) -> Result<u8> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(code as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => return Ok((128 + signal as i32) as u8),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(format!("waiting for the command: {error}").into()),
        }
    }
}
