//! Words of our own that gave way to the field's. They stay away from sources, documents and the names of files.

use std::collections::BTreeSet;

use super::text::{Kind, Span};

/// A word that gave way, and the one that is used now.
struct Rule {
    old: Old,
    new: &'static str,
    /// Beginnings of the paths it holds for; all if empty.
    only: &'static [&'static str],
    /// Beginnings of the paths where the word is good.
    except: &'static [&'static str],
}

/// How a word is recognised.
enum Old {
    /// In identifiers and in prose, in any case: `stand-in`, `StandIns`, `STAND_IN`.
    Words(&'static [&'static str]),
    /// Exactly this identifier, in code only.
    Name(&'static str),
    /// A word of a constant's name.
    Constant(&'static str),
    /// The end of a file's path.
    File(&'static str),
}

use Old::{Constant, File, Name, Words};

const fn rule(old: Old, new: &'static str) -> Rule {
    Rule { old, new, only: &[], except: &[] }
}

const fn only(old: Old, new: &'static str, only: &'static [&'static str]) -> Rule {
    Rule { old, new, only, except: &[] }
}

const fn except(old: Old, new: &'static str, except: &'static [&'static str]) -> Rule {
    Rule { old, new, only: &[], except }
}

const OCI_AGENT: &[&str] = &["runtime/agent/oci/"];
const AGENTS: &[&str] = &["runtime/agent/"];
const SHARES: &[&str] = &["devices/src/virtio/fs/"];
const VSOCK: &[&str] = &["devices/src/virtio/vsock/"];
const VMM: &[&str] = &["vmm/"];
const LOADING: &[&str] = &["vmm/src/boot/"];
const RUNTIME: &[&str] = &["runtime/src/"];

const RULES: &[Rule] = &[
    // The runtime
    rule(Words(&["stand", "in"]), "shim"),
    rule(Words(&["standin"]), "shim"),
    rule(Words(&["seam"]), "backend"),
    rule(Words(&["gate", "message"]), "StartMessage"),
    only(
        Words(&["gate"]),
        "sync pipe, StartMessage (runtime); run_control.rs, RunControl (vmm)",
        &["runtime/", "vmm/"],
    ),
    only(Name("workload"), "oci", RUNTIME),
    only(File("workload/mod.rs"), "oci/", RUNTIME),
    only(File("src/sandbox/mod.rs"), "oneshot/", RUNTIME),
    only(Name("Notice"), "Event", RUNTIME),
    only(Name("Inbox"), "EventQueue", RUNTIME),
    rule(Words(&["take", "back"]), "roll_back"),
    rule(Name("Noticed"), "Deaths"),
    rule(Words(&["lazy", "stop"]), "reconcile"),
    only(File("lazy.rs"), "reconcile.rs", RUNTIME),
    only(Words(&["sweep"]), "cleanup, prune", &["runtime/", "vmm/", "devices/", "agent-proto/"]),
    only(Name("tolerant"), "read_or_warn", RUNTIME),
    rule(Words(&["lock", "alive"]), "refresh_after_reboot"),
    only(Words(&["revive"]), "refresh_after_reboot, reboot.rs", RUNTIME),
    rule(Words(&["release", "program"]), "drop_program_pages"),
    only(File("plug.rs"), "hotplug.rs", RUNTIME),
    only(File("container/enter.rs"), "exec.rs", RUNTIME),
    rule(Words(&["guest", "loss"]), "UnreachablePolicy"),
    rule(Words(&["stop", "how"]), "StopMode"),
    only(Name("judge"), "on_guest_error", RUNTIME),
    // The VMM
    rule(Words(&["linger"]), "async_teardown.rs, defer_teardown (vmm); SHUTDOWN_TIMEOUT (vsock)"),
    rule(Words(&["lingering"]), "closing"),
    rule(Words(&["process", "ends"]), "defer_teardown"),
    rule(Words(&["doorbell"]), "Ioeventfd, register_ioeventfd"),
    rule(Words(&["interrupt", "line"]), "register_irqfd"),
    rule(Words(&["boot", "pieces"]), "segments, file extents"),
    only(Name("Piece"), "FileExtent", LOADING),
    only(Name("pieces"), "segments.rs, file_extents", LOADING),
    only(Name("Plan"), "LoadPlan", LOADING),
    only(File("pieces.rs"), "segments.rs", LOADING),
    only(File("place.rs"), "file_pages.rs", LOADING),
    only(File("cold.rs"), "load_plan.rs", LOADING),
    only(File("load.rs"), "loader.rs", LOADING),
    only(Name("Entered"), "KickGuard", VMM),
    rule(Words(&["guest", "end"]), "VcpuExitReason"),
    rule(Words(&["farewell"]), "ExitGuard (vmm), HangupWatch (agent)"),
    rule(Words(&["give", "back"]), "RamDiscard, discard, return"),
    rule(Words(&["gives", "back"]), "discards, returns"),
    only(Name("provide"), "ensure_vcpus", VMM),
    rule(Words(&["provide", "vcpus"]), "ensure_vcpus"),
    // Devices
    only(Name("Only"), "SingleFile", SHARES),
    only(Name("admit"), "check_lookup", SHARES),
    only(Name("spare"), "deny_change", SHARES),
    only(File("only.rs"), "single_file.rs", SHARES),
    rule(Words(&["is", "stranger"]), "is_unexpected_type"),
    rule(Words(&["host", "is", "deaf"]), "host_closed_read"),
    rule(Words(&["host", "is", "mute"]), "host_closed_write"),
    only(Name("learn"), "update_peer", VSOCK),
    only(Name("tell"), "fill_header", VSOCK),
    only(Name("told"), "last_fwd_cnt", VSOCK),
    only(Name("sendable"), "peer_free", VSOCK),
    // The agents
    rule(Words(&["summon"]), "spawn_helper"),
    rule(Words(&["errand"]), "run request, run_job"),
    only(Name("Made"), "Spawned", OCI_AGENT),
    only(Name("Word"), "Message", OCI_AGENT),
    only(Name("Heard"), "Reply", OCI_AGENT),
    only(Name("Finish"), "ExecPrep", OCI_AGENT),
    only(File("finish.rs"), "pre_exec.rs", OCI_AGENT),
    except(Words(&["furnish"]), "setup_mounts", &["cli/src/bench/"]),
    rule(Words(&["furnishing"]), "SandboxMounts"),
    rule(Words(&["furnished"]), "mounted, set up"),
    only(File("agent/src/sandbox.rs"), "mount_ns.rs", &["runtime/"]),
    rule(Words(&["obituary"]), "ExitEvent"),
    rule(Words(&["obituaries"]), "exit events"),
    only(Name("Family"), "ProcessTree", AGENTS),
    only(Name("Kin"), "ProcStat", AGENTS),
    only(Name("births"), "spawn_count", AGENTS),
    rule(Words(&["childless"]), "no_children"),
    rule(Words(&["heritage"]), "ExecTemplate"),
    only(Name("figures"), "stats", &["runtime/", "agent-proto/"]),
    only(File("figures.rs"), "stats.rs", &["runtime/"]),
    only(Name("knock"), "notify_start", AGENTS),
    rule(Words(&["wind", "up"]), "shutdown"),
    rule(Words(&["enrol"]), "subscribe"),
    only(Name("dismiss"), "unsubscribe", AGENTS),
    only(Name("welcome"), "handshake", AGENTS),
    // Tests
    rule(Words(&["bed"]), "testbed"),
    only(Words(&["harness"]), "testbed-host", &["tests/testbed", "resources/xtask/"]),
    rule(Words(&["hutch", "harness"]), "hutch-testbed-host"),
    // Everywhere
    rule(Words(&["patience"]), "timeout, *_TIMEOUT"),
    rule(Constant("GRACE"), "*_TIMEOUT"),
    rule(Constant("QUIET"), "*_TIMEOUT"),
];

/// The words in a file and in its path, with their lines; those of the path are in line 0.
pub(super) fn problems(path: &str, spans: &[Span]) -> Vec<(usize, String)> {
    let rules: Vec<&Rule> = RULES.iter().filter(|rule| rule.holds_for(path)).collect();
    let first: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| match rule.old {
            Words(words) => Some(words[0]),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    let place = Span { kind: Kind::Markdown, line: 0, text: path.to_owned() };
    for span in spans.iter().chain([&place]) {
        for (line, text) in (span.line..).zip(span.text.split('\n')) {
            for compound in compounds(text) {
                let words = split(compound);
                let known =
                    words.iter().any(|word| first.contains(word.trim_end_matches('s')) || first.contains(&**word));
                let matching = rules.iter().filter(|rule| match rule.old {
                    Words(old) => known && contains(&words, old),
                    Name(old) => span.kind == Kind::Code && compound == old,
                    Constant(old) => span.kind == Kind::Code && compound.split('_').any(|word| word == old),
                    File(_) => false,
                });
                found.extend(matching.map(|rule| (line, format!("\"{compound}\": say {}", rule.new))));
            }
        }
    }
    for rule in rules {
        if let File(end) = rule.old
            && path.ends_with(&format!("/{end}"))
        {
            found.push((0, format!("\"{end}\": call the file {}", rule.new)));
        }
    }
    found
}

impl Rule {
    fn holds_for(&self, path: &str) -> bool {
        let within = |places: &[&str]| places.iter().any(|place| path.starts_with(place));
        (self.only.is_empty() || within(self.only)) && !within(self.except)
    }
}

/// Identifiers and words, hyphens within them included.
fn compounds(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
    parts.map(|part| part.trim_matches('-')).filter(|part| !part.is_empty())
}

/// The words of an identifier in small letters.
fn split(compound: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let chars: Vec<char> = compound.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        let after_small = at > 0 && !chars[at - 1].is_ascii_uppercase();
        let before_small = chars.get(at + 1).is_some_and(char::is_ascii_lowercase);
        if matches!(c, '_' | '-') || c.is_ascii_uppercase() && (after_small || before_small) {
            words.push(String::new());
        }
        if !matches!(c, '_' | '-') {
            words.last_mut().expect("there is one from the start").push(c.to_ascii_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether `words` has `old` in it, in the plural too.
fn contains(words: &[String], old: &[&str]) -> bool {
    let same = |(at, (word, old_word)): (usize, (&String, &&str))| {
        word == old_word || at + 1 == old.len() && word.strip_suffix('s') == Some(old_word)
    };
    words.windows(old.len()).any(|window| window.iter().zip(old).enumerate().all(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, kind: Kind, text: &str) -> usize {
        problems(path, &[Span { kind, line: 1, text: text.to_owned() }]).len()
    }

    #[test]
    fn words_are_found_in_every_form() {
        for bad in ["stand-in", "StandIns", "__stand-in", "a STAND_IN b", "the_stand_in_of", "`stand-in`"] {
            assert_eq!(found("a.rs", Kind::Comment, bad), 1, "{bad}");
        }
        for good in ["stand in", "stand-inside", "understand_in", "bedrock", "imbed"] {
            assert_eq!(found("a.rs", Kind::Comment, good), 0, "{good}");
        }
    }

    #[test]
    fn names_count_in_code_and_where_they_are_meant() {
        assert_eq!(found("devices/src/virtio/fs/a.rs", Kind::Code, "struct Only;"), 1);
        assert_eq!(found("devices/src/virtio/fs/a.rs", Kind::Comment, "Only one"), 0);
        assert_eq!(found("devices/src/virtio/fs/a.rs", Kind::Code, "ReadOnly"), 0);
        assert_eq!(found("devices/src/bus.rs", Kind::Code, "Only"), 0);
        assert_eq!(found("cli/src/bench/sweep.rs", Kind::Code, "fn furnish(sweep: Sweep)"), 0);
        assert_eq!(found("runtime/src/pod/a.rs", Kind::Code, "fn sweep()"), 1);
        assert_eq!(found("a.rs", Kind::Code, "const STOP_GRACE: u8; let grace;"), 1);
    }

    #[test]
    fn names_of_files_count() {
        assert_eq!(found("runtime/src/seam/mod.rs", Kind::Code, ""), 1);
        assert_eq!(found("runtime/src/pod/lazy.rs", Kind::Code, ""), 1);
        assert_eq!(found("runtime/agent/src/place.rs", Kind::Code, ""), 0);
    }

    #[test]
    fn identifiers_are_split_into_words() {
        assert_eq!(split("StandIn"), ["stand", "in"]);
        assert_eq!(split("HTTPServer2_x-y"), ["http", "server2", "x", "y"]);
        assert_eq!(split("STAND_IN"), ["stand", "in"]);
    }
}
