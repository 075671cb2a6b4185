//! Sets up the sandbox, and changes its mounts and resolver later. Runs on connection threads.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use hutch_agent_proto::{GuestMount, SandboxSpec};
use nix::errno::Errno;
use nix::mount::{umount2, MntFlags};

use crate::agent::Agent;
use crate::failure::{invalid, io, not_found, system, wrong_state, Outcome};
use crate::mount_ns::{new_mount_namespace, MountNs, Placed, SandboxMounts};
use crate::mount_options::MountOptions;
use crate::mounts::{bind, check_path, prepare, Detached};
use crate::thread::lock;
use crate::{disks, memory, modules, net, settings};

/// Most mounts in one request.
const MAX_MOUNTS: usize = 1024;
/// Longest line of the resolver's configuration, in bytes.
const MAX_RESOLVER_LINE: usize = 1024;
/// The file in which programs look for the resolver's configuration.
pub const RESOLVER: &str = "/etc/resolv.conf";

/// The agent's own file with the resolver's configuration, which sandbox and containers mount. It exists once the host
/// has set any lines.
pub fn resolver_file(run_dir: &Path) -> PathBuf {
    run_dir.join("resolv.conf")
}

/// Serves `SetupSandbox`. A guest in which this failed cannot be set up again.
pub fn set_up(agent: &Agent, spec: &SandboxSpec) -> Outcome<()> {
    if agent.set_up.swap(true, Ordering::AcqRel) {
        return Err(wrong_state("the sandbox has been set up before"));
    }
    if spec.mounts.len() > MAX_MOUNTS {
        return Err(invalid(format!("{} mounts; {MAX_MOUNTS} is the most", spec.mounts.len())));
    }
    if spec.entropy.is_empty() {
        modules::load_for_entropy();
    } else {
        settings::seed(&spec.entropy)?;
    }
    if spec.unix_ns != 0 {
        settings::set_clock(spec.unix_ns)?;
    }
    if !spec.hostname.is_empty() {
        settings::set_hostname(&spec.hostname)?;
    }
    net::loopback_up()?;
    net::configure(&spec.network)?;
    // Before any mount: the size of an in-memory file system is half of the guest's memory at that moment.
    memory::await_more(agent.options.memory_at_boot, spec.memory_more, true)?;
    settings::set_sysctls(&spec.sysctls)?;
    match &spec.root {
        Some(root) => {
            let namespace = new_mount_namespace()?;
            let inside = mount_all(agent, &spec.mounts)?;
            setup_mounts(agent, spec, root, inside, namespace)
        }
        None => {
            let mount_ns = agent.mount_ns();
            let inside = mount_all(agent, &spec.mounts)?;
            inside.iter().try_for_each(|placed| placed.mount.attach(mount_ns.root(), &placed.target))?;
            set_resolver(agent, &spec.network.dns)
        }
    }
}

/// Makes all mounts; attaches those in the agent's own namespace and returns those inside the root.
fn mount_all(agent: &Agent, mounts: &[GuestMount]) -> Outcome<Vec<Placed>> {
    let mut inside = Vec::new();
    for mount in mounts {
        let detached = prepare(mount)?;
        if mount.in_root {
            inside.push(Placed { mount: detached, target: mount.target.clone(), optional: false });
        } else {
            attach_outside(agent, &detached, &mount.target)?;
        }
    }
    Ok(inside)
}

fn attach_outside(agent: &Agent, mount: &Detached, target: &str) -> Outcome<()> {
    let own = MountNs::initial().map_err(|errno| system("the agent's root", errno))?;
    mount.attach(own.root(), target)?;
    lock(&agent.mounts).push(target.to_string());
    Ok(())
}

