//! The checks. Each looks at the host and says what it means.

use std::io;

use hutch_runtime::guest::{AssetKind, GuestError, Inspection, Stale};
use hutch_vmm::probe::KvmSupport;

use super::host::{Limit, View};
use super::Finding;
use crate::failure::chain;

/// Memory of a guest that is given none, in MiB.
const GUEST_MEMORY_MIB: u64 = 256;
/// Open files below which sharing a directory is no fun: one per file that the guest uses at a time.
const FILES: u64 = 4096;

/// Examines everything.
pub fn examine(host: &dyn View) -> Vec<Finding> {
    let mut findings = vec![kvm(host), processor(host)];
    findings.push(required_asset(host));
    findings.push(optional_asset(host));
    findings.extend([memory(host), open_files(host), locked_memory(host), user(host)]);
    findings.extend([tun(host), vhost_vsock(host), cgroups(host)]);
    findings
}

fn kvm(host: &dyn View) -> Finding {
    match host.kvm() {
        support @ KvmSupport::Hardware => Finding::ok("kvm", support.to_string()),
        support => Finding::failure("kvm", support.to_string(), support.remedy()),
    }
}

/// Whether the processor is a true one.
fn processor(host: &dyn View) -> Finding {
    const CHECK: &str = "processor";
    let Ok(cpuinfo) = host.read("/proc/cpuinfo") else {
        return Finding::warning(CHECK, "/proc/cpuinfo can't be read", "mount /proc");
    };
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
    let extension = match (has("vmx"), has("svm")) {
        (true, _) => "vmx",
        (_, true) => "svm",
        _ => "no virtualisation extension (vmx or svm)",
    };
    match (has("hypervisor"), has("vmx") || has("svm")) {
        (false, _) => Finding::ok(CHECK, extension),
        (true, true) => Finding::ok(CHECK, format!("{extension}, nested: this host is itself a virtual machine")),
        (true, false) => Finding::warning(
            CHECK,
            format!("{extension}; this host is itself a virtual machine"),
            "switch nested virtualisation on in the hypervisor of this host",
        ),
    }
}

/// What `hutch run` boots unless told otherwise.
fn required_asset(host: &dyn View) -> Finding {
    const CHECK: &str = "guest-assets";
    match host.asset(&AssetKind::Distro) {
        Ok(inspection) => judge(CHECK, &inspection),
        Err(error @ GuestError::NotBuilt { .. }) => {
            let dir = host.guest_dir();
            let detail = format!("none in {}", dir.display());
            Finding::failure(CHECK, detail, remedy_of(&error))
        }
        Err(error) => Finding::failure(CHECK, chain(&error), remedy_of(&error)),
    }
}

/// The kernel built for hutch: faster, and nobody has to have it.
fn optional_asset(host: &dyn View) -> Finding {
    const CHECK: &str = "guest-kernel";
    match host.asset(&AssetKind::Source) {
        Ok(inspection) => match judge(CHECK, &inspection) {
            Finding { status: super::Status::Failure, detail, remedy, .. } => {
                Finding::warning(CHECK, detail, remedy.unwrap_or_default())
            }
            finding => finding,
        },
        Err(GuestError::NotBuilt { .. }) => Finding::ok(
            CHECK,
            "hutch's own kernel is not built (optional: `hutch guest build --kernel source` makes guests boot faster)",
        ),
        Err(error) => Finding::warning(CHECK, chain(&error), remedy_of(&error)),
    }
}

fn judge(check: &'static str, inspection: &Inspection) -> Finding {
    let kind = &inspection.manifest.kind;
    let damaged: Vec<String> = inspection
        .files
        .iter()
        .filter_map(|file| file.problem.as_ref().map(|problem| format!("{} {problem}", file.name)))
        .collect();
    if !damaged.is_empty() {
        let remedy = format!("run `hutch guest build --kernel {kind} --force`");
        return Finding::failure(check, format!("{kind}: {}", damaged.join("; ")), remedy);
    }
    let release = inspection.manifest.kernel.release.as_deref().unwrap_or("of unknown release");
    let agent = inspection.manifest.agent.version.as_deref().unwrap_or("of unknown version");
    let detail = format!("{kind}: Linux {release}, agent {agent}, sums right");
    let agent_unusable = inspection.stale.iter().find_map(|stale| match stale {
        Stale::AgentUnusable { reason } => Some(reason),
        _ => None,
    });
    match agent_unusable {
        Some(reason) => Finding::warning(
            check,
            format!("{detail}; the agent beside hutch can't be used: {reason}"),
            "build hutch-agent for x86_64-unknown-linux-musl, or name one with HUTCH_AGENT",
        ),
        None => Finding::ok(check, detail),
    }
}

