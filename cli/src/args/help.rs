//! Texts at the end of `--help`: exit codes and examples. They belong to the full definition only, so that parsing one
//! verb alone does not copy them. clap wraps paragraphs; lines of lists and examples fit into 80 columns.

pub const RUN: &str = "\
Exit code: that of CMD, or 128+N if signal N killed it. 124 if --timeout ended it, 125 if hutch or the guest failed, \
126 if CMD cannot be executed, 127 if CMD does not exist.

Examples:
  # A shell in a guest whose writes to ./debian are discarded at the end
  hutch run -it --rootfs ./debian --rootfs-overlay -- bash
  # Build in a guest with 2 CPUs and 1 GiB, with this directory at /src
  hutch run --rootfs ./debian --cpus 2 --memory 1G -v .:/src -w /src -- make";

pub const BOOT: &str = "\
The guest's console is hutch's stdout. Exit code: 0 if the guest powered off or reset itself, or if SIGTERM or SIGINT \
ended it; 125 if it failed.

Example:
  hutch boot --kernel vmlinux --initrd initramfs.cpio --append console=ttyS0";

pub const POD_RUN: &str = "\
With --rootfs, CMD uses hutch's standard streams, and hutch removes the pod when CMD ends; -d and --keep change that. \
Exit code then: that of CMD, or 128+N if signal N killed it. 125 if hutch or the guest failed, 126 if CMD cannot be \
executed, 127 if CMD does not exist. With CONFIG, hutch prints the pod's id and leaves the pod running.

Examples:
  # A web server in the background, on port 8080 of this host
  hutch pod run -d --name web -p 8080:80 --rootfs ./debian -- apachectl -X
  # All containers of a configuration file
  hutch pod run pod.toml";

pub const POD_WAIT: &str = "\
Exit code: 0 if all pods were stopped, 1 if a machine died, 124 if --timeout ended the wait.";

pub const CONTAINER_EXEC: &str = "\
Exit code: that of CMD, or 128+N if signal N killed it. 125 if hutch or the guest failed, 126 if CMD cannot be \
executed, 127 if CMD does not exist.

Examples:
  # A shell in container web of pod web
  hutch container exec -it web web sh
  # A command as another user
  hutch container exec -u www-data -w /srv web web ls -l";

pub const CONTAINER_WAIT: &str = "\
Exit code: that of the container's process, or 128+N if signal N killed it. 255 if its end was not observed, 124 if \
--timeout ended the wait.";

pub const GUEST_BUILD: &str = "\
Kernels:
  distro  Debian's cloud kernel (linux-image-6.12*-cloud-amd64, else
          linux-image-cloud-amd64). hutch downloads and unpacks the package; it
          does not install it. Takes seconds
  host    The kernel that this host runs, from /boot and /lib/modules
  source  Compiled for hutch from Debian's linux-source-6.12. Takes minutes,
          and 3 GB of disk space meanwhile. hutch names the packages that the
          build needs and this host lacks (bc, bison, flex, gcc, libelf-dev,
          make, ...), then installs them
  PATH    An ELF vmlinux or a bzImage

Examples:
  # The default kernel, and the agent beside hutch
  hutch guest build
  # The kernel that boots fastest
  hutch guest build --kernel source";

pub const GUEST_INSPECT: &str = "Exit code: 0 if all files are intact, 1 if one of them is damaged.";

pub const BENCH: &str = "\
Examples:
  # Boot times of hutch, and of `hutch run` with its default command
  hutch bench boot --rootfs ./debian
  # Is the second measurement really different?
  hutch bench compare before.json after.json";

pub const BENCH_BOOT: &str = "\
Examples:
  # hutch compared with Firecracker, 25 rounds
  hutch bench boot -n 25 --kernel source --peer fc=@firecracker
  # Boot time by memory size, kept for a later comparison
  hutch bench boot --sweep mem=128M..8G --format json > before.json";

pub const BENCH_DENSITY: &str = "\
Example:
  hutch bench density -n 1,10,50 --kernel source";

pub const BENCH_COMPARE: &str = "\
Example:
  hutch bench compare before.json after.json";

pub const COMPLETIONS: &str = "\
Examples:
  hutch completions bash > /etc/bash_completion.d/hutch
  hutch completions zsh > /usr/local/share/zsh/site-functions/_hutch
  hutch completions fish > ~/.config/fish/completions/hutch.fish";
