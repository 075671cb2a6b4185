//! Networks of pods: an existing namespace, and a new one behind address translation.

use std::io::{Read, Write};
use std::net::TcpStream;
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
