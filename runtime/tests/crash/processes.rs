//! VMM processes and shims as processes: what callers see of them.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hutch_agent_proto::Request;
use hutch_runtime::backend::{AgentHost, BackendError, VmReply, VmRequest};
use hutch_runtime::fault::{arm, passed, Action};
use hutch_runtime::process::ProcessIdentity;
use hutch_runtime::spec;
use hutch_runtime::vm_host::message::{ControlHello, CONTROL_PROTOCOL};
use hutch_runtime::vm_host::{ControlClient, VsockAgents};
use hutch_runtime::{DeleteOptions, ErrorKind, Runtime, State, StopOptions};
use hutch_runtime_fakes::process::Stage;
use hutch_takeover::{threads, Taken};
use nix::fcntl::{fcntl, FcntlArg, FdFlag};
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;

use crate::calls::{assert_no_leaks, container, pod, ROLE_TEST};

fn running() -> (Stage, hutch_runtime::Runtime) {
    let stage = Stage::new(ROLE_TEST);
    let runtime = stage.runtime();
    runtime.run_pod(pod(&stage, "p")).unwrap();
    // The other tests find nothing left; this shows that they would find it.
    assert_eq!(stage.processes().len(), 2, "the VMM and a shim");
    assert!(stage.leaks().iter().any(|leak| leak.contains("namespace")), "{:?}", stage.leaks());
    (stage, runtime)
}

fn finish(stage: &Stage, runtime: &hutch_runtime::Runtime) {
    runtime.delete_pod("p", hutch_runtime::DeleteOptions { force: true }).unwrap();
    assert_no_leaks(stage, "the end");
}

#[test]
fn a_shim_lives_as_long_as_its_process_and_exits_with_its_code() {
    let stage = Stage::new(ROLE_TEST);
    let runtime = stage.runtime_that_collects_nothing();
    runtime.run_pod(pod(&stage, "p")).unwrap();
    let pid = runtime.status_container("p", "a").unwrap().pid;
    let shim = ProcessIdentity::of(pid).unwrap();
    assert!(shim.is_alive());
    stage.control_guest("p", "exit a 37").unwrap();
    assert!(shim.wait_end(Duration::from_secs(120)).unwrap());
    // It is a child of this process.
    let pid = Pid::from_raw(pid);
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, 37)));
    let status = runtime.status_container("p", "a").unwrap();
    assert_eq!((status.state, status.exit.unwrap().code), (Some(State::Stopped), Some(37)));
    finish(&stage, &runtime);
}

/// A power-off that was asked for leaves no failure record, not even for the moment until the stop removes it; one that
/// no call asked for does.
#[test]
fn p_080_only_an_unexpected_end_is_a_failure() {
    let (stage, runtime) = running();
    // While the machine runs there is an empty file.
    let failure = stage.dir().join("run/p/failure.json");
    let noted = || std::fs::metadata(&failure).is_ok_and(|found| found.len() > 0);
    let fault = arm("vm.wait-end:after", 1, Action::Error);
    assert!(runtime.stop_pod("p", StopOptions::forced()).is_err(), "{:?}", passed());
    drop(fault);
    assert!(failure.exists() && !noted());
    runtime.stop_pod("p", StopOptions::default()).unwrap();

    runtime.start_pod("p").unwrap();
    let record = stage.vm_record("p").unwrap();
    let mut session = VsockAgents::default().connect(&record, Duration::from_secs(120)).unwrap();
    let _ = session.call(Request::PowerOff, Duration::from_secs(120));
    assert!(record.process.wait_end(Duration::from_secs(120)).unwrap());
    assert!(runtime.status_pod("p").unwrap().reason.unwrap().contains("powered off"));
    assert!(noted());
    finish(&stage, &runtime);
}

