//! Kernel networking, as root of user, network and mount namespaces of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{EndpointKind, TcNetwork};
use crate::backend::{run_in_namespace, Namespace, Network};
use crate::spec::{NetworkConfig, NetworkKind, PortForward};

/// Runs one of the ignored tests below. If the kernel lacks a feature, the test prints that it was skipped.
fn inside(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let me = std::env::current_exe().unwrap();
    let script = "mount -t sysfs sysfs /sys 2>/dev/null; exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", script, "sh"])
        .arg(me)
        .args([&format!("network::tests::{test}"), "--exact", "--ignored", "--nocapture"])
        .env("HUTCH_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if let Some(skipped) = text.lines().find_map(|line| line.find("SKIPPED: ").map(|at| &line[at..])) {
        // Bypasses the output capture of libtest, so that the skip is counted.
        return std::io::stdout().write_all(format!("{skipped}\n").as_bytes()).unwrap();
    }
    assert!(output.status.success() && text.contains("checked inside"), "{text}");
}

fn dir() -> PathBuf {
    std::env::var_os("HUTCH_TEST_DIR").expect("run by another test").into()
}

fn sh(line: &str) -> String {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

fn sh_in(namespace: &Namespace, line: &str) -> String {
    let mut text = String::new();
    run_in_namespace(namespace.path.as_deref(), &mut || text = sh(line)).unwrap();
    text
}

fn able(needed: &str) -> bool {
    let able = Command::new("sh").args(["-c", needed]).output().is_ok_and(|output| output.status.success());
    if !able {
        println!("SKIPPED: this host cannot do: {needed}");
    }
    able
}

#[test]
fn p_201_interfaces_are_scanned_and_joined_to_taps() {
    inside("inside_scan_and_join");
}

/// P-201: order, loopback and interfaces without address. P-202: MAC and MTU. P-203: IPv6, routes without those of the
/// kernel, static neighbours.
#[test]
#[ignore = "the inner half of the test above"]
fn inside_scan_and_join() {
    if !able("ip link add probe type veth peer name probe2 && ip link del probe && test -w /dev/net/tun") {
        return;
    }
    let network = TcNetwork::new(dir().join("netns")).with_lock(dir().join("lock/file"));
    let config = NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() };
    let namespace = network.plan("p", &config).unwrap();
    assert!(namespace.created);
    network.create("p", &namespace, &config).unwrap();
    assert!(network.run(&namespace, &mut || {}).is_ok());
    assert!(sh_in(&namespace, "ip -o link show lo").contains("UP"));
    sh_in(
        &namespace,
        "ip link add zeta address 02:00:00:00:00:01 mtu 1400 type veth peer name zeta-far
         ip link add alpha type veth peer name alpha-far
         ip link add bare type veth peer name bare-far
         ip link set zeta up; ip link set zeta-far up; ip link set alpha up; ip link set alpha-far up
         ip addr add 10.7.0.2/24 dev zeta; ip addr add fd07::2/64 dev zeta nodad; ip addr add 10.8.0.2/24 dev alpha
         ip route add default via 10.7.0.1 dev zeta; ip -6 route add fd99::/48 via fd07::1 dev zeta
         ip neigh add 10.7.0.1 lladdr 02:00:00:00:00:99 dev zeta nud permanent",
    );
    let mut found = Vec::new();
    network.run(&namespace, &mut || found = network.scan("p", &namespace, &config).unwrap()).unwrap();
    let names: Vec<&str> = found.iter().map(|endpoint| endpoint.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha"], "the kernel's order, and no loopback, nothing without an address");
    let zeta = &found[0];
    assert_eq!((zeta.mac.as_str(), zeta.mtu), ("02:00:00:00:00:01", 1400));
    assert_eq!(zeta.addresses, ["10.7.0.2/24", "fd07::2/64"]);
    let routes: Vec<(&str, &str)> =
        zeta.routes.iter().map(|route| (route.destination.as_str(), route.gateway.as_str())).collect();
    assert!(routes.contains(&("", "10.7.0.1")) && routes.contains(&("fd99::/48", "fd07::1")), "{routes:?}");
    assert_eq!(routes.len(), 2, "none of the kernel's own: {routes:?}");
    assert_eq!((zeta.neighbours.len(), zeta.neighbours[0].mac.as_str()), (1, "02:00:00:00:00:99"));

    let EndpointKind::Tap { tap, .. } = &zeta.kind;
    let mut attached = Ok(());
    network.run(&namespace, &mut || attached = network.attach(&namespace, zeta)).unwrap();
    attached.unwrap();
    for (from, to) in [("zeta", tap.as_str()), (tap.as_str(), "zeta")] {
        let filters = sh_in(&namespace, &format!("tc filter show dev {from} ingress"));
        assert!(filters.contains("mirred") && filters.contains(&format!("Redirect to device {to}")), "{filters}");
    }
    assert!(sh_in(&namespace, &format!("ip -o link show {tap}")).contains("mtu 1400"));

    // A scan of a namespace in use gives the same plan, without the tap, which has no address.
    let mut again = Vec::new();
    network.run(&namespace, &mut || again = network.scan("p", &namespace, &config).unwrap()).unwrap();
    assert_eq!(again, found);
    network.run(&namespace, &mut || frames_go_through(tap)).unwrap();

    for _ in 0..2 {
        network.detach(&namespace, zeta).unwrap();
        network.detach(&namespace, &found[1]).unwrap();
    }
    assert!(!sh_in(&namespace, "ip -o link").contains(tap.as_str()));
    assert!(!sh_in(&namespace, "tc qdisc show dev zeta").contains("ingress"));
    for _ in 0..2 {
        network.delete("p", &namespace).unwrap();
    }
    assert!(!dir().join("netns/p").exists());
    network.detach(&namespace, zeta).unwrap();

    // A given path must be a namespace.
    let given = NetworkConfig { namespace: Some(dir().join("no-namespace")), ..config };
    assert!(network.plan("p", &given).is_err());
    println!("checked inside");
}

/// Both directions: a packet to the interface is read from the tap, a packet written to the tap leaves by the
/// interface.
fn frames_go_through(tap: &str) {
    use std::io::Read;
    // An empty struct virtio_net_hdr.
    const HEADER: usize = 10;
    let mut machine = super::tap::open_tap(tap).unwrap();
    // A broadcast on the far end of the pair: an ARP request.
    sh("ip addr add 10.7.0.1/24 dev zeta-far");
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let device = std::ffi::OsString::from("zeta-far");
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &device).unwrap();
    socket.send_to(b"who is there", "10.7.0.77:9").unwrap();
    let fd = std::os::fd::OwnedFd::from(machine.try_clone().unwrap());
    let mut asked = false;
    while !asked && crate::process::wait_readable(&fd, std::time::Duration::from_secs(5)).unwrap() {
        let mut frame = [0; 2048];
        let len = machine.read(&mut frame).unwrap();
        asked = frame[..len].windows(4).any(|bytes| bytes == [10, 7, 0, 77]);
    }
    assert!(asked, "no frame came through");
    let received = || -> u64 {
        let list: serde_json::Value = serde_json::from_str(&sh("ip -j -s link show zeta-far")).unwrap();
        list[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    };
    let before = received();
    let mut frame = vec![0; HEADER];
    frame.extend([0xff; 6]);
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend([0; 50]);
    for _ in 0..10 {
        assert_eq!(machine.write(&frame).unwrap(), frame.len());
    }
    assert!(received() >= before + 10, "no frame left");
}

#[test]
fn p_068_an_ingress_discipline_that_was_there_stays_with_its_filters() {
    inside("inside_foreign_ingress");
}

/// As `ingress` and as `clsact`, empty and with filters at the first priorities.
#[test]
#[ignore = "the inner half of the test above"]
fn inside_foreign_ingress() {
    let needed = "ip link add probe type veth peer name probe2 && tc qdisc add dev probe clsact && ip link del probe \
                  && test -w /dev/net/tun";
    if !able(needed) {
        return;
    }
    let network = TcNetwork::new(dir().join("netns")).with_lock(dir().join("lock/file"));
    let config = NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() };
    let namespace = network.plan("p", &config).unwrap();
    network.create("p", &namespace, &config).unwrap();
    sh_in(
        &namespace,
        "for name in one two three; do
             ip link add $name type veth peer name $name-far
             ip link set $name up; ip link set $name-far up
         done
         ip addr add 10.7.1.2/24 dev one; ip addr add 10.7.2.2/24 dev two; ip addr add 10.7.3.2/24 dev three
         tc qdisc add dev one ingress
         tc filter add dev one ingress prio 1 protocol ip u32 match ip dport 7 0xffff flowid :1
         tc filter add dev one ingress prio 2 protocol ip u32 match ip dport 9 0xffff action mirred egress redirect dev two
         tc qdisc add dev two clsact
         tc filter add dev two egress prio 1 protocol ip u32 match ip dport 7 0xffff flowid :1
         tc qdisc add dev three ingress",
    );
    let state = || {
        let show =
            |name: &str| format!("tc qdisc show dev {name}; tc filter show dev {name} ingress | sed 's/ref.*//'");
        let mut text: String = ["one", "two", "three"].iter().map(|name| sh_in(&namespace, &show(name))).collect();
        text += &sh_in(&namespace, "tc filter show dev two egress");
        text
    };
    let before = state();
    let mut found = Vec::new();
    network.run(&namespace, &mut || found = network.scan("p", &namespace, &config).unwrap()).unwrap();
    assert_eq!(found.len(), 3);
    for endpoint in &found {
        let EndpointKind::Tap { tap, keep_ingress: true } = &endpoint.kind else { panic!("{endpoint:?}") };
        let mut attached = Ok(());
        network.run(&namespace, &mut || attached = network.attach(&namespace, endpoint)).unwrap();
        attached.unwrap();
        let filters = sh_in(&namespace, &format!("tc filter show dev {} ingress", endpoint.name));
        assert!(filters.contains(&format!("Redirect to device {tap}")), "{filters}");
        assert_eq!(filters.contains("pref 3"), endpoint.name == "one", "after those that were there: {filters}");
    }
    assert_ne!(state(), before);
    for endpoint in found.iter().chain(&found) {
        network.detach(&namespace, endpoint).unwrap();
    }
    assert_eq!(state(), before);
    assert!(!sh_in(&namespace, "ip -o link").contains("htap"));
    network.delete("p", &namespace).unwrap();
    println!("checked inside");
}

