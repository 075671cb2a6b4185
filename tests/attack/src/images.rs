//! Kernels and initrds, which a user may have from anywhere.

use hutch_vmm::config::{BootProtocol, ImageLoading};
use hutch_vmm::testing::{load_images, pvh_image, PvhImage};

use crate::files;
use crate::script::Script;

const RAM_MIB: usize = 8;

/// Attacks the loader with a kernel. The first byte chooses how it is entered and brought into memory.
pub fn attack_with_kernel(data: &[u8]) {
    let mut script = Script::new(data);
    let how = script.u8();
    let (_file, kernel) = files::unnamed(script.rest());
    let protocol = if how & 1 == 0 { BootProtocol::Auto } else { BootProtocol::Pvh };
    let loading = if how & 2 == 0 { ImageLoading::Auto } else { ImageLoading::Copy };
    // A refusal is fine.
    drop(load_images(&kernel, None, protocol, loading, RAM_MIB));
}

/// Attacks the loader with an initrd beside a good kernel.
pub fn attack_with_initrd(data: &[u8]) {
    let (_kernel_file, kernel) = files::unnamed(&pvh_image(&PvhImage::default()));
    let (_file, initrd) = files::unnamed(data);
    drop(load_images(&kernel, Some(&initrd), BootProtocol::Auto, ImageLoading::Auto, RAM_MIB));
}
