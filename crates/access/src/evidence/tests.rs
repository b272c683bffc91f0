//! The evidence rules, attacked one by one.

mod keys;
mod provider;
mod rules;
mod vectors;
