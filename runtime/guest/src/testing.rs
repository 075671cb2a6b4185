//! Small valid files for tests: kernels, modules, agents, packages; and an archive that serves them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::apt::Apt;
use super::digest::Digest;
use super::image::Compression;
use super::tool::Tools;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;

fn put(out: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if out.len() < at + bytes.len() {
        out.resize(at + bytes.len(), 0);
    }
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn elf_header(kind: u16, phnum: u16, shoff: u64, shnum: u16, shstrndx: u16) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    put(&mut out, 16, &kind.to_le_bytes());
    put(&mut out, 18, &62u16.to_le_bytes()); // EM_X86_64
    put(&mut out, 20, &1u32.to_le_bytes());
    put(&mut out, 24, &0x100_0000u64.to_le_bytes());
    put(&mut out, 32, &64u64.to_le_bytes()); // program headers
    put(&mut out, 40, &shoff.to_le_bytes());
    put(&mut out, 52, &64u16.to_le_bytes());
    put(&mut out, 54, &56u16.to_le_bytes());
    put(&mut out, 56, &phnum.to_le_bytes());
    put(&mut out, 58, &64u16.to_le_bytes());
    put(&mut out, 60, &shnum.to_le_bytes());
    put(&mut out, 62, &shstrndx.to_le_bytes());
    out
}

fn program(out: &mut Vec<u8>, index: usize, kind: u32, offset: u64, size: u64) {
    let at = 64 + 56 * index;
    put(out, at, &kind.to_le_bytes());
    put(out, at + 8, &offset.to_le_bytes());
    put(out, at + 32, &size.to_le_bytes());
    put(out, at + 40, &size.to_le_bytes());
    put(out, at + 48, &0u64.to_le_bytes());
}

/// An executable with `contents` as its one segment, dynamic if it has an interpreter.
pub(crate) fn executable(contents: &[u8], interpreter: Option<&str>) -> Vec<u8> {
    let mut out = elf_header(2, if interpreter.is_some() { 2 } else { 1 }, 0, 0, 0);
    let start = 64 + 56 * 2;
    program(&mut out, 0, PT_LOAD, start, contents.len() as u64);
    put(&mut out, start as usize, contents);
    if let Some(path) = interpreter {
        let at = out.len() as u64;
        program(&mut out, 1, PT_INTERP, at, path.len() as u64 + 1);
        out.extend_from_slice(path.as_bytes());
        out.push(0);
    }
    out
}

/// A kernel with a banner of this release.
pub(crate) fn vmlinux(release: &str) -> Vec<u8> {
    let mut contents = b"%s version %s\0Linux version ".to_vec();
    contents.extend_from_slice(format!("{release} (hutch@hutch) #1\n\0").as_bytes());
    contents.extend((0..40_000u32).flat_map(|n| (n * n).to_le_bytes()));
    executable(&contents, None)
}

/// An agent, different for each `name`.
pub(crate) fn agent(name: &str) -> Vec<u8> {
    executable(format!("agent {name}\0hutch-agent-version:1.2.3\0").as_bytes(), None)
}

/// A kernel module with this `.modinfo`.
pub(crate) fn module(modinfo: &str) -> Vec<u8> {
    module_with_section(modinfo, ".strtab")
}

/// A kernel module with this `.modinfo` and one more section.
pub(crate) fn module_with_section(modinfo: &str, more: &str) -> Vec<u8> {
    let info = modinfo.replace('|', "\0") + "\0";
    let names = format!("\0.modinfo\0.shstrtab\0{more}\0").into_bytes();
    let (info_at, names_at) = (64, 64 + info.len());
    let sections_at = (names_at + names.len()).next_multiple_of(8);
    let mut out = elf_header(1, 0, sections_at as u64, 4, 2);
    put(&mut out, info_at, info.as_bytes());
    put(&mut out, names_at, &names);
    out.resize(sections_at + 64, 0); // the null section
    for (name, kind, at, size) in
        [(1u32, 1u32, info_at, info.len()), (10, 3, names_at, names.len()), (20, 1, info_at, info.len())]
    {
        let header = out.len();
        put(&mut out, header, &name.to_le_bytes());
        put(&mut out, header + 4, &kind.to_le_bytes());
        put(&mut out, header + 24, &(at as u64).to_le_bytes());
        put(&mut out, header + 32, &(size as u64).to_le_bytes());
        put(&mut out, header + 56, &0u64.to_le_bytes());
    }
    out
}

/// Packs like the kernel's build.
pub(crate) fn compress(method: Compression, data: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let lzma = |stream| {
        let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    };
    match method {
        Compression::None => data.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Xz => {
            let mut filters = Filters::new();
            filters.x86().lzma2(&LzmaOptions::new_preset(1).unwrap());
            lzma(Stream::new_stream_encoder(&filters, Check::Crc32).unwrap())
        }
        Compression::Lzma => lzma(Stream::new_lzma_encoder(&LzmaOptions::new_preset(1).unwrap()).unwrap()),
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
            encoder.window_log(27).unwrap(); // what `zstd -22 --ultra` takes from a pipe
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lz4 => {
            let mut out = vec![0x02, 0x21, 0x4c, 0x18];
            for block in data.chunks(8 << 20) {
                let packed = lz4_flex::block::compress(block);
                out.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
                out.extend_from_slice(&packed);
            }
            out
        }
    }
}

