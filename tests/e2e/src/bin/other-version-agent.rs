//! An agent of another protocol version: pid 1 of a guest that says hello with a version hutch does not support. A test
//! puts this static program into an initramfs. Like the real agent, it loads the modules in the initramfs.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;

use hutch_agent_proto::{write_frame, Hello, Open, HOST_CID, HOST_PORT, PROTOCOL_VERSION};
use nix::kmod::{finit_module, ModuleInitFlags};
use nix::mount::{mount, MsFlags};
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, VsockAddr};

fn main() {
    if let Err(error) = greet() {
        eprintln!("other-version-agent: {error}");
    }
    // The host closes the connection; otherwise its test times out.
    loop {
        std::thread::park();
    }
}

fn greet() -> Result<(), Box<dyn Error>> {
    for (fstype, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        fs::create_dir_all(target)?;
        // The kernel may have mounted devtmpfs already.
        let _ = mount(Some(fstype), target, Some(fstype), MsFlags::empty(), None::<&str>);
    }
    let dir = Path::new("/modules");
    for name in fs::read_to_string(dir.join("order")).unwrap_or_default().lines() {
        let _ = finit_module(File::open(dir.join(name))?, c"", ModuleInitFlags::empty());
    }
    let host = socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(host.as_raw_fd(), &VsockAddr::new(HOST_CID, HOST_PORT))?;
    let mut host = File::from(host);
    write_frame(&mut host, &Open::Control)?;
    let program = "other-version-agent".to_owned();
    write_frame(&mut host, &Hello { version: PROTOCOL_VERSION + 1, program, kernel: String::new() })?;
    std::io::copy(&mut host, &mut std::io::sink())?;
    Ok(())
}
