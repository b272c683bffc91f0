//! The evidence rules, attacked one by one.

mod keys;
mod oracle;
pub(crate) mod provider;
mod rules;
mod vectors;
