//! The QEMU process.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use crate::anonymous::{self, Inheritance};
use crate::host_root::Directory;
use crate::{TestbedConfig, TestbedError};

const PROGRAM: &str = "qemu-system-x86_64";

/// A started emulated machine. Dropping it ends its processes.
pub(crate) struct Machine {
    /// The host's end of the frame port.
    pub(crate) port: UnixStream,
    process: Child,
    directories: Vec<Directory>,
    console: File,
    errors: File,
}

impl Machine {
    /// Starts QEMU and returns as soon as the process runs.
    pub(crate) fn start(
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

    /// Waits for QEMU's end and collects its output, virtiofsd's and the console's.
    pub(crate) fn last_words(&mut self) -> String {
        // QEMU closes the port shortly before it ends.
        let status = self.process.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
        let mut words = format!("QEMU ended with {status}\n{}", anonymous::tail(&self.errors, 10));
        self.directories.iter_mut().filter_map(Directory::death_note).for_each(|note| words.push_str(&note));
        words + &self.console_tail()
    }

    /// The last lines of the console.
    pub(crate) fn console_tail(&self) -> String {
        match anonymous::tail(&self.console, 40) {
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
    command.args(["-append", &kernel_parameters(config.deterministic)]);
}

/// Parameters of the emulated host's kernel.
///
/// In deterministic time an idle processor polls instead of halting. While it is halted QEMU lets the clock leap to the next
/// timer, which may be seconds away. That is right for a sleep, but not for a request to virtiofsd: virtiofsd answers in the
/// time of this host, and starting a program takes a hundred requests. An idle processor that polls spends the wait on a few
/// instructions, so that the clock does not depend on how soon virtiofsd gets a processor.
fn kernel_parameters(deterministic: bool) -> String {
    let idle = if deterministic { " idle=poll" } else { "" };
    format!("console=ttyS0 quiet panic=-1 reboot=t mitigations=off nokaslr audit=0{idle}")
}

/// Number of processors that QEMU emulates if `asked` of them run the command.
///
/// With several, one more: the first runs no guests, and `testbed-init` keeps all processes off it. The reason is a race in
/// QEMU 7.2: `xrstor` and `fxrstor` on any processor clear a flag in a word of the *first* processor's state without
/// synchronisation (`cpu_clear_ignne`). The same word holds the global interrupt flag and whether paging is nested. If QEMU
/// loses such a change, a guest dies of a triple fault or the testbed gets no more interrupts. A processor that never runs a
/// guest never changes that word.
fn processors(asked: u32) -> u32 {
    match asked {
        1 => 1,
        several => several + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_processor_polls_in_deterministic_time_only() {
        assert!(kernel_parameters(true).split(' ').any(|word| word == "idle=poll"));
        assert!(!kernel_parameters(false).contains("idle="));
    }
}
