//! The `ringfence` binary: wire, flows and command line over the crates that
//! keep the promises. Here `main` and nothing else.

mod admin;
mod background;
mod cli;
mod config;
mod flows;
mod installation;
mod s3;
mod serve;
mod telemetry;
mod upkeep;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // What this process makes is its user's alone: catalogue, records, packs
    // and sockets, whatever the shell allows to others.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    cli::run()
}
