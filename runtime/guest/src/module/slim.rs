//! Removes parts of a module that cost load time and that a guest does not use.
//!
//! The *signature*: the kernel verifies 4096-bit RSA, ten times in each boot, which is nine tenths of the load time.
//! The modules were verified before: by apt's signed index, or as the host's own files. A kernel that requires
//! signatures ([`insists_on_signatures`]) keeps them. The price is the flag E in the guest's
//! `/proc/sys/kernel/tainted`.
//!
//! The *BTF section*, types for BPF programs that trace the module: a third of the remaining load time.

use object::elf::FileHeader64;
use object::read::elf::FileHeader as _;
use object::LittleEndian;

/// The last bytes of a signed file (Linux kernel/module_signature.c).
const MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature` before them: lengths of a signer's name and a key's id in bytes 3 and 4, the signature's
/// length, big-endian, in its last four.
const TRAILER: usize = 12;

/// Whether a kernel of this configuration loads signed modules only.
pub(crate) fn insists_on_signatures(dot_config: &str) -> bool {
    dot_config.lines().any(|line| {
        matches!(
            line.trim(),
            "CONFIG_MODULE_SIG_FORCE=y"
                | "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY=y"
                | "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY=y"
        )
    })
}

/// Removes a well-formed signature.
pub(super) fn drop_signature(module: &mut Vec<u8>) {
    if let Some(length) = unsigned_length(module) {
        module.truncate(length);
    }
}

fn unsigned_length(module: &[u8]) -> Option<usize> {
    let signed = module.strip_suffix(MAGIC)?;
    let (rest, trailer) = signed.split_at_checked(signed.len().checked_sub(TRAILER)?)?;
    let [_, _, _, signer, key, _, _, _, a, b, c, d] = *trailer else { return None };
    let signature = u32::from_be_bytes([a, b, c, d]) as usize;
    rest.len().checked_sub(signature)?.checked_sub(usize::from(signer))?.checked_sub(usize::from(key))
}

/// Hides the BTF section from the kernel, which looks it up by name: the name becomes the empty one.
pub(super) fn hide_types(module: &mut [u8]) {
    for at in type_section_names(module).unwrap_or_default() {
        if let Some(name) = module.get_mut(at..at + 4) {
            name.fill(0);
        }
    }
}

/// Offsets of the `sh_name` fields of the BTF sections.
fn type_section_names(module: &[u8]) -> Option<Vec<usize>> {
    let header = FileHeader64::<LittleEndian>::parse(module).ok()?;
    let start = usize::try_from(header.e_shoff(LittleEndian)).ok()?;
    let size = usize::from(header.e_shentsize(LittleEndian));
    let sections = header.sections(LittleEndian, module).ok()?;
    let is_types = |index: usize| {
        let section = sections.section(object::SectionIndex(index)).ok()?;
        let name = sections.section_name(LittleEndian, section).ok()?;
        matches!(name, b".BTF" | b".BTF.base").then_some(start.checked_add(index.checked_mul(size)?)?)
    };
    Some((0..sections.len()).filter_map(is_types).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::image::modinfo;
    use super::super::super::testing::{module, module_with_section};
    use super::*;

    fn signed(module: &[u8], signature: usize) -> Vec<u8> {
        let mut out = module.to_vec();
        out.extend(vec![0x30; signature]);
        out.extend_from_slice(&[0, 0, 2, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&u32::try_from(signature).unwrap().to_be_bytes());
        out.extend_from_slice(MAGIC);
        out
    }

    #[test]
    fn the_signature_is_cut_off() {
        let plain = module("depends=");
        let mut bytes = signed(&plain, 256);
        drop_signature(&mut bytes);
        assert_eq!(bytes, plain);
        drop_signature(&mut bytes);
        assert_eq!(bytes, plain, "an unsigned module stays as it is");
    }

    #[test]
    fn a_signature_longer_than_the_file_is_left_alone() {
        let mut bytes = signed(b"", 5);
        let length = bytes.len();
        bytes[length - MAGIC.len() - 4] = 0xff;
        let before = bytes.clone();
        drop_signature(&mut bytes);
        assert_eq!(bytes, before);
        let mut short = MAGIC.to_vec();
        drop_signature(&mut short);
        assert_eq!(short, MAGIC);
    }

    #[test]
    fn the_types_lose_their_name_and_nothing_else_changes() {
        let mut bytes = module_with_section("depends=a", ".BTF");
        let before = bytes.clone();
        hide_types(&mut bytes);
        let changed = before.iter().zip(&bytes).filter(|(a, b)| a != b).count();
        assert!((1..=4).contains(&changed), "{changed}");
        assert_eq!(modinfo(&bytes).unwrap(), modinfo(&before).unwrap());
        let mut other = module_with_section("depends=a", ".BTH");
        let before = other.clone();
        hide_types(&mut other);
        assert_eq!(other, before);
    }

    #[test]
    fn a_kernel_that_insists_is_recognised() {
        assert!(insists_on_signatures("CONFIG_X=y\nCONFIG_MODULE_SIG_FORCE=y\n"));
        assert!(!insists_on_signatures("CONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\n"));
    }

    proptest! {
        #[test]
        fn damage_never_panics(damage in proptest::collection::vec((0usize..500, any::<u8>()), 1..10)) {
            let mut bytes = signed(&module_with_section("depends=a", ".BTF"), 20);
            for (at, byte) in damage {
                if let Some(old) = bytes.get_mut(at) {
                    *old = byte;
                }
            }
            drop_signature(&mut bytes);
            hide_types(&mut bytes);
        }
    }
}
