//! Who may do what, and where data may live.

pub mod caller;
pub mod permit;
pub mod placement;

pub use caller::Caller;
pub use permit::{Action, Denial, Permit};
pub use placement::Placement;
