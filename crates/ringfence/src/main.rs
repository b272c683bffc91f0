//! The `ringfence` binary. Here `main` and nothing else.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    // What this process makes is its user's alone: catalogue, records, packs
    // and sockets, whatever the shell allows to others.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    ringfence::run()
}
