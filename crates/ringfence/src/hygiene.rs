//! What keeps the secrets of this process out of dumps, of swap, and of the
//! eyes of other processes.
//!
//! Every command begins with [`harden`], for any of them may open keys. What
//! cannot be helped here: root may read any process's memory, and libraries
//! keep working copies for the time of a call (the S3 library wipes its own).

use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::CapabilitySet;

use crate::cli::Failure;

/// Whether memory may reach the swap space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// No page of this process, now or later.
    Locked,
    /// It may, and why.
    Swappable(String),
}

/// Turns core dumps off, lets no other process of this user read this one's
/// memory, environment or descriptors (`/proc/PID/…`, ptrace).
///
/// # Errors
/// The system refuses: then nothing that needs keys may be done.
pub fn harden() -> Result<(), Failure> {
    let failed = |what: &str, e: rustix::io::Errno| Failure::internal(format!("{what} cannot be turned off: {e}"));
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(|e| failed("core dumps", e))?;
    // Also for a core that the system pipes to a program, which the limit does not stop.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| failed("reading by other processes", e))
}

/// Locks all memory, each page from its first use on, where the system sets no
/// limit to that. Under a limit nothing is locked: beyond it every allocation
/// would fail, and to lock only pages that we know of would leave out the
/// copies that cryptographic libraries hold.
pub fn lock_memory() -> Memory {
    let limit = getrlimit(Resource::Memlock).current;
    let privileged =
        rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if let Some(bytes) = limit.filter(|_| !privileged) {
        return Memory::Swappable(format!("this process may lock {bytes} bytes only"));
    }
    match rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => Memory::Locked,
        Err(e) => Memory::Swappable(format!("the system does not lock it: {e}")),
    }
}

/// [`lock_memory`], told to the operator.
pub fn lock_memory_and_tell() {
    let memory = lock_memory();
    metrics::gauge!("ringfence_memory_locked").set(f64::from(u8::from(memory == Memory::Locked)));
    if let Memory::Swappable(why) = memory {
        tracing::warn!("keys in memory may reach the swap space: {why}; set LimitMEMLOCK=infinity, or encrypt swap");
    }
}
