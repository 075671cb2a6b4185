//! The checks. Each reads facts about the host and judges them.

use std::io;

use hutch_guest::{AssetKind, GuestError, Inspection, Stale};
use hutch_vmm::confine::trial::Granted;
use hutch_vmm::probe::KvmSupport;

use super::host::{Limit, View};
use super::report::{Finding, Status};
use hutch_agent_proto::error_chain;

/// Memory of `hutch run` without `--memory`, in MiB.
const GUEST_MEMORY_MIB: u64 = 256;
/// Smallest sensible limit of open files: a shared directory takes one for each file that the guest uses at a time.
const FILES: u64 = 4096;

/// Runs all checks.
pub fn examine(host: &dyn View) -> Vec<Finding> {
    let mut findings = vec![kvm(host), processor(host)];
    findings.push(required_asset(host));
    findings.push(optional_asset(host));
    findings.extend([memory(host), open_files(host), locked_memory(host), user(host), jail(host)]);
    findings.extend([tun(host), vhost_vsock(host), cgroups(host)]);
    findings
}

fn kvm(host: &dyn View) -> Finding {
    match host.kvm() {
        support @ KvmSupport::Hardware => Finding::ok("kvm", support.to_string()),
        support => Finding::failure("kvm", support.to_string(), support.remedy()),
    }
}

/// Whether the processor has virtualisation extensions, and whether this host is a virtual machine itself.
fn processor(host: &dyn View) -> Finding {
    const CHECK: &str = "processor";
    let Ok(cpuinfo) = host.read("/proc/cpuinfo") else {
        return Finding::warning(CHECK, "cannot read /proc/cpuinfo", "mount /proc");
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
            "enable nested virtualisation in this host's hypervisor",
        ),
    }
}

/// The guest assets that `hutch run` boots by default.
fn required_asset(host: &dyn View) -> Finding {
    const CHECK: &str = "guest-assets";
    match host.asset(&AssetKind::Distro) {
        Ok(inspection) => asset_finding(CHECK, &inspection),
        Err(error @ GuestError::NotBuilt { .. }) => {
            let dir = host.guest_dir();
            let detail = format!("none in {}", dir.display());
            Finding::failure(CHECK, detail, remedy_of(&error))
        }
        Err(error) => Finding::failure(CHECK, error_chain(&error), remedy_of(&error)),
    }
}

/// The kernel built for hutch, which boots faster and is optional.
fn optional_asset(host: &dyn View) -> Finding {
    const CHECK: &str = "guest-kernel";
    match host.asset(&AssetKind::Source) {
        Ok(inspection) => match asset_finding(CHECK, &inspection) {
            Finding { status: Status::Failure, detail, remedy, .. } => {
                Finding::warning(CHECK, detail, remedy.unwrap_or_default())
            }
            finding => finding,
        },
        Err(GuestError::NotBuilt { .. }) => Finding::ok(
            CHECK,
            "hutch's own kernel is not built (optional: `hutch guest build --kernel source` makes guests boot faster)",
        ),
        Err(error) => Finding::warning(CHECK, error_chain(&error), remedy_of(&error)),
    }
}

fn asset_finding(check: &'static str, inspection: &Inspection) -> Finding {
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
    let release = inspection.manifest.kernel.release.as_deref().unwrap_or("(unknown release)");
    let agent = inspection.manifest.agent.version.as_deref().unwrap_or("(unknown version)");
    let detail = format!("{kind}: Linux {release}, agent {agent}, checksums match");
    let agent_unusable = inspection.stale.iter().find_map(|stale| match stale {
        Stale::AgentUnusable { reason } => Some(reason),
        _ => None,
    });
    match agent_unusable {
        Some(reason) => Finding::warning(
            check,
            format!("{detail}; the agent beside hutch is not usable: {reason}"),
            "put the hutch-agent of the same build beside hutch, or set HUTCH_AGENT to the path of an agent",
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
        None => Finding::warning(CHECK, "/proc/meminfo does not report the available memory", "mount /proc"),
        Some(mib) if mib < GUEST_MEMORY_MIB => Finding::warning(
            CHECK,
            format!("{mib} MiB available; a guest gets {GUEST_MEMORY_MIB} MiB by default"),
            "stop other programs, or give guests less memory with --memory",
        ),
        Some(mib) => Finding::ok(CHECK, format!("{mib} MiB available")),
    }
}

fn open_files(host: &dyn View) -> Finding {
    const CHECK: &str = "open-files";
    match host.limit(Limit::Files) {
        Ok((_, hard)) if hard < FILES => Finding::warning(
            CHECK,
            format!("at most {hard} open files; guests that use many files at a time get ENFILE"),
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
            Finding::ok(CHECK, format!("{amount} (only pods with mlock use it)"))
        }
        Err(error) => unknown(CHECK, &error),
    }
}

fn unknown(check: &'static str, error: &io::Error) -> Finding {
    Finding::warning(check, format!("cannot read the limit: {error}"), "run `ulimit -a`")
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
            "not root: files that guests create belong to this user; pods and new tap devices need root",
            "run hutch as root if you need them",
        ),
    }
}

