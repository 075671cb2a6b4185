//! The QEMU process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::anonymous::{self, Inheritance};
use crate::host_root::Directory;
use crate::{TestbedConfig, TestbedError};

const PROGRAM: &str = "qemu-system-x86_64";

/// A started emulated machine. Dropping it ends its processes.
pub struct Machine {
    /// The host's end of the frame port.
    pub port: UnixStream,
    process: Child,
    directories: Vec<Directory>,
    console: File,
    errors: File,
}

impl Machine {
    /// Starts QEMU; returns as soon as the process runs.
    pub fn start(
        config: &TestbedConfig,
        initramfs: File,
        mut directories: Vec<Directory>,
    ) -> Result<Machine, TestbedError> {
        let files = || Ok((anonymous::file(c"console")?, anonymous::file(c"errors")?, UnixStream::pair()?));
        let (console, errors, (port, port_device)) =
            files().map_err(TestbedError::system::<io::Error>("make files for QEMU"))?;
        let copy = |file: &File| file.try_clone().map_err(TestbedError::system("make files for QEMU"));
        let console_device = copy(&console)?;
        let mut command = Command::new(PROGRAM);
        accelerator(&mut command, config);
        base(&mut command, config);
        command.arg("-initrd").arg(anonymous::path_of(anonymous::number(&initramfs)));
        let console_path = anonymous::path_of(anonymous::number(&console_device));
        command.args(["-chardev", &format!("file,id=console,path={console_path}"), "-serial", "chardev:console"]);
        let port_number = anonymous::number(&port_device);
        command.args(["-device", "virtio-serial-pci", "-chardev", &format!("socket,id=port,fd={port_number}")]);
        command.args(["-device", &format!("virtserialport,chardev=port,name={}", hutch_testbed::PORT)]);
        let mut fds: Vec<OwnedFd> = vec![initramfs.into(), console_device.into(), port_device.into()];
        for directory in &mut directories {
            if let Some(socket) = directory.socket.take() {
                let (tag, number) = (&directory.tag, anonymous::number(&socket));
                command.args(["-chardev", &format!("socket,id={tag},fd={number}")]);
                command.args(["-device", &format!("vhost-user-fs-pci,chardev={tag},tag={tag}")]);
                fds.push(socket.into());
            }
        }
        command.stdin(Stdio::null()).stdout(copy(&errors)?).stderr(copy(&errors)?);
        anonymous::bequeath(&mut command, Inheritance { fds, read_only: false });
        let process = command.spawn().map_err(|source| TestbedError::Spawn { program: PROGRAM, source })?;
        Ok(Machine { port, process, directories, console, errors })
    }

    /// What is known of the machine's death, or of what it was last about: QEMU's words, virtiofsd's, the console.
    pub fn last_words(&mut self) -> String {
        // The port closes a moment before the process is gone.
        let status = self.process.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        let mut words = format!("QEMU ended with {status}\n{}", tail(&self.errors, 10));
        self.directories.iter_mut().filter_map(Directory::death_note).for_each(|note| words.push_str(&note));
        words + &self.console_tail()
    }

    /// The last lines of the console.
    pub fn console_tail(&self) -> String {
        match tail(&self.console, 40) {
            text if text.is_empty() => "The console is empty.\n".to_owned(),
            text => format!("The console's last lines:\n{text}"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn accelerator(command: &mut Command, config: &TestbedConfig) {
    let mode = if config.deterministic { "tcg,tb-size=512" } else { "tcg,thread=multi,tb-size=512" };
    command.args(["-accel", mode]);
    if config.deterministic {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
}

fn base(command: &mut Command, config: &TestbedConfig) {
    let (cpus, memory) = (processors(config.cpus).to_string(), config.memory_mib);
    command.args(["-M", "q35,memory-backend=memory", "-cpu", "max,+svm", "-smp", &cpus, "-m", &memory.to_string()]);
    command.args(["-object", &format!("memory-backend-memfd,id=memory,size={memory}M,share=on")]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&config.kernel.vmlinux);
    command.args(["-append", "console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr audit=0"]);
}

/// How many processors QEMU makes for `asked` ones that run the command.
///
/// With several, the first runs no guests and `testbed-init` keeps everybody off it. QEMU's `xrstor` and `fxrstor`, on any
/// processor, clear a flag in a word of the *first* processor's state without regard for what that one does meanwhile
/// (`cpu_clear_ignne`, 7.2). In the same word it keeps the global interrupt flag and whether paging is nested: now and then
/// such a change is lost, and a guest dies of a triple fault or the testbed hears no interrupts any more. A processor on which
/// nobody runs guests never changes that word.
fn processors(asked: u32) -> u32 {
    match asked {
        1 => 1,
        several => several + 1,
    }
}

/// The last `lines` lines of a file as text.
pub fn tail(file: &File, lines: usize) -> String {
    const MOST: u64 = 16 << 10;
    let len = file.metadata().map_or(0, |m| m.len());
    let mut bytes = vec![0; len.min(MOST) as usize];
    if file.read_exact_at(&mut bytes, len.saturating_sub(MOST)).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().map(str::trim_end).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}\n")).collect()
}
