//! The command `isonomy`: what it does is in `src/cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    isonomy::internals::cli::run(std::env::args_os())
}
