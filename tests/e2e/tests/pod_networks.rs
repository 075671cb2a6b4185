//! Networks of pods: an existing namespace, and a new one behind address translation.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use hutch_e2e::{Pods, Snapshot, HANG_TIMEOUT};

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace with a veth pair to the host, as a CNI plug-in leaves it. Dropping this removes it.
struct Namespace;

impl Namespace {
    fn new() -> Namespace {
        ip("netns add hutch-test");
        let this = Namespace;
        ip("link add hutch-host type veth peer name eth0 netns hutch-test");
        ip("addr add 10.77.0.1/24 dev hutch-host");
        ip("-6 addr add fd77::1/64 dev hutch-host nodad");
        ip("link set hutch-host up");
        for words in [
            "link set lo up",
            "link set eth0 address 02:00:00:00:77:02 mtu 1400 up",
            "addr add 10.77.0.2/24 dev eth0",
            "-6 addr add fd77::2/64 dev eth0 nodad",
            "route add default via 10.77.0.1",
        ] {
            ip(&format!("-n hutch-test {words}"));
        }
        this
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", "hutch-test"]).status();
    }
}

#[test]
fn a_guest_is_where_the_interface_of_a_given_namespace_was() {
    let pods = Pods::new();
    let namespace = Namespace::new();
    let before = Snapshot::take();
    let links = ip("-n hutch-test -br link");
    pods.new_pod("run", "p").args(["-d", "--net", "ns=hutch-test"]).sh("sleep 1000").end().expect_code(0);
    let seen = pods.exec("p", "p", "ip addr show eth0; ip route").expect_code(0).text();
    for part in ["02:00:00:00:77:02", "mtu 1400", "10.77.0.2/24", "fd77::2/64", "default via 10.77.0.1 dev eth0"] {
        assert!(seen.contains(part), "{part} is missing: {seen}");
    }
    pods.exec("p", "p", "ping -c 3 -W 5 10.77.0.1 && ping -6 -c 3 -W 5 fd77::1").expect_code(0);
    // The guest answers: no process in the namespace itself listens at this port.
    let listener =
        pods.hutch(&["container", "exec", "p", "p", "--", "/bin/sh", "-c", "echo from the guest | nc -l -p 7"]);
    let listening = listener.start();
    assert_eq!(ask("10.77.0.2:7"), "from the guest\n");
    listening.end(HANG_TIMEOUT).expect_code(0);
    pods.ok(&["pod", "rm", "-f", "p"]);
    assert_eq!(ip("-n hutch-test -br link"), links, "the taps are gone, the interface is there");
    let rules = Command::new("tc").args(["-n", "hutch-test", "filter", "show", "dev", "eth0", "ingress"]).output();
    let rules = rules.expect("iproute2 is installed").stdout;
    assert!(rules.is_empty(), "rules are left: {}", String::from_utf8_lossy(&rules));
    before.expect_no_leaks();
    drop(namespace);
    pods.expect_none();
}