/// A bzImage around a payload that announces `unpacked` bytes.
pub(crate) fn bzimage_of(payload: &[u8], unpacked: usize, release: &str) -> Vec<u8> {
    let setup_sects = 3usize;
    let start = (setup_sects + 1) * 512;
    let mut out = vec![0; start + 0x40];
    put(&mut out, 0x1f1, &[u8::try_from(setup_sects).unwrap()]);
    put(&mut out, 0x1fe, &[0x55, 0xaa]);
    put(&mut out, 0x202, b"HdrS");
    put(&mut out, 0x206, &0x020fu16.to_le_bytes());
    put(&mut out, 0x20e, &0x0300u16.to_le_bytes());
    put(&mut out, 0x500, format!("{release} (hutch@hutch) #1\0").as_bytes());
    put(&mut out, 0x248, &0x40u32.to_le_bytes());
    put(&mut out, 0x24c, &u32::try_from(payload.len() + 4).unwrap().to_le_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(&u32::try_from(unpacked).unwrap().to_le_bytes());
    out.extend_from_slice(b"boot code");
    out
}

/// A whole bzImage: `elf` and a relocation table behind it, packed.
pub(crate) fn bzimage(method: Compression, elf: &[u8], release: &str) -> Vec<u8> {
    let mut all = elf.to_vec();
    all.extend_from_slice(&[0xee; 100]);
    bzimage_of(&compress(method, &all), all.len(), release)
}

/// A package archive of one kernel package, served by shims for apt-cache, apt-get, dpkg-query and dpkg-deb.
/// A package file here is a bare tar archive.
pub(crate) struct FakeArchive {
    dir: tempfile::TempDir,
}

impl FakeArchive {
    pub(crate) fn new() -> FakeArchive {
        let archive = FakeArchive { dir: tempfile::tempdir().unwrap() };
        for sub in ["bin", "pool", "records"] {
            fs::create_dir(archive.path(sub)).unwrap();
        }
        let root = archive.path("").display().to_string();
        archive.script(
            "apt-cache",
            &format!(
                r#"cd {root}/records || exit 1
case "$1" in
  search) ls | grep -E "$3" | sed 's/$/ - a kernel/' ;;
  show) [ -e "$3" ] && cat "$3" || {{ echo "E: No packages found" >&2; exit 100; }} ;;
  depends) sed -n 's/^Depends: /  Depends: /p' "$3" ;;
esac"#
            ),
        );
        archive.script(
            "apt-get",
            &format!(
                r#"echo "$*" >> {root}/apt-get.log
for last; do :; done
case "$*" in
  *update*) [ -d {root}/later ] && mv {root}/later/* {root}/records/; exit 0 ;;
  *download*) cp "{root}/pool/${{last%%=*}}.deb" . ;;
  *install*) exit 0 ;;
esac"#
            ),
        );
        archive.script("dpkg-deb", r#"exec cat "$2""#);
        archive.script("dpkg-query", "exit 1");
        archive
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn script(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn apt(&self) -> Apt {
        let bin = self.path("bin");
        Apt { tools: Tools::with_path(format!("{}:/usr/bin:/bin", bin.display())) }
    }

    /// Offers a package with these files, at once or (`later`) after `apt-get update`.
    pub(crate) fn offer(&self, name: &str, version: &str, files: &[(&str, Vec<u8>)], later: bool) {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, bytes.as_slice()).unwrap();
        }
        let deb = tar.into_inner().unwrap();
        fs::write(self.path("pool").join(format!("{name}.deb")), &deb).unwrap();
        self.record(name, &format!("Version: {version}\nSHA256: {}\n", Digest::of(&deb)), later);
    }

    pub(crate) fn record(&self, name: &str, fields: &str, later: bool) {
        let dir = self.path(if later { "later" } else { "records" });
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(name), format!("Package: {name}\n{fields}")).unwrap();
    }

    /// Offers a cloud kernel with all files that a guest needs.
    pub(crate) fn offer_kernel(&self, name: &str, version: &str, later: bool) {
        let release = name.trim_start_matches("linux-image-");
        let lib = format!("./lib/modules/{release}");
        let ko =
            |path: &str, info: &str| (format!("{lib}/kernel/{path}.ko.xz"), compress(Compression::Xz, &module(info)));
        let files = [
            (format!("./boot/vmlinuz-{release}"), bzimage(Compression::Zstd, &vmlinux(release), release)),
            (format!("{lib}/modules.builtin"), b"kernel/fs/fuse/virtiofs.ko\nkernel/fs/ext4/ext4.ko\n".to_vec()),
            ko("drivers/virtio/virtio_mmio", "license=GPL|depends="),
            ko("net/vmw_vsock/vsock", "depends="),
            ko("net/vmw_vsock/vmw_vsock_virtio_transport", "depends=vsock"),
            ko("drivers/char/virtio-rng", "depends="),
            ko("drivers/unneeded", "depends=nothing-there"),
        ];
        let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
        self.offer(name, version, &files, later);
    }

    pub(crate) fn apt_get_log(&self) -> String {
        fs::read_to_string(self.path("apt-get.log")).unwrap_or_default()
    }
}

/// Writes an agent file and returns its path.
pub(crate) fn agent_file(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join("hutch-agent");
    fs::write(&path, agent(name)).unwrap();
    path
}
