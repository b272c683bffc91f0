//! The evidence rules, attacked one by one.

mod keys;
mod oracle;
mod provider;
mod rules;
mod vectors;
