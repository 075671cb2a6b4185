//! Disk images with file systems, made and looked into without mounting them (e2fsprogs).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{scratch_dir, RootFs};

/// An ext4 image on the host. Removed when dropped.
pub struct Image {
    path: tempfile::TempPath,
}

impl Image {
    /// A file system of `mib` with the contents of `root`.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn of(root: &RootFs, mib: u32) -> Image {
        let image = Image::of_bytes(b"");
        let mut command = tool("mkfs.ext4");
        command.args(["-q", "-F", "-d"]).args([root.path(), image.path()]).arg(format!("{mib}M"));
        succeeded(&mut command);
        image
    }

    /// A file with these bytes, whatever they mean.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn of_bytes(bytes: &[u8]) -> Image {
        let file = tempfile::Builder::new().prefix("hutch-image-").tempfile_in(scratch_dir()).expect("a file");
        fs::write(file.path(), bytes).expect("a file is written");
        Image { path: file.into_temp_path() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, as an argument.
    pub fn text(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Its bytes.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("an image can be read")
    }

    /// What a file in it holds; empty if there is no such file.
    ///
    /// # Panics
    /// If the image cannot be read.
    pub fn cat(&self, path: &str) -> String {
        let output = succeeded(tool("debugfs").args(["-R", &format!("cat {path}")]).arg(self.path()));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// It was unmounted, and nothing in it contradicts itself.
    ///
    /// # Panics
    /// With what fsck says.
    #[track_caller]
    pub fn expect_clean(&self) {
        let header = succeeded(tool("dumpe2fs").arg("-h").arg(self.path()));
        let header = String::from_utf8_lossy(&header.stdout).into_owned();
        assert!(!header.contains("needs_recovery"), "it was not unmounted:\n{header}");
        succeeded(tool("e2fsck").args(["-f", "-n"]).arg(self.path()));
    }
}

/// A program of e2fsprogs, which not every user's PATH has.
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

/// A file with a configuration; its name ends in `.toml`.
///
/// # Panics
/// If it cannot be written.
pub fn toml_file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(format!("{name}.toml"));
    fs::write(&path, text).expect("a configuration is written");
    path
}