/// The layers that confine machines on this host, as this user.
fn jail(host: &dyn View) -> Finding {
    const CHECK: &str = "jail";
    let landlock = match host.landlock() {
        Some(version) => format!("landlock {version}"),
        None => "no landlock: threads may open every file that their user may".to_owned(),
    };
    if let Err(error) = host.seccomp() {
        return Finding::warning(
            CHECK,
            format!("this kernel has no seccomp filters ({error}): machines run without them"),
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        );
    }
    let granted = host.granted();
    let (holds, missing) = layers(&granted);
    let mut parts = vec![format!("machines get seccomp, {landlock}")];
    for (what, layers) in [("also", holds), ("without", missing)] {
        if !layers.is_empty() {
            parts.push(format!("{what}: {}", layers.join(", ")));
        }
    }
    if !host.is_root() && granted.apart.is_err() {
        parts.push("a machine without shares tries these in a user namespace".to_owned());
    }
    let detail = parts.join("; ");
    // It is usual that other users have no namespaces.
    match host.is_root() && (granted.apart.is_err() || granted.root.is_err()) {
        true => Finding::warning(CHECK, detail, "run hutch with CAP_SYS_ADMIN: this root is that of a container"),
        false => Finding::ok(CHECK, detail),
    }
}

/// The layers of a machine's process that depend on the user: those that it gets, and those that it does not get.
fn layers(granted: &Granted) -> (Vec<String>, Vec<String>) {
    let (mut holds, mut missing) = (Vec::new(), Vec::new());
    let layers = [
        ("private root", &granted.root),
        ("ns mnt,ipc,uts", &granted.apart),
        ("ns pid for a pod", &granted.pid),
        ("ns net if it has no network", &granted.net),
    ];
    for (layer, result) in layers {
        match result {
            Ok(()) => holds.push(layer.to_owned()),
            Err(error) => missing.push(format!("{layer} ({error})")),
        }
    }
    match granted.identity {
        Ok(()) => holds.push("a uid of its own if it has no shares".to_owned()),
        Err(reason) => missing.push(format!("a uid of its own ({reason})")),
    }
    if granted.file_server > 0 {
        holds.push(format!("caps fs {} for its shares", granted.file_server));
    }
    (holds, missing)
}

fn tun(host: &dyn View) -> Finding {
    match host.access("/dev/net/tun") {
        Ok(()) => Finding::ok("tun", "/dev/net/tun exists"),
        Err(error) => Finding::warning(
            "tun",
            format!("guests cannot have a network: /dev/net/tun: {error}"),
            match error.kind() {
                io::ErrorKind::PermissionDenied => "run as root, or give this user access to /dev/net/tun",
                _ => "load the module tun: modprobe tun",
            },
        ),
    }
}

fn vhost_vsock(host: &dyn View) -> Finding {
    let detail = match host.access("/dev/vhost-vsock") {
        Ok(()) => "/dev/vhost-vsock exists; hutch does not need it, because it has its own vsock device",
        Err(_) => "no /dev/vhost-vsock; hutch does not need it, because it has its own vsock device",
    };
    Finding::ok("vhost-vsock", detail)
}

fn cgroups(host: &dyn View) -> Finding {
    const CHECK: &str = "cgroups";
    if host.is_cgroup2("/sys/fs/cgroup") {
        let controllers = host.read("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return Finding::ok(CHECK, format!("version 2, controllers: {}", controllers.trim()));
    }
    let detail = match host.is_cgroup2("/sys/fs/cgroup/unified") {
        true => "versions 1 and 2 side by side",
        false => "version 1, or not mounted",
    };
    Finding::warning(
        CHECK,
        format!("{detail}; resource limits of pods need version 2 only"),
        "boot the host with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 at /sys/fs/cgroup",
    )
}
