//! `-t`: the command has a terminal that follows hutch's own.

use hutch_e2e::{Hutch, RootFs, Terminal};
use hutch_takeover::{threads, Taken};

#[test]
fn the_command_has_a_terminal_of_the_right_size() {
    let root = RootFs::new();
    let mut terminal = Terminal::start(Hutch::run(&root).args(["-it"]).sh("tty; stty size; exit 4"), 33, 101);
    terminal.expect("/dev/");
    terminal.expect("33 101");
    assert_eq!(terminal.end().0.code(), Some(4));
}

#[test]
fn without_t_there_is_no_terminal() {
    let root = RootFs::new();
    Hutch::run(&root).sh("tty; [ -t 1 ] || echo none").end().expect_text("not a tty\nnone\n");
}

#[test]
fn a_shell_can_be_talked_to_and_resized_and_interrupted() {
    let root = RootFs::new();
    let mut terminal = Terminal::start(Hutch::run(&root).args(["-it", "-e", "PS1=prompt> ", "--", "/bin/sh"]), 24, 80);
    terminal.expect("prompt> ");
    terminal.type_in("echo $((6 * 7))\r");
    terminal.expect("42");
    terminal.expect("prompt> ");
    terminal.resize(50, 132);
    terminal.type_in("while [ \"$(stty size)\" != '50 132' ]; do sleep 0.1; done; echo re''sized\r");
    terminal.expect("resized");
    terminal.expect("prompt> ");
    terminal.type_in("sleep 1000; echo slept=$?\r");
    std::thread::sleep(std::time::Duration::from_millis(500));
    terminal.type_in("\x03");
    terminal.expect("prompt> ");
    terminal.type_in("exit 6\r");
    assert_eq!(terminal.end().0.code(), Some(6));
}

#[test]
fn the_callers_terminal_is_given_back_as_it_was() {
    let root = RootFs::new();
    let script = format!(
        "before=$(stty -g); \"$HUTCH\" run --rootfs {} -it -- /bin/sh -c 'stty raw; kill -9 $$'; [ \"$before\" = \"$(stty -g)\" ] && echo same",
        root.path().display()
    );
    let command = hutch_e2e::Hutch::program("/bin/sh").env("HUTCH", &hutch_e2e::hutch_path().to_string_lossy());
    let mut terminal = Terminal::start(command.args(["-c", &script]), 24, 80);
    terminal.expect("same");
    terminal.end();
}

#[test]
fn a_forbidden_call_of_any_thread_is_named_and_gives_the_terminal_back() {
    let root = RootFs::new();
    for name in ["vcpu0", "vsock"] {
        let mut terminal = Terminal::start(Hutch::run(&root).args(["-it"]).sh("echo up; sleep 1000"), 24, 80);
        terminal.expect("up");
        assert!(terminal.is_raw());
        let thread = threads(terminal.pid()).into_iter().find(|thread| thread.name == name).expect(name);
        let taken = Taken::take(thread.id).expect("it lives as long as the machine");
        taken.violate(libc::SYS_execve, [0; 6], Some((0, "/bin/true")));
        terminal.expect(&format!("the jail ended this process: thread {name} made the system call execve (59)"));
        assert_eq!(terminal.wait().code(), Some(159), "{name}");
        assert!(!terminal.is_raw(), "{name}");
    }
}
