//! The `isonomy` command: see [`isonomy::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    isonomy::cli::run(std::env::args_os())
}
