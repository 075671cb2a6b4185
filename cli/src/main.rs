//! The `hutch` command line.
//!
//! Two stages: [`args`] is what was typed, [`resolve`] what it means; each verb is one file of [`commands`]. Errors
//! travel up as they are and are printed once, here, with their chain of causes.
#![deny(unsafe_code)]

mod args;
mod attach;
mod bench;
mod clock;
mod commands;
mod doctor;
mod failure;
mod heap;
mod logging;
mod marks;
mod output;
mod resolve;
mod signals;
mod tty;

use std::process::ExitCode;

use args::{Command, Parsed};

fn main() -> ExitCode {
    heap::share();
    hutch_runtime::init();
    let started = clock::now_ns();
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
        Command::Version => commands::version::run(),
    });
    ExitCode::from(match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    })
}
