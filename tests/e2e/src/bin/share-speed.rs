//! Measures one kind of work in a directory and prints the seconds that it took; for the comparison of a share with the same
//! work on the host. `share-speed WORK DIR`, where the works come in this order:
//!
//! ```text
//!   create, stat, unlink   of 2,000 empty files
//!   write, read            of one file of 64 MiB, in pieces of 1 MiB
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const FILES: usize = 2000;
const MIB: usize = 1 << 20;
const SIZE_MIB: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [work, dir] = &args[..] else { return Err("usage: share-speed WORK DIR".into()) };
    let dir = Path::new(dir);
    let buffer = vec![0x5a; MIB];
    let begin = Instant::now();
    match work.as_str() {
        "create" => files(dir).try_for_each(|path| File::create_new(path).map(drop))?,
        "stat" => files(dir).try_for_each(|path| fs::symlink_metadata(path).map(drop))?,
        "unlink" => files(dir).try_for_each(fs::remove_file)?,
        "write" => write(&dir.join("data"), &buffer)?,
        "read" => read(&dir.join("data"), buffer)?,
        _ => return Err(format!("unknown work {work}").into()),
    }
    println!("{work} {:.6}", begin.elapsed().as_secs_f64());
    if work == "read" {
        fs::remove_file(dir.join("data"))?;
    }
    Ok(())
}

fn files(dir: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    (0..FILES).map(move |number| dir.join(format!("file-{number}")))
}

fn write(path: &Path, buffer: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    (0..SIZE_MIB).try_for_each(|_| file.write_all(buffer))
}

fn read(path: &Path, mut buffer: Vec<u8>) -> Result<(), Box<dyn Error>> {
    let mut file = File::open(path)?;
    for _ in 0..SIZE_MIB {
        file.read_exact(&mut buffer)?;
    }
    match file.read(&mut buffer)? {
        0 => Ok(()),
        more => Err(format!("{more} bytes more than were written").into()),
    }
}
