//! Standalone pods: a namespace of the pod's own behind address translation, with forwarded ports.
//!
//! A veth pair leads from the namespace to the host. The host's end is called `hutch-N`. The kernel gives each N to one
//! pod only, and N also determines the pair's addresses, so no other bookkeeping is needed. Translation and forwarding
//! are nftables rules in a table of the pod's own, which `nft` adds and removes in one transaction. The same table keeps
//! the guest from the host's loopback addresses and from other pods.
//!
//! Pods need `net.ipv4.ip_forward`. If it was off, an empty table of that name ([`HOST_TABLE`]) records it, which lives
//! exactly as long as the setting itself: until the last pod has gone, or the host is restarted.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hutch_netlink::{
    add_address, add_route, change_link, links, make_veth, Cidr, LinkChange, Netlink, Peer, RouteEntry,
};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::namespace;
use crate::backend::{run_in_namespace, BackendError, BackendResult};
use crate::spec::{NetworkConfig, PortForward, Protocol};

/// First address of 16384 networks of four addresses each: 10.89.0.0/16.
const BASE: u32 = u32::from_be_bytes([10, 89, 0, 0]);
const NETWORKS: u32 = 1 << 14;
/// Prefix length of each network.
const PREFIX: u8 = 30;
/// Table that says that hutch has switched forwarding on.
const HOST_TABLE: &str = "hutch_ip_forward_was_0";
/// The setting, of the calling process's network namespace.
const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
/// Beginning of the names of interfaces on the host.
const PREFIX_OUTSIDE: &str = "hutch-";
/// Name of the interface in the pod's namespace.
const INSIDE: &str = "eth0";

/// Addresses of pair number `index`: the host's end, the pod's end.
fn pair(index: u32) -> (Ipv4Addr, Ipv4Addr) {
    let network = BASE + index * 4;
    (Ipv4Addr::from(network + 1), Ipv4Addr::from(network + 2))
}

/// Digest of the namespace's path. A pod id alone is not unique: two config roots may both have it.
fn digest(path: &Path) -> [u8; 32] {
    Sha256::digest(path.as_os_str().as_encoded_bytes()).into()
}

/// Name of the pod's nftables table.
fn table(path: &Path) -> String {
    let hex: String = digest(path).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("hutch_{hex}")
}

/// Connects the new namespace at `path` to the host.
pub(super) fn connect(pod: &str, path: &Path, config: &NetworkConfig, lock: &Path) -> BackendResult<()> {
    let fail = |what: &str, e| BackendError::system(format!("network of pod {pod}: {what}"), e);
    let host = namespace::own().map_err(|e| fail("open the host's namespace", e))?;
    let mut made = Err(io::Error::other("the namespace was not entered"));
    run_in_namespace(Some(path), &mut || made = connect_inside(path, &host))?;
    let index = made.map_err(|e| fail("connect it to the host", e))?;
    let (outer, inner) = pair(index);
    let name = format!("hutch-{index}");
    let outside = || -> io::Result<()> {
        let mut netlink = Netlink::open()?;
        let link = links(&mut netlink)?.into_iter().find(|link| link.name == name);
        let link = link.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))?;
        bring_up(&mut netlink, link.index, outer)
    };
    outside().map_err(|e| fail("set up the host's end", e))?;
    let _lock = lock_host(lock).map_err(|e| fail("lock the host's forwarding", e))?;
    let forwards = fs::read_to_string(IP_FORWARD).map_err(|e| fail("read ip_forward", e))?.trim() != "0";
    let mut text = rules(path, &name, inner, &config.publish);
    if !forwards {
        let _ = writeln!(text, "table ip {HOST_TABLE} {{}}");
    }
    // The rules first: they keep the guest from what the settings open.
    apply(&text)?;
    let open = || -> io::Result<()> {
        if !forwards {
            fs::write(IP_FORWARD, "1")?;
        }
        // Forwarded ports must be reachable from the host's loopback too.
        fs::write(format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")
    };
    open().map_err(|e| fail("set up forwarding", e))
}

