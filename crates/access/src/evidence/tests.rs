//! The evidence rules, attacked one by one.

mod keys;
pub(crate) mod provider;
mod rules;
mod vectors;