#[test]
fn p_065_only_the_dedicated_thread_is_in_the_namespace() {
    inside("inside_dedicated_thread");
}

/// P-065, P-087, P-167: a process that the job starts has its main thread in the namespace.
#[test]
#[ignore = "the inner half of the test above"]
fn inside_dedicated_thread() {
    let network = TcNetwork::new(dir().join("netns")).with_lock(dir().join("lock/file"));
    let config = NetworkConfig { kind: NetworkKind::Scan, ..NetworkConfig::default() };
    let namespace = network.plan("p", &config).unwrap();
    network.create("p", &namespace, &config).unwrap();
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let mut child = None;
    network
        .run(&namespace, &mut || {
            assert_ne!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), here);
            child = Some(Command::new("sleep").arg("60").spawn().unwrap());
        })
        .unwrap();
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), here);
    let mut child = child.unwrap();
    assert_ne!(std::fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap(), here);
    child.kill().unwrap();
    child.wait().unwrap();
    // A failing job, and one that panics.
    let panicking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = network.run(&namespace, &mut || panic!("in there"));
    }));
    assert!(panicking.is_err());
    assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), here);
    // A namespace that the caller gave is not deleted.
    let given = Namespace { created: false, ..namespace.clone() };
    network.delete("p", &given).unwrap();
    assert!(dir().join("netns/p").exists());
    network.delete("p", &namespace).unwrap();
    println!("checked inside");
}