#[test]
fn a_forbidden_call_of_a_shim_is_named_in_its_containers_exit() {
    let stage = Stage::new(ROLE_TEST);
    // Another thread that waits for the shim would get what its tracer waits for.
    let runtime = stage.runtime_that_collects_nothing();
    runtime.run_pod(pod(&stage, "p")).unwrap();
    let pid = runtime.status_container("p", "a").unwrap().pid;
    let shim = ProcessIdentity::of(pid).unwrap();
    // It makes this thread after it has put its filter on.
    let begin = Instant::now();
    let taken = loop {
        let found = threads(pid).into_iter().find(|thread| thread.name == "signals");
        if let Some(taken) = found.and_then(|thread| Taken::take(thread.id)) {
            break taken;
        }
        assert!(begin.elapsed() < Duration::from_secs(120), "the shim passes no signals on");
        std::thread::yield_now();
    };
    taken.violate(libc::SYS_execve, [0; 6], Some((0, "/bin/true")));
    assert!(shim.wait_end(Duration::from_secs(120)).unwrap());
    assert_eq!(waitpid(Pid::from_raw(pid), None), Ok(WaitStatus::Exited(Pid::from_raw(pid), 159)));
    let status = runtime.status_container("p", "a").unwrap();
    let reason = status.exit.and_then(|exit| exit.reason).expect("a reason");
    let named =
        ["its shim has ended: the jail ended this process: thread signals", " made the system call execve (59)"];
    assert!(named.iter().all(|part| reason.contains(part)), "{reason}");
    finish(&stage, &runtime);
}

/// Callers signal the PID they see.
#[test]
fn a_signal_to_the_shim_reaches_the_process_it_stands_for() {
    let (stage, runtime) = running();
    let pid = Pid::from_raw(runtime.status_container("p", "a").unwrap().pid);
    kill(pid, Signal::SIGTERM).unwrap();
    let exit = runtime.wait_container("p", "a", Duration::from_secs(120)).unwrap().expect("its end");
    assert_eq!(exit.signal, Some(15));
    finish(&stage, &runtime);
}

#[test]
fn p_097_a_detached_exec_outlives_its_caller_and_keeps_none_of_its_pipes() {
    let (stage, runtime) = running();
    let mut command = stage.command("call");
    // This process's own standard streams cannot be read by this test; a call in between has some of its own.
    command.env("HUTCH_TEST_CALL", "exec_container").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(child.wait().unwrap().success());
    let processes = runtime.list_execs("p", "a").unwrap();
    assert_eq!(processes.len(), 1);
    assert!(ProcessIdentity::of(processes[0].pid).unwrap().is_alive(), "it outlives the call that started it");
    // Detached: no process keeps the caller's pipe (O-009); it ends with the call.
    let mut output = String::new();
    child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    assert!(ProcessIdentity::of(processes[0].pid).unwrap().is_alive(), "the pipe's end was not its end");
    finish(&stage, &runtime);
}

#[test]
fn p_126_an_exec_of_another_process_can_be_waited_for() {
    let (stage, runtime) = running();
    let command = spec::Command { args: vec!["exit".into(), "9".into()], detach: true, ..spec::Command::default() };
    let (_, _, process) = runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    let other = stage.runtime();
    let exit = other.wait_process("p", "a", &process.token, Duration::from_secs(120)).unwrap().unwrap();
    assert_eq!(exit.code, Some(9));
    let command = spec::Command { args: vec!["serve".into()], detach: true, ..spec::Command::default() };
    let (_, _, process) = runtime.exec_container("p", "a", &command, Default::default()).unwrap();
    let shim = ProcessIdentity::of(process.pid).unwrap();
    assert!(shim.is_alive());
    runtime.stop_container("p", "a", StopOptions::forced()).unwrap();
    assert!(!shim.is_alive());
    finish(&stage, &runtime);
}

/// P-031: neither the VMM nor a shim has anything of the caller's but its standard streams.
#[test]
fn p_031_children_inherit_no_descriptors() {
    let stage = Stage::new(ROLE_TEST);
    // A caller with a descriptor that is not close-on-exec.
    let marker = stage.dir().join("marker");
    std::fs::write(&marker, "").unwrap();
    let file = std::fs::File::open(&marker).unwrap();
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let runtime = stage.runtime();
    runtime.run_pod(pod(&stage, "p")).unwrap();
    let status = runtime.status_pod("p").unwrap();
    for pid in [status.vmm_pid, status.containers[0].pid] {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            let target = std::fs::read_link(entry.path()).unwrap_or_default();
            let text = target.to_string_lossy().into_owned();
            assert!(target != marker && !text.ends_with("/lock"), "{pid}: {text}");
        }
    }
    drop(file);
    finish(&stage, &runtime);
}

