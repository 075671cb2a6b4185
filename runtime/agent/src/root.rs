//! A directory that serves as a root: paths are resolved inside it, so that neither `..` nor a symbolic link leads out
//! (openat2(2), `RESOLVE_IN_ROOT`). Any thread.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{open, openat2, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{mkdirat, Mode};

/// Most attempts, when the kernel asks for another one because the tree was moved meanwhile.
const TRIES: usize = 16;

/// A directory that paths cannot leave.
#[derive(Debug)]
pub struct RootDir(OwnedFd);

impl RootDir {
    /// Opens the directory `path` as a root.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map(Self)
    }

    /// Opens `path` inside the root with `flags` (and `O_CLOEXEC`); a created file gets mode 0644.
    pub fn resolve(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let mode = if flags.contains(OFlag::O_CREAT) { Mode::from_bits_truncate(0o644) } else { Mode::empty() };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).mode(mode).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let mut last = Errno::EAGAIN;
        for _ in 0..TRIES {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => last = Errno::EAGAIN,
                Err(errno) => return Err(errno),
                Ok(fd) => return Ok(fd),
            }
        }
        Err(last)
    }

    /// Text of a small regular file inside the root; `None` if there is no such file.
    ///
    /// # Errors
    /// `EFBIG` if the file has more than `limit` bytes.
    pub fn read(&self, path: &Path, limit: u64) -> Result<Option<String>, Errno> {
        // Non-blocking: the path may lead to a FIFO.
        let fd = match self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            result => result?,
        };
        let mut bytes = Vec::new();
        let result = File::from(fd).take(limit.saturating_add(1)).read_to_end(&mut bytes);
        result.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
        if bytes.len() as u64 > limit {
            return Err(Errno::EFBIG);
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Opens the directory `path` inside the root (`O_PATH`) and creates missing directories with mode 0755.
    ///
    /// # Errors
    /// `EROFS` if a directory is missing in a read-only root, `ENOTDIR` if a part of the path is not a directory.
    pub fn make_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.resolve(path, flags) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        let mut done = PathBuf::from("/");
        let mut dir = self.resolve(&done, flags)?;
        for part in path.components() {
            let name = match part {
                Component::Normal(name) => Path::new(name),
                Component::ParentDir => Path::new(".."),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            };
            done.push(name);
            dir = match self.resolve(&done, flags) {
                Err(Errno::ENOENT) => {
                    match mkdirat(&dir, name, Mode::from_bits_truncate(0o755)) {
                        // Another thread was faster, or it is a dangling link, which cannot be opened.
                        Ok(()) | Err(Errno::EEXIST) => self.resolve(&done, flags)?,
                        Err(errno) => return Err(errno),
                    }
                }
                result => result?,
            };
        }
        Ok(dir)
    }

    /// Opens `path` inside the root (`O_PATH`); creates an empty file and its directories if it is missing.
    pub fn make_file(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.resolve(path, OFlag::O_PATH) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        if let Some(parent) = path.parent() {
            self.make_directory(parent)?;
        }
        self.resolve(path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NONBLOCK)?;
        self.resolve(path, OFlag::O_PATH)
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        fs::create_dir(&inside).unwrap();
        let root = RootDir::open(&inside).unwrap();
        (dir, root)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (dir, root) = root();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(dir.path().join("root/secret"), "inside").unwrap();
        symlink("/secret", dir.path().join("root/absolute")).unwrap();
        symlink("../../../secret", dir.path().join("root/relative")).unwrap();
        for path in ["/absolute", "/relative", "/../secret", "secret"] {
            assert_eq!(root.read(Path::new(path), 100).unwrap().as_deref(), Some("inside"), "{path}");
        }
    }

    #[test]
    fn directories_are_made_through_links_inside_the_root() {
        let (dir, root) = root();
        fs::create_dir(dir.path().join("root/real")).unwrap();
        symlink("/real", dir.path().join("root/link")).unwrap();
        root.make_directory(Path::new("/link/a/b")).unwrap();
        assert!(dir.path().join("root/real/a/b").is_dir());
        root.make_directory(Path::new("/link/a/b")).unwrap();
        root.make_directory(Path::new("/new/../other")).unwrap();
        assert!(dir.path().join("root/other").is_dir());
        assert!(!dir.path().join("other").exists());
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let (dir, root) = root();
        fs::write(dir.path().join("root/file"), "").unwrap();
        assert_eq!(root.make_directory(Path::new("/file/sub")).unwrap_err(), Errno::ENOTDIR);
        symlink("nowhere", dir.path().join("root/dangling")).unwrap();
        assert_eq!(root.make_directory(Path::new("/dangling")).unwrap_err(), Errno::ENOENT);
    }

    #[test]
    fn files_are_made_with_their_directories() {
        let (dir, root) = root();
        root.make_file(Path::new("/etc/deep/file")).unwrap();
        assert!(dir.path().join("root/etc/deep/file").is_file());
    }

    #[test]
    fn reading_is_bounded_and_a_missing_file_is_not_an_error() {
        let (dir, root) = root();
        fs::write(dir.path().join("root/big"), "12345").unwrap();
        assert_eq!(root.read(Path::new("/big"), 5).unwrap().as_deref(), Some("12345"));
        assert_eq!(root.read(Path::new("/big"), 4).unwrap_err(), Errno::EFBIG);
        assert_eq!(root.read(Path::new("/none/at/all"), 4).unwrap(), None);
    }

    #[test]
    fn a_fifo_in_place_of_a_file_does_not_block() {
        let (dir, root) = root();
        nix::unistd::mkfifo(&dir.path().join("root/fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        assert_eq!(root.read(Path::new("/fifo"), 4).unwrap().as_deref(), Some(""));
    }
}