fn remedy_of(error: &GuestError) -> String {
    match error {
        GuestError::NotBuilt { kind, .. } => format!("run `hutch guest build --kernel {kind}`"),
        _ => "run `hutch guest build --force`".to_owned(),
    }
}

fn memory(host: &dyn View) -> Finding {
    const CHECK: &str = "memory";
    let available = host.read("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    match available.map(|kib| kib >> 10) {
        None => Finding::warning(CHECK, "/proc/meminfo does not tell what is available", "mount /proc"),
        Some(mib) if mib < GUEST_MEMORY_MIB => Finding::warning(
            CHECK,
            format!("{mib} MiB available, less than a guest's usual {GUEST_MEMORY_MIB} MiB"),
            "end other programs, or give guests less with --memory",
        ),
        Some(mib) => Finding::ok(CHECK, format!("{mib} MiB available")),
    }
}

fn open_files(host: &dyn View) -> Finding {
    const CHECK: &str = "open-files";
    match host.limit(Limit::Files) {
        Ok((_, hard)) if hard < FILES => Finding::warning(
            CHECK,
            format!("at most {hard} open files; a guest that uses many files at a time gets ENFILE"),
            format!("raise the hard limit to {FILES} or more (ulimit -Hn, LimitNOFILE= of the service)"),
        ),
        Ok((_, hard)) => Finding::ok(CHECK, format!("up to {} open files", amount(hard))),
        Err(error) => unknown(CHECK, &error),
    }
}

fn locked_memory(host: &dyn View) -> Finding {
    const CHECK: &str = "locked-memory";
    match host.limit(Limit::Memlock) {
        Ok((_, hard)) => {
            let amount = if hard == u64::MAX { amount(hard) } else { format!("{} KiB", hard >> 10) };
            Finding::ok(CHECK, format!("{amount} (hutch locks none)"))
        }
        Err(error) => unknown(CHECK, &error),
    }
}

fn unknown(check: &'static str, error: &io::Error) -> Finding {
    Finding::warning(check, format!("the limit is not known: {error}"), "see ulimit -a")
}

fn amount(limit: u64) -> String {
    match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => limit.to_string(),
    }
}

fn user(host: &dyn View) -> Finding {
    match host.is_root() {
        true => Finding::ok("user", "root"),
        false => Finding::warning(
            "user",
            "not root: a guest's files belong to this user, and pods and new tap devices are out of reach",
            "run as root where that matters",
        ),
    }
}

fn tun(host: &dyn View) -> Finding {
    match host.access("/dev/net/tun") {
        Ok(()) => Finding::ok("tun", "/dev/net/tun is there"),
        Err(error) => Finding::warning(
            "tun",
            format!("no network for guests: /dev/net/tun: {error}"),
            match error.kind() {
                io::ErrorKind::PermissionDenied => "run as root, or give this user access to /dev/net/tun",
                _ => "load the module tun (modprobe tun)",
            },
        ),
    }
}

fn vhost_vsock(host: &dyn View) -> Finding {
    let detail = match host.access("/dev/vhost-vsock") {
        Ok(()) => "/dev/vhost-vsock is there; hutch does not need it, it has a vsock device of its own",
        Err(_) => "no /dev/vhost-vsock; hutch does not need it, it has a vsock device of its own",
    };
    Finding::ok("vhost-vsock", detail)
}

fn cgroups(host: &dyn View) -> Finding {
    const CHECK: &str = "cgroups";
    if host.is_cgroup2("/sys/fs/cgroup") {
        let controllers = host.read("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return Finding::ok(CHECK, format!("version 2 with {}", controllers.trim()));
    }
    let detail = match host.is_cgroup2("/sys/fs/cgroup/unified") {
        true => "versions 1 and 2 side by side",
        false => "version 1, or none mounted",
    };
    Finding::warning(
        CHECK,
        format!("{detail}; limits on pods want version 2 alone"),
        "boot the host with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup",
    )
}
