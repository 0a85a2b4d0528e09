//! `tank`: arguments in, one view a command out.
//!
//! * [`args`]: every command and option.
//! * [`client`]: one call to the daemon.
//! * [`commands`]: a module a family of commands; each prints for people or, with `--json`, for
//!   programs.
//! * [`output`]: what is printed; what others wrote is made visible there before a terminal obeys
//!   it.
//! * [`progress`]: a change on its way, drawn.
//! * [`shell`]: completions and pages for `man`.
//! * [`terminal`]: raw mode, detaching, window size.
//! * [`modes`]: the modes of a terminal that a program may leave switched on.
//! * [`timings`]: the spans of a change, drawn.
//! * [`when`]: times as people write them.
//! * [`usage`]: arguments that are none; [`elsewhere`]: what commands are called elsewhere.
//! * [`status`]: every status that the command ends with.
//! * [`error`]: the message, cause, help and exit status of every error.
//!
//! Data goes to standard output, progress and diagnostics to standard error.

#![forbid(unsafe_code)]

mod args;
mod client;
mod commands;
mod elsewhere;
mod error;
mod modes;
mod output;
mod progress;
mod shell;
mod status;
mod terminal;
mod timings;
mod usage;
mod when;

use args::{Args, Command};
use clap::Parser;
use std::{path::Path, process::ExitCode};

fn main() -> ExitCode {
    // This program again, as the child that evaluates a configuration with limits.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == commands::EVALUATE)
    {
        return ExitCode::from(tank_compiler::child::main());
    }
    if let Some(folder) = shell::man_pages_asked() {
        return match shell::man_pages(Path::new(&folder)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{}: {error}", folder.display());
                ExitCode::FAILURE
            }
        };
    }
    shell::answer();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return ExitCode::from(usage::refuse(error)),
    };
    let json = args.json;
    let exec = matches!(
        args.command,
        Command::Exec(_) | Command::Run(_) | Command::Attach { .. }
    );
    if args.is_paged() {
        output::pager::want();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(args)),
        Err(error) => Err(error::Error::Start(error)),
    };
    output::pager::finish();
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            let status = error.status(exec);
            match json {
                true => error::json::print(&error.json(status)),
                false => error.print(),
            }
            ExitCode::from(status)
        }
    }
}
