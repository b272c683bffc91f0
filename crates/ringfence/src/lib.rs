//! What the `ringfence` binary is made of: wire, flows, administration and
//! command line over the crates that keep the promises.
//!
//! Two things can be called: [`run`], which is the binary, and `fuzz`, by which
//! the fuzz targets and `tests/fuzz.rs` reach the parsers in here.

mod admin;
mod alarm;
mod background;
mod cli;
mod config;
mod erasure;
mod flows;
mod forward_auth;
#[doc(hidden)]
pub mod fuzz;
mod gateway;
mod hygiene;
mod installation;
mod key_use;
mod papers;
mod retention;
mod s3;
mod serve;
mod session_keys;
mod sessions;
mod sts;
mod telemetry;
mod upkeep;
mod watch;
mod witness;

pub use cli::run;
