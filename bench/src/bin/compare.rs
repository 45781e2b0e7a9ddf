//! The sleeve beside rivals: see `wove_bench::compare`.

use std::{io, process::ExitCode};

use clap::Parser;
use wove_bench::compare::{options::Options, run};

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options, &mut io::stdout().lock(), &mut io::stderr()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("error: {error:#}\n"));
            ExitCode::from(2)
        }
    }
}
