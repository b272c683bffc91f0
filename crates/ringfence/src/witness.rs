//! Witnesses (C2SP tlog-witness): those who saw this log grow and say so.
//!
//! [`server`] is a process of its own, with its own key and its own state: it
//! opens no installation and knows nothing of one but the public keys of the
//! logs it watches. [`client`] is what a server does to have its checkpoints
//! cosigned.

pub mod client;
pub mod in_force;
pub mod request;
pub mod server;
pub mod state;
#[cfg(test)]
mod tests;
