//! The testbed's initramfs: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use hutch_testbed::{Job, JOB_FILE, MODULE_DIR};

use crate::kernel::Kernel;
use crate::{anonymous, TestbedError};

/// Modules that the emulated host loads, with their dependencies, unless they are built in.
const MODULES: [&str; 5] = ["overlay", "kvm-amd", "tun", "vhost_net", "vhost_vsock"];

/// Writes the archive to an anonymous file.
pub(crate) fn build(init: &Path, kernel: &Kernel, job: &Job) -> Result<File, TestbedError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|source| TestbedError::Initramfs { path: path.into(), source });
    let init = read(init)?;
    let mut modules = Vec::new();
    if let Some(dir) = &kernel.modules {
        let list = dir.join("modules.dep");
        let list = String::from_utf8_lossy(&read(&list)?).into_owned();
        for path in load_order(&list, &MODULES) {
            let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
            modules.push((name, read(&dir.join(&path))?));
        }
    }
    let write = || -> io::Result<File> {
        let file = anonymous::file(c"initramfs")?;
        let mut archive = Archive { out: BufWriter::new(file), next_inode: 1 };
        for dir in ["dev", "proc", "sys", "host", "layer", "root", MODULE_DIR] {
            archive.entry(dir, 0o040755, &[])?;
        }
        archive.entry("init", 0o100755, &init)?;
        archive.entry(JOB_FILE, 0o100644, &job.encode())?;
        let order: String = modules.iter().map(|(name, _)| format!("{name}\n")).collect();
        archive.entry(&format!("{MODULE_DIR}/order"), 0o100644, order.as_bytes())?;
        for (name, bytes) in &modules {
            archive.entry(&format!("{MODULE_DIR}/{name}"), 0o100644, bytes)?;
        }
        archive.finish()
    };
    write().map_err(TestbedError::system("write the initramfs"))
}

/// The files behind `wanted` and their dependencies, in the order to load them, by depmod's text file `list`.
/// Each of its lines is `file: dependency…` with all dependencies, the deepest last. A module without a line is built in.
fn load_order(list: &str, wanted: &[&str]) -> Vec<String> {
    let stem = |path: &str| path.rsplit('/').next().unwrap_or(path).trim_end_matches(".ko").replace('-', "_");
    let mut order: Vec<String> = Vec::new();
    for name in wanted {
        let wanted = name.replace('-', "_");
        let Some((file, needs)) = list.lines().filter_map(|l| l.split_once(':')).find(|(f, _)| stem(f) == wanted)
        else {
            continue;
        };
        for path in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    order
}

struct Archive<W: Write> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    /// Appends a file or directory. `mode` has the type in its high bits, as in `st_mode`.
    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let size = u32::try_from(data.len()).map_err(|_| io::Error::other(format!("{path} is too large")))?;
        let (inode, links, name_size) = (self.next_inode, 1, path.len() as u32 + 1);
        self.next_inode += 1;
        write!(self.out, "070701")?;
        // inode, mode, uid, gid, links, mtime, size, device ×2, special device ×2, name's size, checksum
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            write!(self.out, "{field:08x}")?;
        }
        const HEADER: usize = 6 + 13 * 8;
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(HEADER + path.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() % 4])
    }
}

impl Archive<BufWriter<File>> {
    fn finish(mut self) -> io::Result<File> {
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.out.into_inner()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let list = "kernel/kvm-amd.ko: kernel/kvm.ko kernel/irqbypass.ko\nkernel/kvm.ko: kernel/irqbypass.ko\n\
                    kernel/tun.ko:\nkernel/vhost_net.ko: kernel/tun.ko kernel/vhost.ko kernel/iotlb.ko\n";
        let order = load_order(list, &["overlay", "kvm_amd", "tun", "vhost-net"]);
        let names = ["irqbypass", "kvm", "kvm-amd", "tun", "iotlb", "vhost", "vhost_net"];
        assert_eq!(order, names.map(|n| format!("kernel/{n}.ko")));
    }

    #[test]
    fn entries_are_aligned_and_described() {
        let mut archive = Archive { out: Vec::new(), next_inode: 1 };
        archive.entry("/init", 0o100755, b"12345").unwrap();
        archive.entry("dir", 0o040755, b"").unwrap();
        let bytes = archive.out;
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6 + 8..6 + 16], b"000081ed");
        assert_eq!(&bytes[6 + 6 * 8..6 + 7 * 8], b"00000005");
        assert_eq!(&bytes[110..115], b"init\0");
        let data = (110usize + 5).next_multiple_of(4);
        assert_eq!(&bytes[data..data + 5], b"12345");
        assert_eq!(&bytes[(data + 5).next_multiple_of(4)..][..6], b"070701");
    }
}