#[test]
fn a_namespace_behind_address_translation_is_connected_and_taken_apart() {
    inside("inside_nat");
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside_nat() {
    if !able("ip link add probe type veth peer name probe2 && ip link del probe && nft list tables") {
        return;
    }
    sh("ip link set lo up");
    let network = TcNetwork::new(dir().join("netns")).with_lock(dir().join("lock/file"));
    let config = NetworkConfig {
        kind: NetworkKind::Nat,
        publish: vec![PortForward::parse("8080:80").unwrap()],
        ..NetworkConfig::default()
    };
    let planned: Vec<Namespace> = ["p", "q"].iter().map(|pod| network.plan(pod, &config).unwrap()).collect();
    for (pod, namespace) in ["p", "q"].iter().zip(&planned) {
        network.create(pod, namespace, &config).unwrap();
    }
    let mut found = Vec::new();
    network.run(&planned[0], &mut || found = network.scan("p", &planned[0], &config).unwrap()).unwrap();
    assert_eq!(found.len(), 1);
    assert!(found[0].addresses[0].starts_with("10.89."), "{found:?}");
    assert!(found[0].routes.iter().any(|route| route.destination.is_empty()), "{found:?}");
    let gateway = &found[0].routes[0].gateway;
    assert!(sh("ip -o -4 addr").contains(gateway.as_str()));
    let rules = sh("nft list ruleset");
    assert!(rules.contains("masquerade") && rules.contains("dport 8080 dnat to"), "{rules}");
    assert_eq!(sh("ip -o link").matches("hutch-").count(), 2);
    for (pod, namespace) in ["p", "q"].iter().zip(&planned) {
        network.delete(pod, namespace).unwrap();
        network.delete(pod, namespace).unwrap();
    }
    assert!(!sh("nft list ruleset").contains("hutch_"));
    // The kernel removes the pairs with the namespaces, in the background.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while sh("ip -o link").contains("hutch-") {
        assert!(std::time::Instant::now() < deadline, "{}", sh("ip -o link"));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    println!("checked inside");
}

#[test]
fn the_guest_reaches_neither_the_hosts_loopback_nor_other_pods() {
    inside("inside_isolation");
}

/// A server that answers each connection, in a namespace.
fn serve(namespace: Option<&Namespace>, address: &str) {
    let mut listener = None;
    let path = namespace.and_then(|namespace| namespace.path.as_deref());
    run_in_namespace(path, &mut || listener = Some(TcpListener::bind(address).unwrap())).unwrap();
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(b"hello"));
        }
    });
}

