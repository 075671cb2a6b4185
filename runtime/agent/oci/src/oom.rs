//! Reports to the host when the kernel kills a container's process because memory ran out. One thread waits for changes
//! of every container's `memory.events` (inotify(7); the kernel reports changes of these files as modifications).

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hutch_agent::failure::{io, system, Outcome};
use hutch_agent::sys::wait_for_any;
use hutch_agent::{lock, spawn_thread, Agent};
use hutch_agent_proto::{Deadline, Event};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::cgroup::Cgroup;

/// The watched file, and the key of the counter in it.
const FILE: &str = "memory.events";
const KEY: &str = "oom_kill";

struct Watched {
    id: String,
    group: Cgroup,
    kills: u64,
}

struct Watches {
    inotify: Inotify,
    table: Mutex<HashMap<WatchDescriptor, Watched>>,
}

/// Watches the groups of containers for out-of-memory kills.
#[derive(Default)]
pub struct OomWatcher(Mutex<Option<Arc<Watches>>>);

impl OomWatcher {
    /// Watches the group of container `id`. The first call starts the thread.
    pub fn watch(&self, agent: &Arc<Agent>, id: &str, group: &Cgroup) -> Outcome<()> {
        let path: PathBuf = group.file(FILE);
        if !path.exists() {
            // A kernel without the memory controller does not kill processes of one container either.
            return Ok(());
        }
        let watches = self.started(agent)?;
        let mut table = lock(&watches.table);
        let descriptor = watches
            .inotify
            .add_watch(&path, AddWatchFlags::IN_MODIFY)
            .map_err(|errno| system(format_args!("watching {}", path.display()), errno))?;
        let kills = group.keyed(FILE, KEY).unwrap_or_default();
        table.insert(descriptor, Watched { id: id.to_owned(), group: group.clone(), kills });
        Ok(())
    }

    /// Reports a last time for container `id` and stops watching it. Call it before the group is removed.
    pub fn forget(&self, agent: &Agent, id: &str) {
        let Some(watches) = lock(&self.0).clone() else { return };
        let mut table = lock(&watches.table);
        let found = table.iter().find(|(_, watched)| watched.id == id).map(|(descriptor, _)| *descriptor);
        let Some(descriptor) = found else { return };
        if let Some(mut watched) = table.remove(&descriptor) {
            report(agent, &mut watched);
        }
        let _ = watches.inotify.rm_watch(descriptor);
    }

    fn started(&self, agent: &Arc<Agent>) -> Outcome<Arc<Watches>> {
        let mut slot = lock(&self.0);
        if let Some(watches) = &*slot {
            return Ok(Arc::clone(watches));
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map_err(|errno| system("watching for out-of-memory kills", errno))?;
        let watches = Arc::new(Watches { inotify, table: Mutex::default() });
        let (theirs, agent) = (Arc::clone(&watches), Arc::clone(agent));
        spawn_thread("oom", move || run(&agent, &theirs)).map_err(|error| io("starting a thread", &error))?;
        *slot = Some(Arc::clone(&watches));
        Ok(watches)
    }
}

/// Main function of the thread.
fn run(agent: &Agent, watches: &Watches) {
    /// Limit of one wait; the loop repeats it.
    const LONG: Duration = Duration::from_secs(3600);
    loop {
        let events = match watches.inotify.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN) => {
                wait_for_any(&[watches.inotify.as_fd()], Deadline::after(LONG));
                continue;
            }
            Err(Errno::EINTR) => continue,
            Err(errno) => return agent.warn(format!("watching for out-of-memory kills: {}", errno.desc())),
        };
        let mut table = lock(&watches.table);
        for event in events {
            if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                table.values_mut().for_each(|watched| report(agent, watched));
            } else if let Some(watched) = table.get_mut(&event.wd) {
                report(agent, watched);
            }
        }
    }
}

/// Sends an event to the host if there were kills since the last report.
fn report(agent: &Agent, watched: &mut Watched) {
    let kills = watched.group.keyed(FILE, KEY).unwrap_or(watched.kills);
    if kills > watched.kills {
        agent.broadcast(Event::OutOfMemory { container: watched.id.clone() });
    }
    watched.kills = kills;
}
