//! Configurations good and bad.

use super::*;

fn with(change: impl FnOnce(&mut MachineConfig)) -> Result<(), ConfigError> {
    let mut config = MachineConfig::new("test", "/vmlinux");
    change(&mut config);
    config.check()
}

fn block(id: &str) -> BlockConfig {
    BlockConfig { id: id.into(), path: "/x".into(), read_only: true, serial: None }
}

#[test]
fn the_default_is_good() {
    with(|_| ()).expect("good");
}

#[test]
fn vcpus_are_1_to_254() {
    with(|c| c.vcpus = 254).expect("the most");
    assert_eq!(with(|c| c.vcpus = 0), Err(ConfigError::NoVcpus { max: 254 }));
    assert_eq!(with(|c| c.vcpus = 1000), Err(ConfigError::TooManyVcpus { asked: 1000, max: 254 }));
    with(|c| c.max_vcpus = 254).expect("the most");
    assert_eq!(with(|c| c.max_vcpus = 255), Err(ConfigError::TooManyVcpus { asked: 255, max: 254 }));
}

#[test]
fn memory_is_at_least_2_mib_and_a_multiple_of_its_pages() {
    assert_eq!(with(|c| c.memory.size_mib = 0), Err(ConfigError::TooLittleMemory { asked_mib: 0, min_mib: 2 }));
    let huge = |page_mib, size_mib| {
        with(|c| {
            c.memory.backing = MemoryBacking::Hugetlb { page_mib };
            c.memory.size_mib = size_mib;
        })
    };
    huge(2, 64).expect("good");
    assert_eq!(huge(4, 64), Err(ConfigError::HugePageSize { page_mib: 4 }));
    assert_eq!(huge(1024, 1025), Err(ConfigError::HugePageMultiple { size_mib: 1025, page_mib: 1024 }));
}

#[test]
fn pluggable_memory_consists_of_blocks_and_is_not_reserved() {
    let pluggable = |mib, change: fn(&mut MemoryConfig)| {
        with(|c| {
            c.memory.pluggable_mib = mib;
            change(&mut c.memory);
        })
    };
    pluggable(130, |_| ()).expect("good");
    assert_eq!(pluggable(129, |_| ()), Err(ConfigError::PluggableMultiple { asked_mib: 129, block_mib: 2 }));
    assert_eq!(pluggable(128, |m| m.prefault = true), Err(ConfigError::PluggableBacking));
    assert_eq!(
        pluggable(128, |m| m.backing = MemoryBacking::Hugetlb { page_mib: 2 }),
        Err(ConfigError::PluggableBacking)
    );
}

#[test]
fn a_growing_guest_boots_with_a_small_part_and_the_remainder_of_the_steps() {
    let grown = |size_mib, threshold_mib| {
        let mut memory = MemoryConfig::anonymous(size_mib);
        memory.grow_beyond(threshold_mib);
        assert_eq!(memory.size_mib + memory.pluggable_mib, size_mib);
        assert_eq!(memory.check(), Ok(()));
        memory.size_mib
    };
    assert_eq!(grown(8192, 512), 128);
    assert_eq!(grown(8191, 512), 255);
    assert_eq!(grown(512, 512), 512);
    assert_eq!(grown(513, 512), 129);
    assert_eq!(grown(64, 0), 64);
    assert_eq!(grown(200, 0), 200);
    let mut huge = MemoryConfig { backing: MemoryBacking::Hugetlb { page_mib: 2 }, ..MemoryConfig::anonymous(8192) };
    huge.grow_beyond(512);
    assert_eq!(huge.pluggable_mib, 0);
}

#[test]
fn a_growing_guest_boots_with_what_its_images_need() {
    let booting = |size_mib, pluggable_mib, needs_mib| {
        let mut memory = MemoryConfig { pluggable_mib, ..MemoryConfig::anonymous(size_mib) };
        memory.boot_with(needs_mib);
        assert_eq!(memory.size_mib + memory.pluggable_mib, size_mib + pluggable_mib);
        memory.size_mib
    };
    assert_eq!(booting(128, 1024, 128), 128);
    assert_eq!(booting(128, 1024, 129), 256);
    assert_eq!(booting(130, 1024, 259), 386);
    assert_eq!(booting(128, 1024, 5000), 1152);
    assert_eq!(booting(128, 0, 5000), 128);
}

#[test]
fn devices_have_an_interrupt_and_a_name_each() {
    let disks = |count: usize| with(|c| c.blocks = (0..count).map(|i| block(&format!("disk{i}"))).collect());
    disks(19).expect("the most");
    assert_eq!(disks(20), Err(ConfigError::TooManyDevices { asked: 20, max: 19 }));
    with(|c| (c.blocks, c.block_slots) = (vec![block("disk")], 18)).expect("slots count, too");
    assert!(with(|c| (c.blocks, c.block_slots) = (vec![block("disk")], 19)).is_err());
    let same = with(|c| (c.blocks, c.block_slots) = (vec![block("slot1")], 2));
    assert_eq!(same, Err(ConfigError::DuplicateId { id: "slot1".into() }));
    let without_acpi = with(|c| {
        c.discovery = DeviceDiscovery::Cmdline;
        c.blocks = (0..12).map(|i| block(&format!("disk{i}"))).collect();
    });
    assert_eq!(without_acpi, Err(ConfigError::TooManyDevices { asked: 12, max: 11 }));
    assert_eq!(with(|c| c.blocks = vec![block("a"), block("a")]), Err(ConfigError::DuplicateId { id: "a".into() }));
}

#[test]
fn reserved_cids_are_refused() {
    for cid in [0, 1, 2, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(with(|c| c.vsock = Some(VsockConfig { guest_cid: cid })), Err(ConfigError::GuestCid { cid }));
    }
    with(|c| c.vsock = Some(VsockConfig { guest_cid: 3 })).expect("good");
}

#[test]
fn a_configuration_survives_json_and_optional_fields_may_be_left_out() {
    let mut config = MachineConfig::new("test", "/vmlinux");
    config.console.output = ConsoleOutput::File("/tmp/console".into());
    config.memory.backing = MemoryBacking::Hugetlb { page_mib: 2 };
    let text = serde_json::to_string(&config).expect("plain data");
    assert_eq!(serde_json::from_str::<MachineConfig>(&text).expect("its own output"), config);
    let short = r#"{"name":"x","vcpus":1,"memory":{"size_mib":64},"kernel":"/k"}"#;
    let short: MachineConfig = serde_json::from_str(short).expect("defaults for the rest");
    assert_eq!(short.console.output, ConsoleOutput::Ring);
}
