//! The network of pods, as far as the API decides it (pod contract, §6, §11).

use std::os::unix::net::UnixStream;

use hutch_agent_proto::{Neighbour, Route};
use hutch_runtime::network::{Endpoint, EndpointKind};
use hutch_runtime::spec::PodConfig;
use hutch_runtime::{ErrorKind, State};
use hutch_runtime_fakes::Failing;

use crate::support::{finish, kind, new, pod_state, running};

/// An interface as a scan would plan it.
pub fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        kind: EndpointKind::Tap { tap: format!("tap-{name}"), keep_ingress: false },
        name: name.into(),
        mac: "02:00:00:00:00:01".into(),
        mtu: 1400,
        addresses: vec!["10.0.0.2/24".into(), "fd00::2/64".into()],
        routes: vec![Route { gateway: "10.0.0.1".into(), device: name.into(), ..route() }],
        neighbours: vec![Neighbour { address: "10.0.0.1".into(), mac: "02::1".into(), device: name.into() }],
    }
}

fn route() -> Route {
    Route {
        destination: String::new(),
        gateway: String::new(),
        device: String::new(),
        source: String::new(),
        scope: 0,
        metric: 0,
    }
}

fn index(calls: &[String], wanted: &str) -> usize {
    calls.iter().position(|call| call.starts_with(wanted)).unwrap_or_else(|| panic!("no {wanted} in {calls:#?}"))
}

/// P-202: MAC and MTU. P-203: IPv6 and static neighbours too, interfaces before routes by the form of the request.
#[test]
fn p_203_the_guest_gets_interfaces_routes_and_neighbours_of_the_namespace() {
    let (host, runtime) = new();
    host.set_interfaces(&host.namespace("p"), vec![endpoint("eth0"), endpoint("eth1")]);
    runtime.create_pod(host.pod("p", &[])).unwrap();
    host.guest("p", |guest| {
        let network = &guest.sandbox().unwrap().network;
        assert_eq!(network.interfaces.len(), 2);
        let first = &network.interfaces[0];
        assert_eq!((first.name.as_str(), first.mac.as_str(), first.mtu), ("eth0", "02:00:00:00:00:01", 1400));
        assert!(first.addresses.contains(&"fd00::2/64".to_owned()));
        assert_eq!((network.routes.len(), network.neighbours.len()), (2, 2));
    });
    let machine = host.machine("p").unwrap();
    assert_eq!(machine.nets.iter().map(|net| net.tap.as_str()).collect::<Vec<_>>(), ["tap-eth0", "tap-eth1"]);
    finish(&host, &runtime);
}

#[test]
fn p_065_the_machine_is_born_in_the_namespace_on_a_thread_of_its_own() {
    let (host, runtime) = new();
    runtime.create_pod(host.pod("p", &[])).unwrap();
    let calls = host.calls();
    let (created, entered, spawned) =
        (index(&calls, "network.create"), index(&calls, "network.run"), index(&calls, "vm.spawn"));
    assert!(created < entered && entered + 1 == spawned, "{calls:#?}");
    finish(&host, &runtime);
}

/// The thread that enters a namespace is not the caller's, whatever happens in there.
#[test]
fn p_065_the_calling_thread_stays_where_it_is() {
    let before = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let mut inside = None;
    hutch_runtime::backend::run_in_namespace(None, &mut || inside = Some(std::thread::current().id())).unwrap();
    assert_ne!(inside, Some(std::thread::current().id()));
    let missing = std::path::Path::new("/proc/self/ns/no-such-namespace");
    let mut ran = false;
    assert!(hutch_runtime::backend::run_in_namespace(Some(missing), &mut || ran = true).is_err());
    assert!(!ran);
    let panicking = std::panic::catch_unwind(|| {
        let _ = hutch_runtime::backend::run_in_namespace(None, &mut || panic!("in the job"));
    });
    assert!(panicking.is_err());
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), before);
}

/// P-088: machine, then network, then poststop hooks.
#[test]
fn p_080_p_086_a_stopped_pod_has_no_machine_shim_or_network() {
    let (host, runtime) = new();
    host.set_interfaces(&host.namespace("p"), vec![endpoint("eth0")]);
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    host.calls();
    runtime.kill_container("p", "a", 9, true).unwrap();
    runtime.stop_pod("p", Default::default()).unwrap();
    let calls = host.calls();
    let (kill, detach, delete) =
        (index(&calls, "vm.kill"), index(&calls, "network.detach"), index(&calls, "network.delete"));
    assert!(kill < detach && detach < delete, "{calls:#?}");
    let left: Vec<String> = host.leaks().into_iter().filter(|leak| !leak.starts_with("file ")).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(pod_state(&runtime), State::Stopped);
    finish(&host, &runtime);
}

#[test]
fn p_087_a_given_namespace_is_never_deleted() {
    let (host, runtime) = new();
    let mut config: PodConfig = host.pod("p", &["a"]);
    config.network.namespace = Some(host.dir().join("given"));
    runtime.run_pod(config).unwrap();
    finish(&host, &runtime);
    assert!(!host.calls().iter().any(|call| call.starts_with("network.delete")));
}

/// The failed network step of the table in §9 of the pod contract: stopped, and the stop can be repeated.
#[test]
fn p_084_a_stop_that_failed_at_the_network_is_completed_by_the_next() {
    let (host, runtime) = new();
    host.set_interfaces(&host.namespace("p"), vec![endpoint("eth0"), endpoint("eth1")]);
    runtime.run_pod(host.pod("p", &["a"])).unwrap();
    runtime.kill_container("p", "a", 9, true).unwrap();
    host.fail("network.detach", Failing::Refuses);
    assert_eq!(kind(runtime.stop_pod("p", Default::default())), ErrorKind::Backend);
    assert_eq!(pod_state(&runtime), State::Stopped);
    runtime.stop_pod("p", Default::default()).unwrap();
    let left: Vec<String> = host.leaks().into_iter().filter(|leak| !leak.starts_with("file ")).collect();
    assert!(left.is_empty(), "{left:?}");
    runtime.stop_pod("p", Default::default()).unwrap();
    finish(&host, &runtime);
}

#[test]
fn p_206_every_process_is_on_record_before_it_may_act() {
    let (host, runtime) = running(&["a"]);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(host.dir().join("run/p").join(name)).unwrap()).unwrap()
    };
    let pid = read("hypervisor.json")["data"]["pid"].as_i64().unwrap();
    assert_eq!(i64::from(runtime.status_pod("p").unwrap().vmm_pid), pid);
    let pid = read("a/process.json")["data"]["pid"].as_i64().unwrap();
    assert_eq!(i64::from(runtime.status_container("p", "a").unwrap().pid), pid);
    assert!(read("agent.json")["data"]["url"].as_str().unwrap().starts_with("unix://"));
    // The descriptor of a lock or socket that a child would inherit is checked where children are made.
    drop(UnixStream::pair());
    finish(&host, &runtime);
    // Dying between the birth of a process and its record leaves neither.
    for (point, nth) in [("hypervisor:put", 2), ("process:put", 1)] {
        let (host, runtime) = new();
        let _armed = hutch_runtime::fault::arm(point, nth, hutch_runtime::fault::Action::Error);
        assert!(runtime.create_pod(host.pod("p", &["a"])).is_err());
        assert!(host.leaks().is_empty(), "{point}: {:?}", host.leaks());
    }
}