/// Connects to an address, waiting until a server listens, and returns the server's text.
fn ask(address: &str) -> String {
    let deadline = Instant::now() + HANG_TIMEOUT;
    loop {
        let answer = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(b"?\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        match answer {
            Ok(text) if !text.is_empty() => return text,
            _ if Instant::now() > deadline => panic!("no answer at {address}: {answer:?}"),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[test]
fn a_port_of_the_host_leads_to_a_pod_behind_address_translation() {
    let pods = Pods::new();
    let before = Snapshot::take();
    let rules = || {
        let output = Command::new("nft").args(["list", "ruleset"]).output().expect("nftables is installed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let rules_before = rules();
    let serve = "while :; do echo hello from $(hostname) | nc -l -p 80; done";
    pods.new_pod("run", "p").args(["-d", "--net", "nat", "-p", "8077:80"]).sh(serve).end().expect_code(0);
    assert_eq!(ask("127.0.0.1:8077"), "hello from p\n");
    // Outgoing traffic goes through the host.
    let route = pods.exec("p", "p", "ip route").expect_code(0).text();
    let gateway = route.split_whitespace().skip_while(|word| *word != "via").nth(1).unwrap_or_default().to_owned();
    pods.exec("p", "p", &format!("ping -c 2 -W 5 {gateway}")).expect_code(0);
    pods.ok(&["pod", "rm", "-f", "p"]);
    assert_eq!(rules(), rules_before);
    pods.expect_none();
    before.expect_no_leaks();
}

#[test]
fn a_namespace_that_is_none_is_refused() {
    let pods = Pods::new();
    let run = pods.new_pod("run", "p").args(["-d", "--net", "ns=/etc/passwd"]).sh("true");
    run.end().expect_code(1).expect_complaint(&["/etc/passwd", "network namespace"]);
    pods.expect_none();
}

/// Answers each connection to `address` with a text; returns the port.
fn answer_at(address: &str, text: &'static str) -> u16 {
    let listener = TcpListener::bind(address).expect("an address");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut stream| stream.write_all(text.as_bytes()));
        }
    });
    port
}

/// A pod behind address translation whose container is as mighty in its guest as hutch can make it.
fn mighty_pod(pods: &Pods, id: &str, script: &str) {
    let capabilities = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_NET_BIND_SERVICE"];
    let config = serde_json::json!({
        "id": id,
        "hypervisor": {"memory_mib": 192},
        "network": {"type": "nat"},
        "containers": [{
            "id": id,
            "rootfs": pods.root().path(),
            "command": {
                "args": ["/bin/sh", "-c", script],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
        }],
    });
    let file = pods.root().at(&format!("/{id}.json"));
    std::fs::write(&file, config.to_string()).expect("a file");
    let kernel = hutch_e2e::kernels().pop().expect("a kind of kernel");
    let run = pods.hutch(&["pod", "run", "-d", "--kernel", &kernel, &file.to_string_lossy()]);
    run.end().expect_code(0);
}

/// A guest that does with its network what it likes, with routes and addresses of its own, reaches what it may reach, and
/// neither the host's loopback nor another pod.
#[test]
fn a_guest_with_net_admin_reaches_neither_the_hosts_loopback_nor_another_pod() {
    let pods = Pods::new();
    let private = answer_at("127.0.0.1:0", "the host's loopback\n");
    let public = answer_at("0.0.0.0:0", "the host\n");
    let before = Snapshot::take();
    mighty_pod(&pods, "p", "sleep 1000");
    mighty_pod(&pods, "q", "while :; do echo the other pod | nc -l -p 80; done");
    let field = |pod: &str, command: &str, after: &str| {
        let text = pods.exec(pod, pod, command).expect_code(0).text();
        let found = text.split_whitespace().skip_while(|word| *word != after).nth(1).map(str::to_owned);
        found.unwrap_or_else(|| panic!("{command}: {text}"))
    };
    let gateway = field("p", "ip route", "via");
    let other = field("q", "ip -4 addr show dev eth0", "inet");
    let other = other.split('/').next().unwrap_or_default().to_owned();
    // A connection's answer, or nothing: packets that are dropped are not answered, however long one waits.
    let tries = |address: &str, port: u16, seconds: u32| {
        pods.exec("p", "p", &format!("nc -w {seconds} {address} {port} < /dev/null")).text()
    };
    assert_eq!(tries(&gateway, public, 30), "the host\n", "the test can tell");
    assert_eq!(ask(&format!("{other}:80")), "the other pod\n", "the other pod answers its host");
    assert_eq!(tries(&other, 80, 3), "");
    // The guest's own loopback gives way to a route to the host.
    let script = format!(
        "set -e; mkdir -p /proc2; mount -t proc proc /proc2
         echo 1 > /proc2/sys/net/ipv4/conf/all/route_localnet
         echo 0 > /proc2/sys/net/ipv4/conf/all/rp_filter
         ip addr del 127.0.0.1/8 dev lo
         ip link set lo down
         ip route add 127.0.0.0/8 via {gateway} dev eth0
         ip route add {other}/32 via {gateway} dev eth0
         ip route get 127.0.0.1"
    );
    let route = pods.exec("p", "p", &script).expect_code(0).text();
    assert!(route.contains("eth0"), "packets to 127.0.0.1 leave the guest: {route}");
    for (address, port) in [("127.0.0.1", private), ("127.0.0.1", public), ("127.1.2.3", public), (&*other, 80)] {
        assert_eq!(tries(address, port, 3), "", "{address}:{port}");
    }
    // With addresses that are not its own: one beside the other pod's, one of the host's loopback.
    let neighbour = other.rsplit_once('.').map_or_else(String::new, |(net, last)| {
        let last: u8 = last.parse().expect("a number");
        format!("{net}.{}", last ^ 3)
    });
    for stolen in [neighbour.as_str(), "127.0.0.1"] {
        pods.exec("p", "p", &format!("ip addr add {stolen}/32 dev eth0")).expect_code(0);
        for (address, port) in [(&*other, 80), ("127.0.0.2", public)] {
            let script = format!("nc -s {stolen} -w 3 {address} {port} < /dev/null");
            assert_eq!(pods.exec("p", "p", &script).text(), "", "{address}:{port} from {stolen}");
        }
    }
    assert_eq!(tries(&gateway, public, 30), "the host\n", "and this still works");
    pods.ok(&["pod", "rm", "-f", "p", "q"]);
    pods.expect_none();
    before.expect_no_leaks();
}
