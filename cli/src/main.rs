//! The `hutch` command line.
//!
//! Two stages: [`args`] holds the words as typed, [`resolve`] gives them their meaning. Each verb is one file of
//! [`commands`]. Errors travel up to `main`, which prints them once, with their causes.
//!
//! | file | contents |
//! |---|---|
//! | `args`, `resolve`, `commands` | the command line as typed; its meaning; the verbs |
//! | `bench`, `doctor`, `man` | `hutch bench`; `hutch doctor`; man pages |
//! | `attach`, `tty`, `signals` | a guest process with this terminal; raw mode and size; signals that are passed on |
//! | `failure`, `output`, `logging` | a failure and its exit code; tables and JSON; the log |
//! | `marks`, `clock`, `heap` | `--marks FILE`; the clock of marks; the allocator |
//! | `reference`, `documents` | tests: `resources/docs/reference/cli.md` is what this program says; other pages, too |
#![deny(unsafe_code)]

mod args;
mod attach;
mod bench;
mod clock;
mod commands;
mod doctor;
#[cfg(test)]
mod documents;
mod failure;
mod heap;
mod logging;
mod man;
mod marks;
mod output;
#[cfg(test)]
mod reference;
mod resolve;
mod signals;
mod tty;

use std::process::ExitCode;

use args::{Command, Parsed};

fn main() -> ExitCode {
    heap::share();
    hutch_runtime::init();
    if let Some(code) = man::hidden_verb() {
        return ExitCode::from(code);
    }
    let started = hutch_vmm::now_ns();
    let args = match args::parse(std::env::args_os()) {
        Parsed::Args(args) => args,
        Parsed::Done(code) => return ExitCode::from(code),
    };
    let result = logging::init(&args.log).and_then(|()| match args.command {
        Command::Run(run) => commands::run::run(*run, started),
        Command::Pod(pod) => commands::pod::run(pod),
        Command::Container(container) => commands::container::run(container),
        Command::Volume(volume) => commands::volume::run(volume),
        Command::Schema(schema) => commands::schema::run(&schema),
        Command::Doctor(doctor) => commands::doctor::run(&doctor),
        Command::Guest(guest) => commands::guest::run(guest),
        Command::Boot(boot) => commands::boot::run(&boot, started),
        Command::Bench(bench) => commands::bench::run(&bench),
        Command::Completions(completions) => commands::completions::run(&completions),
        Command::Version(version) => commands::version::run(&version),
    });
    ExitCode::from(match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    })
}