#[test]
fn the_vmm_is_in_a_session_of_its_own_with_its_output_in_a_file() {
    let (stage, runtime) = running();
    let status = runtime.status_pod("p").unwrap();
    for pid in [status.vmm_pid, status.containers[0].pid] {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!(fields[3], pid.to_string(), "session of {pid}");
    }
    let stdout = std::fs::read_link(format!("/proc/{}/fd/1", status.vmm_pid)).unwrap();
    assert!(stdout.ends_with("run/p/vmm.log"), "{stdout:?}");
    let name = std::fs::read(format!("/proc/{}/cmdline", status.vmm_pid)).unwrap();
    assert!(name.starts_with(b"hutch-vmm p\0"), "{}", String::from_utf8_lossy(&name));
    finish(&stage, &runtime);
}

#[test]
fn the_control_socket_answers_several_callers_and_survives_nonsense() {
    let (stage, runtime) = running();
    let socket = stage.vm_record("p").unwrap().socket;
    let mut clients: Vec<ControlClient> = (0..20).map(|_| ControlClient::connect(&socket).unwrap()).collect();
    for client in &mut clients {
        assert!(matches!(client.call(VmRequest::State), Ok(VmReply::State(_))));
    }
    let spec = Box::default();
    assert!(matches!(clients[0].call(VmRequest::Start(spec)), Err(BackendError::Refused(_))));
    assert!(clients[0].open_port(4711, Duration::from_secs(1)).is_err(), "nothing listens there");
    for nonsense in [b"\xff\xff\xff\xff".as_slice(), b"\x02\x00\x00\x00{}", b"x"] {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
    }
    assert!(clients[1].call(VmRequest::State).is_ok());
    assert_eq!(runtime.status_pod("p").unwrap().state, Some(State::Running));
    finish(&stage, &runtime);
}

/// The process of a machine may be older or newer than the program that finds it.
#[test]
fn a_process_of_another_version_is_recognised_and_its_machine_is_not_killed() {
    let (stage, runtime) = running();
    let record = stage.dir().join("run/p/hypervisor.json");
    let kept = std::fs::read_to_string(&record).unwrap();
    let other = stage.dir().join("other.sock");
    let listener = UnixListener::bind(&other).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let hello = ControlHello { protocol: CONTROL_PROTOCOL + 1, program: "9.9.9".into() };
            let _ = hutch_agent_proto::write_frame(&mut stream, &hello);
        }
    });
    let mut value: serde_json::Value = serde_json::from_str(&kept).unwrap();
    value["data"]["socket"] = other.display().to_string().into();
    std::fs::write(&record, value.to_string()).unwrap();
    let error = runtime.pause_pod("p").unwrap_err().chain();
    assert!(
        error.contains("another version of hutch (9.9.9") && error.contains("stop the pod with that one"),
        "{error}"
    );
    let error = runtime.stop_pod("p", StopOptions::default()).unwrap_err().chain();
    assert!(error.contains("another version"), "{error}");
    std::fs::write(&record, kept).unwrap();
    assert!(ProcessIdentity::of(runtime.status_pod("p").unwrap().vmm_pid).unwrap().is_alive());
    finish(&stage, &runtime);
}

