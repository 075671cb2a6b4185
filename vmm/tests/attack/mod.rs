//! A hostile guest: scripts for an interpreter that runs on bare metal, and the machine that they attack.

pub mod disks;
pub mod driver;
pub mod files;
pub mod interpreter;
pub mod memory;
pub mod networks;
pub mod probes;
pub mod processors;
pub mod races;
pub mod rings;
pub mod script;
pub mod sockets;
pub mod transport;

use std::path::PathBuf;

use hutch_vmm::config::{BlockConfig, BootProtocol, ConsoleOutput, ShareConfig, VsockConfig};
use hutch_vmm::testing::PvhImage;
use hutch_vmm::{Machine, MachineExit};

use super::guests::{Bench, LOAD, TEST_TIMEOUT};
use script::{Script, RAM_END};

/// MiB of the pluggable region.
const PLUGGABLE_MIB: u64 = 64;

/// Contents of the disk images: 2048 sectors.
pub fn image() -> Vec<u8> {
    b"i a disk".repeat(1 << 17)
}

/// Part of the image of [`Target::padded`], after all scripts: whole blocks of zeroes, which the VMM maps.
pub fn padding() -> std::ops::Range<u64> {
    LOAD + (1 << 20)..LOAD + (2 << 20)
}

/// Buffers of a read of as many sectors as the disk has.
pub fn large_read() -> [driver::Buf; 3] {
    // The guest's memory is zero, which is the header of a read of sector 0.
    let data = RAM_END - (2 << 20);
    [driver::readable(data - 16, 16), driver::writable(data, 1 << 20), driver::writable(data + (1 << 20), 1)]
}

/// A machine with every kind of device, and the script that attacks it.
pub struct Target {
    /// The machine's configuration.
    pub bench: Bench,
    console: PathBuf,
}

impl Target {
    /// A machine whose guest executes `script`.
    pub fn new(script: &Script) -> Self {
        Self::of([interpreter::code(), &script.finish()].concat())
    }

    /// Does the same, with [`padding`] in the guest's image.
    pub fn padded(script: &Script) -> Self {
        let mut code = [interpreter::code(), &script.finish()].concat();
        let end = (padding().end - LOAD) as usize;
        assert!(code.len() < end, "a short script");
        code.resize(end, 0);
        Self::of(code)
    }

    fn of(code: Vec<u8>) -> Self {
        let image = PvhImage { load: LOAD, code: &code, pvh: false, ..PvhImage::default() };
        let mut bench = Bench::with_image(&image);
        let (console, share) = (bench.path("console"), bench.path("share"));
        std::fs::create_dir(&share).expect("a temporary directory");
        std::fs::write(share.join("file"), "contents").expect("a temporary file");
        for name in ["disk", "read-only"] {
            std::fs::write(bench.path(name), self::image()).expect("a temporary file");
        }
        let block = |id: &str, read_only| BlockConfig { id: id.into(), path: bench.path(id), read_only, serial: None };
        let blocks = vec![block("disk", false), block("read-only", true)];
        let config = &mut bench.config;
        config.boot = BootProtocol::Linux64;
        config.memory.size_mib = RAM_END >> 20;
        config.memory.pluggable_mib = PLUGGABLE_MIB;
        config.console.output = ConsoleOutput::File(console.clone());
        config.vsock = Some(VsockConfig { guest_cid: 3 });
        config.shares = vec![ShareConfig {
            id: "fs".into(),
            tag: "fs".into(),
            path: share,
            read_only: false,
            only: None,
            policy: Default::default(),
        }];
        config.blocks = blocks;
        config.block_slots = 1;
        config.rng = true;
        Self { bench, console }
    }

    /// Waits until the guest powers off. Panics with what failed.
    pub fn wait(&self, script: &Script, machine: &Machine) {
        let exit = machine.wait(Some(TEST_TIMEOUT * 5));
        let output = String::from_utf8_lossy(&std::fs::read(&self.console).expect("a console")).into_owned();
        let failures = script.failures(&output);
        assert!(failures.is_empty(), "{} checks failed:\n{}", failures.len(), failures.join("\n"));
        assert_eq!(exit, Some(MachineExit::PowerOff), "in or after {:?}", script.last_case(&output));
    }

    /// The output of the guest to the console.
    pub fn output(&self) -> Vec<u8> {
        std::fs::read(&self.console).expect("a console")
    }

    /// Whether the share has its one file, with its contents.
    pub fn share_is_unchanged(&self) -> bool {
        let share = self.bench.path("share");
        let names: Vec<_> = std::fs::read_dir(&share).expect("a share").filter_map(Result::ok).collect();
        names.len() == 1 && std::fs::read_to_string(share.join("file")).is_ok_and(|text| text == "contents")
    }

    /// Contents of the disk that the guest may write.
    pub fn disk(&self) -> Vec<u8> {
        std::fs::read(self.bench.path("disk")).expect("an image")
    }
}
