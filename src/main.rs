//! The `isonomy` command: see [`isonomy::internals::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    isonomy::internals::cli::run(std::env::args_os())
}
