//! Every way to describe a pod or container, and the message of every mistake.

use clap::Parser;
use hutch_runtime::spec::Protocol;

use super::*;
use crate::args::container::ContainerCommand;
use crate::args::pod::PodCommand;
use crate::args::{Args, Command as Verb};
use crate::resolve::tests::directory;

fn own_env(name: &OsStr) -> Option<OsString> {
    (name == "LANG").then(|| "C".into())
}

fn host() -> Host<'static> {
    Host { memory_mib: 4096, env: &own_env, stdin_tty: false, pid: 7 }
}

/// Parses `hutch LINE`, where `@` is a directory with some files.
fn parse(dir: &Path, line: &str) -> Verb {
    let line = line.replace('@', dir.to_str().unwrap());
    Args::try_parse_from(std::iter::once("hutch").chain(line.split(' '))).unwrap_or_else(|e| panic!("{e}")).command
}

fn try_pod(line: &str) -> Result<PodPlan, ResolveError> {
    let dir = directory();
    let Verb::Pod(args) = parse(dir.path(), &format!("pod create {line}")) else { panic!("{line}") };
    let PodCommand::Create(new) = args.what else { panic!("{line}") };
    pod(&new, &host())
}

fn try_container(line: &str) -> Result<ContainerConfig, ResolveError> {
    let dir = directory();
    let Verb::Container(args) = parse(dir.path(), &format!("container {line}")) else { panic!("{line}") };
    match args.what {
        ContainerCommand::Create(new) => new_container(&new, &host()),
        _ => panic!("{line}"),
    }
}

fn try_exec(line: &str) -> Result<Command, ResolveError> {
    let dir = directory();
    let Verb::Container(args) = parse(dir.path(), &format!("container exec {line}")) else { panic!("{line}") };
    match args.what {
        ContainerCommand::Exec(args) => exec(&args, &host()),
        _ => panic!("{line}"),
    }
}

#[test]
fn a_pod_has_a_jail_unless_it_says_no() {
    assert_eq!(try_pod("--rootfs @ -- x").unwrap().config.hypervisor.jail, Jail::On);
    assert_eq!(try_pod("--no-jail --rootfs @ -- x").unwrap().config.hypervisor.jail, Jail::Off);
}

#[test]
fn flags_make_a_pod_with_one_container_of_its_name() {
    let line = "--name web --cpus 2 --memory 1G -p 8080:80 -v @/sub:/data:ro --tmpfs /tmp:size=1m -e A=b=c -e LANG \
                -w /w -u 1:2 --read-only --rootfs @ -- serve -x";
    let plan = try_pod(line).unwrap();
    let config = plan.config;
    assert_eq!((config.id.as_str(), config.hostname.as_str()), ("web", "web"));
    assert_eq!((config.hypervisor.vcpus, config.resources.memory_mib), (2, 1024));
    assert_eq!((config.network.kind, config.network.publish[0].host_port), (NetworkKind::Nat, 8080));
    let container = &config.containers[0];
    assert_eq!(container.id, "web");
    assert_eq!(container.command.args, ["serve", "-x"]);
    assert!(container.readonly_rootfs && container.command.detach && container.rootfs.is_absolute());
    let env: Vec<_> = container.command.env.iter().map(|e| format!("{}={}", e.name, e.value)).collect();
    assert!(env.contains(&"A=b=c".to_owned()) && env.contains(&"LANG=C".to_owned()), "{env:?}");
    assert_eq!((container.command.cwd.as_str(), container.command.user.as_str()), ("/w", "1:2"));
    let mounts: Vec<_> = container.mounts.iter().map(|m| (m.destination.as_str(), m.kind.as_str())).collect();
    assert_eq!(mounts, [("/data", "bind"), ("/tmp", "tmpfs")]);
    assert!(container.mounts[0].read_only);
    config.clone().containers[0].validate().unwrap();
}

#[test]
fn security_options_are_as_with_other_engines() {
    let of = |flags: &str| {
        let config = try_container(&format!("create p {flags} --rootfs @ -- a"))?;
        Ok::<_, ResolveError>((config.seccomp, config.command.no_new_privileges))
    };
    assert_eq!(of("--read-only").unwrap(), (None, false));
    assert_eq!(of("--security-opt seccomp=/p.json").unwrap().0, Some(Seccomp::File("/p.json".into())));
    let relative = of("--security-opt seccomp=p.json").unwrap().0;
    assert_eq!(relative, Some(Seccomp::File(std::env::current_dir().unwrap().join("p.json"))));
    assert_eq!(of("--security-opt seccomp=/p --security-opt seccomp=unconfined").unwrap().0, None);
    assert!(of("--security-opt no-new-privileges").unwrap().1);
    assert!(of("--security-opt no-new-privileges=true").unwrap().1);
    assert!(!of("--security-opt no-new-privileges=false").unwrap().1);
    for bad in ["seccomp", "seccomp=", "apparmor=x", "no-new-privileges=x", "seccomp:/p"] {
        let refused = of(&format!("--security-opt {bad}"));
        assert!(matches!(refused, Err(ResolveError::SecurityOption(_))), "{bad}");
    }
}

