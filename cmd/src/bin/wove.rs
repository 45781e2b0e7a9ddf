//! The binary `wove`: daemon and client in one. It parses, runs, and turns the
//! outcome into an exit status.

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use clap::Parser;
use wove_cmd::{args::Cli, commands};

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.line() {
                // With standard error closed there is nobody left to tell.
                let _ = writeln!(stderr(), "{line}");
            }
            failure.exit_code()
        }
    }
}