#[test]
fn a_machine_that_does_not_start_says_why_and_leaves_nothing() {
    let stage = Stage::new(ROLE_TEST);
    let runtime = stage.runtime();
    let error = runtime.create_pod(pod(&stage, "unbootable")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert!(error.chain().contains("does not boot"), "{}", error.chain());
    assert_no_leaks(&stage, "a failed start");
    let mut config = pod(&stage, "p");
    config.hypervisor.vmm = Some("/bin/false".into());
    let error = runtime.create_pod(config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Backend);
    assert_no_leaks(&stage, "a program that is not a VMM");
}

/// The statistics of the VMM process come from the host.
#[test]
fn a_pods_statistics_include_its_vmm_process() {
    let (stage, runtime) = running();
    let stats = runtime.stats_pod("p").unwrap();
    assert!(stats.machine.resident_bytes > 100_000 && stats.machine.threads > 1, "{stats:?}");
    assert_eq!(stats.containers[0].1.pids, 1);
    finish(&stage, &runtime);
}

/// P-083, P-140, P-144: through the control socket.
#[test]
fn a_pod_in_a_process_can_be_paused_resumed_and_stopped() {
    let (stage, runtime) = running();
    runtime.pause_pod("p").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(runtime.status_container("p", "a").unwrap().state, Some(State::Paused));
    runtime.resume_pod("p").unwrap();
    runtime.pause_pod("p").unwrap();
    runtime.stop_pod("p", StopOptions::default()).unwrap();
    finish(&stage, &runtime);
}

/// P-114: the PID of a shim that is gone, in use by another process.
#[test]
fn p_114_a_recycled_pid_is_left_alone() {
    let (stage, runtime) = running();
    let path = stage.dir().join("run/p/a/process.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let old = record["data"]["pid"].as_i64().unwrap() as i32;
    // Starts are counted in ticks of ten milliseconds. No PID comes round within one, but this test is that fast.
    std::thread::sleep(Duration::from_millis(25));
    let mut other = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
    record["data"]["pid"] = other.id().into();
    std::fs::write(&path, record.to_string()).unwrap();
    // The process with that PID started at another time: the shim counts as dead, the container is stopped.
    assert_eq!(runtime.status_container("p", "a").unwrap().state, Some(State::Stopped));
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    let shim = ProcessIdentity::of(old);
    assert!(shim.is_err() || shim.unwrap().wait_end(Duration::from_secs(120)).unwrap());
    let _ = container(&stage, "x");
    finish(&stage, &runtime);
}

/// Plays a hook of pod `p`: writes into a file how calls on its own pod ended.
pub fn call_own_pod(stage: &Stage, runtime: &Runtime) -> u8 {
    let status = runtime.status_pod("p").map(|status| format!("{:?}", status.state)).unwrap_or_else(|e| e.chain());
    let stop = runtime.stop_pod("p", StopOptions::forced()).map(|_| String::new()).unwrap_or_else(|e| e.chain());
    std::fs::write(stage.dir().join("found"), format!("{status}\n{stop}")).expect("a file");
    0
}

/// A hook runs while the call that runs it holds the pod's lock. A call of the hook on its own pod must not wait for
/// that: both would wait for as long as a lock may take.
#[test]
fn p_160_a_hook_may_ask_for_its_own_pod() {
    let stage = Stage::new(ROLE_TEST);
    let runtime = stage.runtime();
    let role = stage.reexec("hook");
    let text = |text: std::ffi::OsString| text.into_string().expect("text");
    let mut config = pod(&stage, "p");
    config.hooks.poststart = vec![hutch_runtime::spec::HookSpec {
        path: std::env::current_exe().expect("this program"),
        args: std::iter::once("hook".to_owned()).chain(role.args.into_iter().map(text)).collect(),
        env: role.env.into_iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect(),
        // Less than the lock's own bound: a hook that waits for the lock is killed, and leaves no file.
        timeout: 50,
    }];
    runtime.run_pod(config).unwrap();
    let found = std::fs::read_to_string(stage.dir().join("found")).expect("the hook has ended by itself");
    let (status, stop) = found.split_once('\n').expect("two lines");
    assert_eq!(status, "Some(Running)");
    assert!(stop.contains("pod p") && stop.contains("hook"), "{stop}");
    runtime.delete_pod("p", DeleteOptions { force: true }).unwrap();
    assert_no_leaks(&stage, "a hook that asks");
}
