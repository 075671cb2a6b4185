//! Disk images with file systems. e2fsprogs makes and reads them without a mount.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{scratch_dir, RootFs};

/// An ext4 image on the host. Dropping it removes the file.
pub struct Image {
    path: tempfile::TempPath,
}

impl Image {
    /// A file system of `mib` MiB with the contents of `root`.
    pub fn of(root: &RootFs, mib: u32) -> Image {
        let image = Image::of_bytes(b"");
        let mut command = tool("mkfs.ext4");
        command.args(["-q", "-F", "-d"]).args([root.path(), image.path()]).arg(format!("{mib}M"));
        succeeded(&mut command);
        image
    }

    /// A file with these bytes, which need not be a file system.
    pub fn of_bytes(bytes: &[u8]) -> Image {
        let file = tempfile::Builder::new().prefix("hutch-image-").tempfile_in(scratch_dir()).expect("a file");
        fs::write(file.path(), bytes).expect("a file is written");
        Image { path: file.into_temp_path() }
    }

    /// Path on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path on the host, as a command-line argument.
    pub fn text(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// The whole image.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("an image can be read")
    }

    /// The contents of a file in the image; empty if there is no such file.
    pub fn cat(&self, path: &str) -> String {
        let output = succeeded(tool("debugfs").args(["-R", &format!("cat {path}")]).arg(self.path()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Checks that the file system was unmounted and that fsck finds no error.
    #[track_caller]
    pub fn expect_clean(&self) {
        let header = succeeded(tool("dumpe2fs").arg("-h").arg(self.path()));
        let header = String::from_utf8_lossy(&header.stdout).into_owned();
        assert!(!header.contains("needs_recovery"), "it was not unmounted:\n{header}");
        succeeded(tool("e2fsck").args(["-f", "-n"]).arg(self.path()));
    }
}

/// A program of e2fsprogs, by its path: /usr/sbin may be missing from PATH.
fn tool(name: &str) -> Command {
    let path = Path::new("/usr/sbin").join(name);
    assert!(path.exists(), "{} is missing: run `cargo xtask setup`", path.display());
    Command::new(path)
}

#[track_caller]
fn succeeded(command: &mut Command) -> Output {
    let output = command.output().expect("a program of e2fsprogs runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

/// Writes a configuration to `NAME.toml`.
pub fn toml_file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).expect("a configuration is written");
    path
}
