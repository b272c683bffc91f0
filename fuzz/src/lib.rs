//! One fuzz target for each kind of bytes from outside, under libFuzzer.
//!
//! What a target does with its bytes, and what it holds against the answer,
//! stands in [`bodies`]; `make test` runs the same bodies over the seeds and
//! some thousands of changed ones (`crates/ringfence/tests/fuzz.rs`).

mod bodies;

use std::cell::RefCell;

use bodies::{Ground, TARGETS};

/// Runs one input of one target.
pub fn run(name: &str, bytes: &[u8]) {
    thread_local! {
        // Never dropped: a server that closes while its thread ends finds no
        // runtime any more.
        static GROUND: RefCell<Option<&'static mut Ground>> = const { RefCell::new(None) };
    }
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of the list");
    GROUND.with_borrow_mut(|ground| {
        let ground = ground.get_or_insert_with(|| {
            let dir = std::env::temp_dir().join(format!("ringfence-fuzz-{name}"));
            let _ = std::fs::remove_dir_all(&dir);
            Box::leak(Box::new(Ground::new(&dir)))
        });
        body(ground, bytes);
    });
}