#[test]
fn names_are_made_up_where_none_is_given() {
    let (one, two) = (try_pod("--rootfs @ -- a").unwrap(), try_pod("--rootfs @ -- a").unwrap());
    assert!(one.config.id.starts_with("pod-") && one.config.id != two.config.id);
    assert!(try_container("create p --rootfs @ -- a").unwrap().id.starts_with("container-"));
}

#[test]
fn networks() {
    let of = |flags: &str| try_pod(&format!("{flags} --rootfs @ -- a")).map(|plan| plan.config.network);
    assert_eq!(of("--net none").unwrap().kind, NetworkKind::None);
    assert_eq!(of("--net nat").unwrap().kind, NetworkKind::Nat);
    assert_eq!(of("--net ns=blue").unwrap().namespace, Some("/run/netns/blue".into()));
    assert_eq!(of("--net ns=/proc/1/ns/net").unwrap().namespace, Some("/proc/1/ns/net".into()));
    assert_eq!(of("-p 53:53/udp").unwrap().publish[0].protocol, Protocol::Udp);
    assert!(matches!(of("--net bridge"), Err(ResolveError::PodNet(_))));
    assert!(matches!(of("--net ns="), Err(ResolveError::PodNet(_))));
    assert!(matches!(of("-p 80"), Err(ResolveError::Api(_))));
}

#[test]
fn a_configuration_file_is_taken_with_overrides() {
    let dir = directory();
    fs::write(dir.path().join("c.toml"), "id = \"web\"\n[resources]\nmemory_mib = 64\n").unwrap();
    fs::write(dir.path().join("c.json"), r#"{"id":"web","nonsense":1}"#).unwrap();
    let of = |line: &str| {
        let Verb::Pod(args) = parse(dir.path(), &format!("pod create {line}")) else { panic!() };
        let PodCommand::Create(new) = args.what else { panic!() };
        pod(&new, &host())
    };
    assert_eq!(of("@/c.toml").unwrap().config.resources.memory_mib, 64);
    let config = of("@/c.toml --name other --memory 128M").unwrap().config;
    assert_eq!((config.id.as_str(), config.resources.memory_mib), ("other", 128));
    assert!(of("@/c.json").unwrap_err().to_string().contains("nonsense"));
    assert!(of("@/none.json").unwrap_err().to_string().contains("none.json"));
}

#[test]
fn limits_of_containers() {
    let of = |flags: &str| try_container(&format!("create p {flags} --rootfs @ -- a")).map(|c| c.resources);
    let resources = of("--cpus 1.5 --memory 64M --cpu-shares 512 --pids-limit 9").unwrap();
    assert_eq!((resources.cpu_quota, resources.cpu_period), (Some(150_000), Some(100_000)));
    assert_eq!((resources.memory, resources.cpu_shares, resources.pids), (Some(64 << 20), Some(512), Some(9)));
    let resources = of("--cpus -1 --memory -1").unwrap();
    assert_eq!((resources.cpu_quota, resources.memory), (Some(-1), Some(-1)));
    for flags in ["--cpus 0", "--cpus x", "--cpus -2"] {
        assert!(matches!(of(flags), Err(ResolveError::CpuLimit(_))), "{flags}");
    }
    for flags in ["--memory 0", "--memory x"] {
        assert!(matches!(of(flags), Err(ResolveError::MemorySyntax(_))), "{flags}");
    }
}

#[test]
fn commands_of_exec() {
    let command = try_exec("-e A=1 -w /x -u a:b -i p c sh -c true").unwrap();
    assert_eq!(command.args, ["sh", "-c", "true"]);
    assert!(command.stdin && !command.interactive && !command.detach);
    assert!(matches!(try_exec("-it p c sh"), Err(ResolveError::NotATerminal)));
    assert!(matches!(try_exec("-u a:b:c p c sh"), Err(ResolveError::User(_))));
    let detached = try_exec("-d -i p c -- sh").unwrap();
    assert!(detached.detach && !detached.stdin);
}

#[test]
fn mistakes_have_names() {
    assert!(matches!(try_pod("--rootfs @"), Err(ResolveError::NoCommand)));
    assert!(matches!(try_pod("--rootfs @/none -- a"), Err(ResolveError::Rootfs { .. })));
    assert!(matches!(try_pod("--annotation x --rootfs @ -- a"), Err(ResolveError::Annotation(_))));
    assert!(matches!(options(Some("soon".as_ref()), None, &own_env), Err(ResolveError::Seconds { .. })));
    let options = options(None, Some("0".as_ref()), &own_env).unwrap();
    assert_eq!(options.stop_timeout, Duration::ZERO);
}

#[test]
fn time_limits_of_a_stop_come_from_the_environment() {
    let own = |name: &std::ffi::OsStr| match name.to_str() {
        Some("HUTCH_SYNC_TIMEOUT") => Some("7".into()),
        Some("HUTCH_POWER_OFF_TIMEOUT") => Some("0.5".into()),
        _ => None,
    };
    let options = options(None, None, &own).unwrap();
    assert_eq!(options.sync_timeout, Duration::from_secs(7));
    assert_eq!(options.power_off_timeout, Duration::from_millis(500));
    let bad = |name: &std::ffi::OsStr| (name == "HUTCH_POWER_OFF_TIMEOUT").then(|| "soon".into());
    assert!(matches!(super::options(None, None, &bad), Err(ResolveError::Seconds { .. })));
}
