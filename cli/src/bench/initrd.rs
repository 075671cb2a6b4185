//! The initrd of a bench guest: one `/init` of a few hundred bytes, part of this program so that a measurement needs no
//! other files.

/// Machine code of `resources/bench/init.S`, position-independent, entry at its first byte.
#[rustfmt::skip]
const INIT_CODE: [u8; 296] = [
    0x48, 0x89, 0xe5, 0xb8, 0xad, 0x00, 0x00, 0x00, 0xbf, 0xe9, 0x00, 0x00, 0x00, 0xbe, 0x01, 0x00, 0x00, 0x00, 0xba, 0x01,
    0x00, 0x00, 0x00, 0x0f, 0x05, 0x85, 0xc0, 0x75, 0x04, 0xb0, 0x49, 0xe6, 0xe9, 0x41, 0xbc, 0x01, 0x00, 0x00, 0x00, 0xb8,
    0x02, 0x00, 0x00, 0x00, 0x48, 0x8d, 0x3d, 0xd7, 0x00, 0x00, 0x00, 0xbe, 0x01, 0x00, 0x00, 0x00, 0x31, 0xd2, 0x0f, 0x05,
    0x85, 0xc0, 0x78, 0x03, 0x41, 0x89, 0xc4, 0x48, 0x81, 0xec, 0x80, 0x00, 0x00, 0x00, 0xb8, 0xe4, 0x00, 0x00, 0x00, 0xbf,
    0x01, 0x00, 0x00, 0x00, 0x48, 0x89, 0xe6, 0x0f, 0x05, 0x48, 0x8b, 0x04, 0x24, 0x48, 0x69, 0xc0, 0x00, 0xca, 0x9a, 0x3b,
    0x48, 0x03, 0x44, 0x24, 0x08, 0x48, 0x8d, 0x74, 0x24, 0x78, 0xc6, 0x06, 0x0a, 0xb9, 0x0a, 0x00, 0x00, 0x00, 0x31, 0xd2,
    0x48, 0xf7, 0xf1, 0x80, 0xc2, 0x30, 0x48, 0xff, 0xce, 0x88, 0x16, 0x48, 0x85, 0xc0, 0x75, 0xee, 0x48, 0x8d, 0x1d, 0x99,
    0x00, 0x00, 0x00, 0xb9, 0x14, 0x00, 0x00, 0x00, 0x48, 0xff, 0xce, 0x48, 0xff, 0xcb, 0x8a, 0x03, 0x88, 0x06, 0xff, 0xc9,
    0x75, 0xf2, 0x48, 0x8d, 0x54, 0x24, 0x79, 0x48, 0x29, 0xf2, 0x44, 0x89, 0xe7, 0xb8, 0x01, 0x00, 0x00, 0x00, 0x0f, 0x05,
    0x48, 0x8d, 0x5d, 0x08, 0x48, 0x8b, 0x03, 0x48, 0x85, 0xc0, 0x74, 0x1c, 0x48, 0x83, 0xc3, 0x08, 0x48, 0xb9, 0x62, 0x65,
    0x6e, 0x63, 0x68, 0x68, 0x6f, 0x6c, 0x48, 0x39, 0x08, 0x75, 0xe5, 0xb8, 0x22, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xeb, 0xf7,
    0xb8, 0xa9, 0x00, 0x00, 0x00, 0xbf, 0xad, 0xde, 0xe1, 0xfe, 0xbe, 0x69, 0x19, 0x12, 0x28, 0xba, 0xdc, 0xfe, 0x21, 0x43,
    0x0f, 0x05, 0xb8, 0xa9, 0x00, 0x00, 0x00, 0xbf, 0xad, 0xde, 0xe1, 0xfe, 0xbe, 0x69, 0x19, 0x12, 0x28, 0xba, 0x67, 0x45,
    0x23, 0x01, 0x0f, 0x05, 0xeb, 0xc9, 0x2f, 0x64, 0x65, 0x76, 0x2f, 0x6b, 0x6d, 0x73, 0x67, 0x00, 0x3c, 0x31, 0x3e, 0x68,
    0x75, 0x74, 0x63, 0x68, 0x2d, 0x62, 0x65, 0x6e, 0x63, 0x68, 0x2d, 0x69, 0x6e, 0x69, 0x74, 0x20,
];

