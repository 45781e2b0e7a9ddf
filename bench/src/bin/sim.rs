//! The simulator: see `wove_bench::sim`.

use std::{io, process::ExitCode};

use clap::Parser;
use wove_bench::sim::{memory::CountingAllocator, options::Options, run};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn main() -> ExitCode {
    let options = Options::parse();
    match run::run(&options, &mut io::stdout().lock(), &mut io::stderr()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("error: {error:#}\n"));
            ExitCode::from(2)
        }
    }
}
