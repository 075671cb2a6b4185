//! `cargo xtask demo`: from a fresh clone to the output of a command in a real Linux guest.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::kernel::Choice;
use crate::setup::{self, Need};
use crate::stage::Stage;
use crate::{build, testbed, Result};

/// The file the guest writes and the host reads.
const FILE: &str = "root/from-the-guest";

/// The guest's command.
const SCRIPT: &str =
    "echo '$ uname -a'; uname -a; echo '$ grep -m1 model /proc/cpuinfo'; grep -m1 'model name' /proc/cpuinfo
    echo '$ grep MemTotal /proc/meminfo'; grep MemTotal /proc/meminfo
    echo \"hello from $(uname -n), up for $(cut -d' ' -f1 /proc/uptime) s\" > /root/from-the-guest";

/// Options of `demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Use a whole Debian, made with debootstrap (needs root), instead of a busybox
    #[arg(long)]
    debootstrap: bool,
}

/// Runs the task.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    setup::ensure(if args.debootstrap { &[Need::RootFs, Need::Debootstrap] } else { &[Need::RootFs] })?;
    let stage = Stage::build_for_demo()?;
    stage.make_guest("distro")?;
    let root = if args.debootstrap { debian_root()? } else { busybox_root()? };
    let file = root.join(FILE);
    let _ = fs::remove_file(&file);

    let mut command: Vec<OsString> = vec![stage.hutch.clone().into(), "run".into(), "--verbose".into()];
    command.extend(["--rootfs".into(), root.clone().into()]);
    command.extend(["--", "/bin/sh", "-c", SCRIPT].map(OsString::from));
    println!("\n$ hutch run --verbose --rootfs {} -- /bin/sh -c '…'", root.display());
    let code = testbed::wherever(&testbed::RunRequest {
        args: command,
        env: stage.env(),
        write: vec![root],
        kernel: Choice::Distro,
        deterministic: false,
        memory_mib: 4096,
        timeout: Duration::from_secs(300).mul_f64(crate::suite::slowness()),
        tools: stage.tools,
    })?;
    if code != 0 {
        return Err(format!("hutch run ended with {code}").into());
    }
    println!("\n$ cat {}   (on the host)\n{}", file.display(), fs::read_to_string(&file)?.trim_end());
    Ok(ExitCode::SUCCESS)
}

/// A small root file system with Debian's busybox-static.
pub(crate) fn busybox_root() -> Result<PathBuf> {
    let root = fresh("busybox")?;
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    Ok(root)
}

/// A minimal Debian. It takes a minute or two to make, so demos share it.
fn debian_root() -> Result<PathBuf> {
    let root = directory("debian")?;
    if root.join("etc/debian_version").exists() {
        return Ok(root);
    }
    let partial = fresh("debian.partial")?;
    println!("    Making a Debian root file system with debootstrap");
    build::run(setup::as_root("debootstrap").args(["--variant=minbase", "bookworm"]).arg(&partial))?;
    fs::rename(&partial, &root)?;
    Ok(root)
}

fn directory(name: &str) -> Result<PathBuf> {
    let dir = build::target_dir().join("demo");
    fs::create_dir_all(&dir)?;
    Ok(dir.join(name))
}

fn fresh(name: &str) -> Result<PathBuf> {
    let dir = directory(name)?;
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir(&dir)?;
    Ok(dir)
}