/// Load address of the program.
const BASE: u64 = 0x40_0000;
/// Size of the ELF header and one program header.
const HEADERS: u64 = 64 + 56;

/// An x86-64 ELF executable around `INIT_CODE`: one read-execute segment.
fn init_elf() -> Vec<u8> {
    let size = HEADERS + INIT_CODE.len() as u64;
    let mut elf = Vec::with_capacity(size as usize);
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 62] {
        elf.extend_from_slice(&half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    elf.extend_from_slice(&1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes()); // entry, program headers, no sections
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
    elf.extend_from_slice(&5u32.to_le_bytes()); // read, execute
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    elf.extend_from_slice(&INIT_CODE);
    elf
}

/// The initrd: a cpio archive in "newc" form with `/dev/console`, `/dev/kmsg` and `/init`.
pub fn bench_initrd() -> Vec<u8> {
    let mut archive = Vec::new();
    // Mode, device major and minor: the kernel opens /dev/console for init before anything is mounted.
    entry(&mut archive, "dev", 0o040_755, (0, 0), &[]);
    entry(&mut archive, "dev/console", 0o020_600, (5, 1), &[]);
    entry(&mut archive, "dev/kmsg", 0o020_600, (1, 11), &[]);
    entry(&mut archive, "init", 0o100_755, (0, 0), &init_elf());
    entry(&mut archive, "TRAILER!!!", 0, (0, 0), &[]);
    archive
}

/// Appends one file in cpio newc form (kernel document "initramfs buffer format").
fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, (major, minor): (u32, u32), data: &[u8]) {
    let inode = archive.len() as u32;
    let fields = [inode, mode, 0, 0, 1, 0, data.len() as u32, 0, 0, major, minor, name.len() as u32 + 1, 0];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(data);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    /// The bytes in this file are the assembled source file.
    #[test]
    fn code_is_its_source_assembled() {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../resources/bench/init.S");
        let (elf, bin) = (dir.path().join("init"), dir.path().join("init.bin"));
        let cc = Command::new("cc")
            .args(["-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-N", "-o"])
            .args([elf.as_os_str(), source.as_ref()])
            .output()
            .expect("a C compiler, which Rust needs for linking too");
        assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
        let objcopy =
            Command::new("objcopy").args(["-O", "binary", "-j", ".text"]).args([&elf, &bin]).status().unwrap();
        assert!(objcopy.success());
        assert_eq!(std::fs::read(&bin).unwrap(), INIT_CODE);
    }

    /// Init is an ordinary Linux program: run it as a user who may not write /dev/kmsg, and read its line.
    #[test]
    fn init_prints_its_line_and_holds() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        std::fs::write(&path, init_elf()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        // `benchhold` is essential: without it the program would power off the machine.
        let mut command = Command::new(&path);
        command.args(["quiet", "benchhold"]).stdout(Stdio::piped());
        if nix::unistd::geteuid().is_root() {
            use std::os::unix::process::CommandExt;
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
            command.uid(65534).gid(65534);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let clock = line.strip_prefix("<1>").and_then(|l| l.strip_prefix(crate::bench::target::INIT_LINE));
        assert!(clock.expect("the line's prefix").trim().parse::<u64>().unwrap() > 0);
        assert!(child.try_wait().unwrap().is_none(), "it waits");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_archive_is_a_small_cpio() {
        let archive = bench_initrd();
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(archive.windows(6).filter(|w| w == b"070701").count(), 5);
        assert!(archive.len() < 2048, "{} bytes", archive.len());
    }
}