/// Whether a connection from the namespace is answered.
fn reaches(namespace: Option<&Namespace>, address: &str, timeout: Duration) -> bool {
    let mut answered = false;
    let path = namespace.and_then(|namespace| namespace.path.as_deref());
    run_in_namespace(path, &mut || {
        answered = TcpStream::connect_timeout(&address.parse().unwrap(), timeout).is_ok_and(|mut stream| {
            let mut text = String::new();
            stream.set_read_timeout(Some(timeout)).is_ok()
                && stream.read_to_string(&mut text).is_ok()
                && text == "hello"
        });
    })
    .unwrap();
    answered
}

/// A process in the pod's namespace, with all rights there, stands for the guest.
#[test]
#[ignore = "the inner half of the test above"]
fn inside_isolation() {
    if !able("ip link add probe type veth peer name probe2 && ip link del probe && nft list tables") {
        return;
    }
    const ANSWER: Duration = Duration::from_secs(60);
    // Dropped packets are not answered, however long one waits.
    const SILENCE: Duration = Duration::from_secs(1);
    sh("ip link set lo up; echo 0 > /proc/sys/net/ipv4/ip_forward");
    let network = TcNetwork::new(dir().join("netns")).with_lock(dir().join("lock/file"));
    let config = |publish: &[&str]| NetworkConfig {
        kind: NetworkKind::Nat,
        publish: publish.iter().map(|text| PortForward::parse(text).unwrap()).collect(),
        ..NetworkConfig::default()
    };
    let make = |pod: &str, publish: &[&str]| {
        let namespace = network.plan(pod, &config(publish)).unwrap();
        network.create(pod, &namespace, &config(publish)).unwrap();
        namespace
    };
    let (p, q) = (make("p", &[]), make("q", &["8080:80"]));
    let address = |namespace: &Namespace| {
        let text = sh_in(namespace, "ip -o -4 addr show dev eth0");
        let cidr = text.split_whitespace().nth(3).unwrap().to_owned();
        cidr.trim_end_matches("/30").to_owned()
    };
    let gateway = |namespace: &Namespace| {
        let text = sh_in(namespace, "ip -4 route show default");
        text.split_whitespace().nth(2).unwrap().to_owned()
    };
    serve(None, "127.0.0.1:9000");
    serve(None, "0.0.0.0:9001");
    serve(Some(&q), "0.0.0.0:80");
    assert!(reaches(None, "127.0.0.1:9000", ANSWER), "from the host itself");
    // Published ports: from the loopback, from an address of the host, from another pod.
    assert!(reaches(None, "127.0.0.1:8080", ANSWER));
    assert!(reaches(None, &format!("{}:8080", gateway(&q)), ANSWER));
    assert!(reaches(Some(&p), &format!("{}:8080", gateway(&p)), ANSWER));
    // Services of the host that listen on all addresses, as ever.
    assert!(reaches(Some(&p), &format!("{}:9001", gateway(&p)), ANSWER));
    // The other pod itself: the same server, not by the published port.
    assert!(!reaches(Some(&p), &format!("{}:80", address(&q)), SILENCE), "pods are apart");
    // A guest may route as it likes, and take any address as its own.
    let routes = format!(
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip route flush table local dev lo; ip addr flush dev lo;
         ip route add 127.0.0.0/8 via {} dev eth0 src {}",
        gateway(&p),
        address(&p)
    );
    sh_in(&p, &routes);
    for target in ["127.0.0.1:9000", "127.0.0.1:9001", "127.1.2.3:9001"] {
        assert!(!reaches(Some(&p), target, SILENCE), "{target}");
    }
    let counters = sh("nft list ruleset");
    assert_eq!(counters.matches("127.0.0.0/8 drop").count(), 2, "one for each pod: {counters}");
    // Forwarding was off, and is again when the last pod has gone.
    let forwarding = || sh("cat /proc/sys/net/ipv4/ip_forward").trim().to_owned();
    assert_eq!(forwarding(), "1");
    network.delete("p", &p).unwrap();
    assert_eq!(forwarding(), "1", "another pod needs it");
    assert!(reaches(None, "127.0.0.1:8080", ANSWER));
    // A call that was killed after it had removed the rules: the next one goes on.
    sh("nft delete table ip $(nft list tables ip | grep -o 'hutch_[0-9a-f]\\{16\\}')");
    network.delete("q", &q).unwrap();
    assert_eq!(forwarding(), "0");
    assert!(!sh("nft list ruleset").contains("hutch_"));
    assert!(!dir().join("lock").exists(), "nothing of it stays on the host");
    // A setting that another program has made stays.
    sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    let r = make("r", &[]);
    network.delete("r", &r).unwrap();
    assert_eq!(forwarding(), "1");
    println!("checked inside");
}
