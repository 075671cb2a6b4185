//! Machines on the scripted hypervisor: their jail is as they report it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::capabilities::IMAGES;
use super::helper_tests::check_inside;
use super::identity::{Kept, FIRST_ID};
use super::process::harden_process;
use super::Confinement;
use crate::config::{ShareConfig, SharePolicy};
use crate::hv::fake::FakeHypervisor;
use crate::testing::{pvh_image, PvhImage};
use crate::{Machine, MachineConfig};

/// Far longer than anything here takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);
/// CAP_LEASE (capabilities(7)).
const LEASE: u64 = 1 << 28;

/// In a process of its own: some of it holds for the whole process.
#[test]
fn the_jail_of_a_machine_is_as_it_reports() {
    check_inside("whole_tests::inside");
}

/// User ids and effective capabilities of a thread.
fn credentials(task: &Path) -> (String, u64) {
    let status = fs::read_to_string(task.join("status")).expect("it waits");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    (field("Uid"), u64::from_str_radix(&field("CapEff"), 16).expect("a number"))
}

/// Those of the machine's threads, by name, as soon as all of them have confined themselves.
fn threads() -> BTreeMap<String, (String, u64)> {
    let begin = Instant::now();
    loop {
        let tasks =
            fs::read_dir("/proc/self/task").expect("a mounted /proc").map(|task| task.expect("a thread").path());
        let named = tasks.filter_map(|task| {
            let name = fs::read_to_string(task.join("comm")).ok()?.trim_end().to_owned();
            ["maker", "vcpu0"].contains(&&*name).then(|| (name, credentials(&task)))
        });
        let threads: BTreeMap<_, _> = named.collect();
        if threads.contains_key("maker") && threads.get("vcpu0").is_some_and(|(_, capabilities)| *capabilities == 0) {
            return threads;
        }
        assert!(begin.elapsed() < TEST_TIMEOUT, "{threads:?}");
        thread::yield_now();
    }
}

fn machine(config: &MachineConfig) -> Machine {
    Machine::build_on(&FakeHypervisor::new([Vec::new()]), config).expect("a good configuration")
}

#[test]
#[ignore = "the inner half of the test above"]
fn inside() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let kernel = dir.path().join("kernel");
    fs::write(&kernel, pvh_image(&PvhImage::default())).expect("a temporary file");
    let mut config = MachineConfig::new("test", kernel);
    config.memory.size_mib = 4;
    let share = ShareConfig {
        id: "share".into(),
        tag: "share".into(),
        path: dir.path().to_owned(),
        read_only: false,
        only: None,
        policy: SharePolicy::default(),
    };
    let with_shares = MachineConfig { shares: vec![share], ..config.clone() };
    let here = Path::new("/proc/thread-self");
    let (own, capabilities) = credentials(here);

    config.confinement = Confinement::None;
    assert_eq!(machine(&config).jail(), None);

    harden_process().expect("less is always permitted");
    let root = geteuid().is_root();
    let confined = machine(&with_shares);
    let jail = confined.jail().expect("it has one");
    assert_eq!(jail.identity, Err(if root { Kept::Shares } else { Kept::NotRoot }));
    assert!(threads().values().all(|(user, _)| *user == own), "{:?}", threads());
    drop(confined);

    config.confinement = Confinement::Threads;
    let confined = machine(&config);
    let jail = confined.jail().expect("it has one");
    assert_eq!((jail.private_root, jail.namespaces.len()), (false, 0));
    let all = threads();
    match jail.identity {
        Ok(id) => {
            assert_eq!(id, FIRST_ID + std::process::id());
            let user = format!("{id} {id} {id} {id}");
            assert_eq!(all["vcpu0"], (user.clone(), 0));
            assert_eq!(all["maker"], (user, LEASE));
            assert_eq!(credentials(here), (own, capabilities), "the caller's threads are its own business");
            assert!(jail.to_string().contains(&format!("uid {id}, caps lease")), "{jail}");
        }
        Err(reason) => {
            assert!(!root || [Kept::NoLease, Kept::Refused].contains(&reason), "{reason}");
            println!("SKIPPED: no user of its own here: {reason}");
        }
    }
    drop(confined);

    // On a thread of its own, which opens no file afterwards.
    config.confinement = Confinement::Foreground;
    let starter = geteuid().as_raw();
    let inside = || {
        let hypervisor = FakeHypervisor::new([Vec::new()]);
        let confined = Machine::build_on(&hypervisor, &config).expect("a good configuration");
        // A vCPU is created when the images have been loaded.
        let user = confined.jail().expect("it has one").identity.unwrap_or(starter);
        let [(creator, capabilities)] = hypervisor.creators()[..] else { panic!("one vCPU") };
        assert_eq!((creator, capabilities.and(IMAGES)), (user, capabilities));
        fs::read(&config.kernel).expect_err("its filter");
    };
    thread::scope(|scope| scope.spawn(inside).join().expect("no panic"));
    println!("checked inside");
}
