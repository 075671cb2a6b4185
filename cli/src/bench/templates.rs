//! Command templates of other virtual machine monitors, for `--peer NAME=@TEMPLATE`. Each has only the devices that a
//! bench guest needs, and its first serial port on standard output.

/// QEMU's microvm machine as Debian ships it.
const QEMU_MICROVM: &str = "qemu-system-x86_64 -M microvm,acpi=off,pit=off,pic=off,rtc=off,isa-serial=on \
    -bios qboot.rom -accel kvm -cpu host -smp {cpus} -m {memory_mib} -nodefaults -no-user-config -display none \
    -serial stdio -no-reboot -kernel {kernel} -initrd {initrd} -append '{cmdline}'";

/// Firecracker without its API server. It reads its configuration from a file: here from a here-document of the shell
/// that then executes Firecracker.
const FIRECRACKER: &str = r#"sh -c 'exec firecracker --no-api --config-file /dev/fd/3 3<<END
$0
END' '{{"machine-config": {{"vcpu_count": {cpus}, "mem_size_mib": {memory_mib}}}, "drives": [], "boot-source":
{{"kernel_image_path": "{kernel}", "initrd_path": "{initrd}", "boot_args": "{cmdline}"}}}}'"#;

const CLOUD_HYPERVISOR: &str = "cloud-hypervisor --kernel {kernel} --initramfs {initrd} --cmdline '{cmdline}' \
    --cpus boot={cpus} --memory size={memory_mib}M --serial tty --console off";

const CROSVM: &str = "crosvm run --disable-sandbox -c {cpus} -m {memory_mib} -i {initrd} -p '{cmdline}' \
    --serial type=stdout,hardware=serial,num=1 {kernel}";

/// All templates by name.
const ALL: [(&str, &str); 4] = [
    ("@qemu-microvm", QEMU_MICROVM),
    ("@firecracker", FIRECRACKER),
    ("@cloud-hypervisor", CLOUD_HYPERVISOR),
    ("@crosvm", CROSVM),
];

/// The template called `name`; names begin with `@`.
pub fn built_in(name: &str) -> Option<&'static str> {
    ALL.iter().find(|(known, _)| *known == name).map(|(_, template)| *template)
}

/// The names of all templates, separated by commas.
pub fn names() -> String {
    ALL.map(|(name, _)| name).join(", ")
}