/// Keeps others from deciding about forwarding. The file goes with it: nothing of a pod stays on the host.
struct HostLock {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Drop for HostLock {
    fn drop(&mut self) {
        // While it is locked. The directory goes if nothing else is in it.
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

fn lock_host(path: &Path) -> io::Result<HostLock> {
    loop {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = match OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path) {
            // The last holder has removed the directory. Ends: each time another process has made progress.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let lock = match Flock::lock(file, FlockArg::LockExclusive) {
            Err((_, Errno::EINTR)) => continue,
            other => other.map_err(|(_, errno)| io::Error::from(errno))?,
        };
        let held = lock.metadata()?;
        // The holder before has removed the file that was waited for.
        if fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (held.dev(), held.ino())) {
            return Ok(HostLock { path: path.to_owned(), _lock: lock });
        }
    }
}

/// Runs inside the namespace: creates the pair with the first free number, starting at one derived from the path.
fn connect_inside(path: &Path, host: &File) -> io::Result<u32> {
    let mut netlink = Netlink::open()?;
    let bytes = digest(path);
    let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) % NETWORKS;
    for step in 0..NETWORKS {
        let index = (first + step) % NETWORKS;
        let name = format!("hutch-{index}");
        match make_veth(&mut netlink, INSIDE, Peer { name: &name, namespace: host.as_fd() }) {
            Ok(()) => {
                let (outer, inner) = pair(index);
                let link = links(&mut netlink)?.into_iter().find(|link| link.name == INSIDE);
                let link = link.ok_or_else(|| io::Error::other("the new interface is not there"))?;
                bring_up(&mut netlink, link.index, inner)?;
                add_route(&mut netlink, &default_route(link.index, outer), false)?;
                return Ok(index);
            }
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(io::Error::other("all 16384 networks for pods are in use"))
}

fn bring_up(netlink: &mut Netlink, link: u32, address: Ipv4Addr) -> io::Result<()> {
    add_address(netlink, link, Cidr { address: address.into(), prefix: PREFIX })?;
    change_link(netlink, link, LinkChange { up: Some(true), ..LinkChange::default() })?;
    Ok(())
}

fn default_route(link: u32, gateway: Ipv4Addr) -> RouteEntry {
    let destination = Cidr { address: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 };
    RouteEntry { destination, gateway: Some(gateway.into()), source: None, link, scope: 0, metric: 0 }
}

/// The pod's table: outgoing packets get the host's address, packets to forwarded ports go to the pod.
fn rules(path: &Path, interface: &str, inner: Ipv4Addr, publish: &[PortForward]) -> String {
    let table = table(path);
    let mut text = String::new();
    // Created first, so that deleting an older table cannot fail.
    let _ = writeln!(text, "table ip {table} {{}}\ndelete table ip {table}\ntable ip {table} {{");
    let mut forwards = String::new();
    for forward in publish {
        let protocol = match forward.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let to = match forward.host_address {
            None => "fib daddr type local ".into(),
            Some(IpAddr::V4(address)) if address.is_unspecified() => "fib daddr type local ".into(),
            Some(IpAddr::V4(address)) => format!("ip daddr {address} "),
            // The configuration check refuses these. Never open another address in their place.
            Some(IpAddr::V6(_)) => continue,
        };
        let _ =
            writeln!(forwards, "    {to}{protocol} dport {} dnat to {inner}:{}", forward.host_port, forward.guest_port);
    }
    // Before anything else sees the packet: no address of the loopback interface, which `route_localnet` would route, and
    // no address but the pod's own as the source.
    let _ = writeln!(
        text,
        "  chain guard {{\n    type filter hook prerouting priority -300;\n    \
         iifname \"{interface}\" ip daddr 127.0.0.0/8 drop\n    \
         iifname \"{interface}\" ip saddr != {inner} drop\n  }}"
    );
    // Other pods only at the ports that they publish.
    let _ = writeln!(
        text,
        "  chain forward {{\n    type filter hook forward priority 0;\n    \
         iifname \"{interface}\" oifname \"{PREFIX_OUTSIDE}*\" ct status dnat accept\n    \
         iifname \"{interface}\" oifname \"{PREFIX_OUTSIDE}*\" drop\n  }}"
    );
    for hook in ["prerouting", "output"] {
        let _ = writeln!(text, "  chain {hook} {{\n    type nat hook {hook} priority -100;\n{forwards}  }}");
    }
    let _ = writeln!(
        text,
        "  chain postrouting {{\n    type nat hook postrouting priority 100;\n    \
         ip saddr {inner} oifname != \"{interface}\" masquerade\n    \
         ip saddr 127.0.0.0/8 oifname \"{interface}\" masquerade\n  }}\n}}"
    );
    text
}

/// Removes the pod's rules; missing rules are fine. The veth pair ends with the namespace. The last pod on the host
/// gives `ip_forward` its old value back.
pub(super) fn disconnect(path: &Path, lock: &Path) -> BackendResult<()> {
    let fail = |what: &str, e| BackendError::system(what.to_owned(), e);
    let _lock = lock_host(lock).map_err(|e| fail("lock the host's forwarding", e))?;
    let table = table(path);
    match apply(&format!("table ip {table} {{}}\ndelete table ip {table}\n")) {
        // Without the program the rules cannot exist either.
        Err(BackendError::System { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let tables = apply("list tables ip\n")?;
    let mut names = tables.split_whitespace().filter(|word| word.starts_with("hutch_"));
    if !names.clone().any(|name| name == HOST_TABLE) || names.any(|name| name != HOST_TABLE) {
        return Ok(());
    }
    fs::write(IP_FORWARD, "0").map_err(|e| fail("restore ip_forward", e))?;
    apply(&format!("delete table ip {HOST_TABLE}\n")).map(drop)
}

/// Runs commands of nft, all or none, and returns its output.
fn apply(rules: &str) -> BackendResult<String> {
    let fail = |e: io::Error| {
        let hint = if e.kind() == io::ErrorKind::NotFound { " (install nftables)" } else { "" };
        BackendError::system(format!("run nft{hint}"), e)
    };
    let mut command = Command::new("nft");
    // Callers of OCI runtimes may have cleared PATH.
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    command.env("PATH", path.unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()));
    let mut child = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(fail)?;
    }
    let output = child.wait_with_output().map_err(fail)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(BackendError::Refused(format!("nft did not accept the rules: {}", errors.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_network_of_its_own() {
        assert_eq!(pair(0), ("10.89.0.1".parse().unwrap(), "10.89.0.2".parse().unwrap()));
        assert_eq!(pair(NETWORKS - 1), ("10.89.255.253".parse().unwrap(), "10.89.255.254".parse().unwrap()));
        assert!(format!("hutch-{}", NETWORKS - 1).len() < 16, "a name of an interface");
        assert_ne!(table(Path::new("/a/p")), table(Path::new("/b/p")));
    }

    #[test]
    fn rules_translate_and_forward() {
        let publish = ["8080:80", "10.0.0.1:53:53/udp", "0.0.0.0:81:80", "[::1]:7777:80"];
        let publish = publish.map(|text| PortForward::parse(text).unwrap());
        let text = rules(Path::new("/p"), "hutch-7", "10.89.0.30".parse().unwrap(), &publish);
        assert!(text.contains("fib daddr type local tcp dport 8080 dnat to 10.89.0.30:80"), "{text}");
        assert!(text.contains("fib daddr type local tcp dport 81 dnat"), "{text}");
        assert!(!text.contains("7777"), "not on other addresses: {text}");
        assert!(text.contains("ip daddr 10.0.0.1 udp dport 53 dnat to 10.89.0.30:53"), "{text}");
        assert!(text.contains("iifname \"hutch-7\" ip daddr 127.0.0.0/8 drop"), "{text}");
        assert!(text.contains("iifname \"hutch-7\" oifname \"hutch-*\" drop"), "{text}");
        assert!(text.contains("ip saddr 10.89.0.30 oifname != \"hutch-7\" masquerade"), "{text}");
    }
}
