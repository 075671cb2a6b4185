//! Parsing; and real requests in a network namespace of the test's own.

use std::io::Write;

use super::*;
use hutch_agent_proto::ErrorKind;
use nix::sched::{unshare, CloneFlags};
use proptest::prelude::*;

#[test]
fn addresses_and_prefixes() {
    let cidr = |text| parse_cidr(text).map(|cidr| (cidr.address.to_string(), cidr.prefix));
    assert_eq!(cidr("10.0.0.2/24"), Ok(("10.0.0.2".into(), 24)));
    assert_eq!(cidr("10.0.0.2"), Ok(("10.0.0.2".into(), 32)));
    assert_eq!(cidr("fd00::2/64"), Ok(("fd00::2".into(), 64)));
    for bad in [
        "",
        "10.0.0/24",
        "10.0.0.2/33",
        "fd00::/129",
        "10.0.0.2/",
        "10.0.0.2/-1",
        "10.0.0.2/24/1",
        "10.0.0.2/+4",
        "eth0",
    ] {
        assert_eq!(cidr(bad).unwrap_err().kind, ErrorKind::Invalid, "{bad}");
    }
}

#[test]
fn mac_addresses_and_names() {
    assert_eq!(parse_mac("02:00:00:aB:cd:ef"), Ok([2, 0, 0, 0xab, 0xcd, 0xef]));
    for bad in ["", "02:00:00:ab:cd", "02:00:00:ab:cd:ef:01", "2:0:0:0:0:0", "02-00-00-ab-cd-ef", "+2:00:00:00:00:00"] {
        assert!(parse_mac(bad).is_err(), "{bad}");
    }
    assert!(check_name("eth0").is_ok() && check_name("123456789012345").is_ok());
    for bad in ["", ".", "..", "a/b", "a b", "a:1", "1234567890123456"] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_default_route_may_be_written_out() {
    let route = |destination: &str, gateway: &str| Route {
        destination: destination.into(),
        gateway: gateway.into(),
        device: "eth0".into(),
        source: String::new(),
        scope: 0,
        metric: 7,
    };
    let parse = |destination: &str, gateway: &str| parse_route(&route(destination, gateway));
    assert_eq!(parse("", "10.0.0.1").unwrap(), parse("0.0.0.0/0", "10.0.0.1").unwrap());
    assert_eq!(parse("", "fd00::1").unwrap(), parse("::/0", "fd00::1").unwrap());
    assert!(parse("10.0.0.0/8", "fd00::1").is_err());
}

proptest! {
    #[test]
    fn any_text_is_survived(text in ".{0,40}") {
        let _ = (parse_cidr(&text), parse_mac(&text), check_name(&text), parse_address(&text));
    }
}

/// Runs `ip` in the calling thread's namespace.
fn ip(arguments: &str) -> String {
    let output = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Moves this thread into a network namespace with a pair of veth interfaces; `false` if that cannot be; says so
/// past the test harness, so that it is counted.
fn own_network() -> bool {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
        std::io::stdout().write_all(format!("SKIPPED: a network namespace needs root ({errno})\n").as_bytes()).unwrap();
        return false;
    }
    let pair = "link add name a address 02:00:00:00:00:01 type veth peer name b address 02:00:00:00:00:02";
    match std::process::Command::new("ip").args(pair.split(' ')).output() {
        Ok(output) if output.status.success() => true,
        result => {
            std::io::stdout().write_all(format!("SKIPPED: no veth pair ({result:?})\n").as_bytes()).unwrap();
            false
        }
    }
}

fn interface(name: &str, mac: u8, addresses: &[&str]) -> Interface {
    let addresses = addresses.iter().map(|text| text.to_string()).collect();
    Interface { name: name.into(), mac: format!("02:00:00:00:00:{mac:02x}"), mtu: 1400, addresses }
}

#[test]
fn p_203_the_kernel_takes_interfaces_routes_and_neighbours() {
    if !own_network() {
        return;
    }
    loopback_up().unwrap();
    let route = |destination: &str, gateway: &str, scope| Route {
        destination: destination.into(),
        gateway: gateway.into(),
        device: "eth0".into(),
        source: String::new(),
        scope,
        metric: 0,
    };
    let spec = NetworkSpec {
        interfaces: vec![interface("eth0", 2, &["10.9.0.2/24", "fd09::2/64"]), interface("eth1", 1, &["10.8.0.1/30"])],
        routes: vec![
            route("", "10.9.0.1", 0),
            route("", "fd09::1", 0),
            route("10.99.0.0/16", "192.0.2.1", 0),
            route("10.7.0.0/16", "", 253),
        ],
        neighbours: vec![Neighbour {
            address: "10.9.0.1".into(),
            mac: "02:00:00:00:00:99".into(),
            device: "eth0".into(),
        }],
        dns: vec![],
    };
    configure(&spec).unwrap();
    // The same again changes nothing and succeeds.
    configure(&spec).unwrap();
    let links = ip("-o link");
    assert!(links.contains("eth0@") && links.contains("mtu 1400") && links.contains("lo: <LOOPBACK,UP"), "{links}");
    let addresses = ip("-o addr");
    assert!(addresses.contains("10.9.0.2/24 brd 10.9.0.255") && addresses.contains("fd09::2/64"), "{addresses}");
    let routes = ip("route");
    assert!(routes.contains("default via 10.9.0.1 dev eth0"), "{routes}");
    assert!(routes.contains("10.99.0.0/16 via 192.0.2.1 dev eth0 proto static onlink"), "{routes}");
    assert!(routes.contains("10.7.0.0/16 dev eth0 proto static scope link"), "{routes}");
    assert!(ip("-6 route").contains("default via fd09::1 dev eth0"));
    let neighbours = ip("neigh");
    assert!(neighbours.contains("10.9.0.1 dev eth0 lladdr 02:00:00:00:00:99 PERMANENT"), "{neighbours}");
}

#[test]
fn names_are_exchanged_between_interfaces() {
    if !own_network() {
        return;
    }
    configure(&NetworkSpec {
        interfaces: vec![interface("b", 1, &[]), interface("a", 2, &[])],
        ..NetworkSpec::default()
    })
    .unwrap();
    for (name, mac) in [("b", "02:00:00:00:00:01"), ("a", "02:00:00:00:00:02")] {
        let link = ip(&format!("-o link show {name}"));
        assert!(link.contains(mac), "{link}");
    }
}

#[test]
fn an_unknown_interface_is_not_found() {
    let spec = NetworkSpec { interfaces: vec![interface("eth0", 0x77, &[])], ..NetworkSpec::default() };
    assert_eq!(configure(&spec).unwrap_err().kind, ErrorKind::NotFound);
}