fn setup_mounts(
    agent: &Agent,
    spec: &SandboxSpec,
    root: &str,
    mut inside: Vec<Placed>,
    namespace: OwnedFd,
) -> Outcome<()> {
    check_path("sandbox root", root)?;
    if !spec.network.dns.is_empty() {
        write_resolver(agent, &spec.network.dns)?;
        let source = resolver_file(&agent.options.run_dir);
        let mount = bind(&source.to_string_lossy(), &MountOptions::default())?;
        inside.insert(0, Placed { mount, target: RESOLVER.to_string(), optional: true });
    }
    let mounts = SandboxMounts { root, read_only: spec.root_readonly, mounts: inside };
    let (mount_ns, warnings) = MountNs::setup_mounts(namespace, &mounts)?;
    agent.set_mount_ns(mount_ns);
    for warning in warnings {
        agent.warn(warning);
    }
    Ok(())
}

/// Serves `Mount`.
pub fn mount(agent: &Agent, mount: &GuestMount) -> Outcome<()> {
    let detached = prepare(mount)?;
    if mount.in_root {
        return agent.mount_ns().attach(&detached, &mount.target);
    }
    attach_outside(agent, &detached, &mount.target)
}

/// Serves `Unmount`: for a mount in the agent's own namespace, or else one inside the root.
///
/// # Errors
/// `NotFound` if nothing is mounted there, `WrongState` if the mount, or afterwards its disk, is in use.
pub fn unmount(agent: &Agent, target: &str) -> Outcome<()> {
    check_path("mount target", target)?;
    let known = lock(&agent.mounts).iter().rposition(|mount| mount == target);
    let detach = || match umount2(target, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EINVAL | Errno::ENOENT) => Err(not_found(format!("nothing is mounted at {target:?}"))),
        Err(Errno::EBUSY) => Err(wrong_state(format!("the mount at {target:?} is in use"))),
        Err(errno) => Err(system(format_args!("unmounting {target:?}"), errno)),
    };
    match known {
        Some(_) => {
            let disk = disks::mounted_at(target);
            detach()?;
            disk.map_or(Ok(()), |disk| disks::wait_released(&disk))?;
        }
        None => return agent.mount_ns().inside(detach),
    }
    let mut mounts = lock(&agent.mounts);
    if let Some(index) = mounts.iter().rposition(|mount| mount == target) {
        mounts.remove(index);
    }
    Ok(())
}

/// Sets the lines of the resolver's configuration; without lines it stays as it is. In a sandbox with a root of its
/// own, the agent's file is mounted over the root's. Containers that are made later mount it too.
pub fn set_resolver(agent: &Agent, lines: &[String]) -> Outcome<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mount_ns = agent.mount_ns();
    if mount_ns.namespace().is_none() {
        write_resolver(agent, lines)?;
        let text = resolver_text(lines)?;
        let failed = |error| io(RESOLVER, &error);
        fs::create_dir_all("/etc").map_err(failed)?;
        return fs::write(RESOLVER, text).map_err(failed);
    }
    let path = resolver_file(&agent.options.run_dir);
    let mounted = path.exists();
    // Rewritten in place: the mount is of the file, not of its name.
    write_resolver(agent, lines)?;
    if mounted {
        return Ok(());
    }
    mount_ns.attach(&bind(&path.to_string_lossy(), &MountOptions::default())?, RESOLVER)
}

fn write_resolver(agent: &Agent, lines: &[String]) -> Outcome<()> {
    let text = resolver_text(lines)?;
    let path = resolver_file(&agent.options.run_dir);
    let failed = |error| io(path.display(), &error);
    fs::create_dir_all(&agent.options.run_dir).map_err(failed)?;
    fs::write(&path, text).map_err(failed)
}

fn resolver_text(lines: &[String]) -> Outcome<String> {
    let good = |line: &String| line.len() <= MAX_RESOLVER_LINE && !line.contains(['\n', '\0']);
    match lines.iter().find(|line| !good(line)) {
        Some(line) => Err(invalid(format!("resolver line of {} bytes: too long, or more than one", line.len()))),
        None => Ok(lines.iter().map(|line| format!("{line}\n")).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_lines_are_lines() {
        assert_eq!(
            resolver_text(&["nameserver 10.0.0.1".into(), "search a.b".into()]).unwrap(),
            "nameserver 10.0.0.1\nsearch a.b\n"
        );
        assert!(resolver_text(&["a\nb".into()]).is_err());
        assert!(resolver_text(&["x".repeat(MAX_RESOLVER_LINE + 1)]).is_err());
    }
}
