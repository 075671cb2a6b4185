//! Kernel modules of the initramfs, for kernels that do not have everything built in. Main thread, at start.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{finit_module, ModuleInitFlags};

use crate::log::{self, Level};

/// Loads what `dir/order` lists, one file name per line, in that order. No such file: nothing to do. A module that
/// fails is logged with its name; the rest may still do.
pub fn load_all(dir: &Path) {
    let order = match fs::read_to_string(dir.join("order")) {
        Ok(order) => order,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return log::write(Level::Error, format_args!("module list {}: {error}", dir.display())),
    };
    for name in names(&order) {
        if let Err(errno) = load(&dir.join(name)) {
            log::write(Level::Error, format_args!("module {name} not loaded: {}", errno.desc()));
        }
    }
}

/// The file names in an order file; blank lines and `#` comments do not count.
fn names(order: &str) -> impl Iterator<Item = &str> {
    order.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn load(path: &Path) -> Result<(), Errno> {
    let file = File::open(path).map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    match finit_module(file, c"", ModuleInitFlags::empty()) {
        // Built in, or loaded as somebody's dependency.
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_files_may_have_blank_lines_and_comments() {
        let order = "vsock.ko\n\n# trio\n  vmw_vsock_virtio_transport.ko \n";
        assert_eq!(names(order).collect::<Vec<_>>(), ["vsock.ko", "vmw_vsock_virtio_transport.ko"]);
    }

    #[test]
    fn no_order_file_is_no_work() {
        load_all(Path::new("/nonexistent"));
    }
}
