//! What each fuzz target does with its bytes, and what must hold whatever they
//! are: never only "no panic".

mod admin;
mod ground;
mod identity;
mod keyrings;
mod policies;
mod proofs;
mod s3;
mod sessions;
mod settings;
mod sites;
mod sts;
mod wire;
mod witness;

pub use ground::Ground;

/// What came of one input: the status where there is an answer, 1 for what was
/// accepted and 0 for what was refused where there is none. A seed's name
/// begins with it.
pub type Came = u16;

/// Takes one input, on the ground of its target, and panics where something
/// does not hold.
pub type Body = fn(&mut Ground, &[u8]) -> Came;

/// Every target by name.
pub const TARGETS: &[(&str, Body)] = &[
    ("admin", admin::calls),
    ("chunked", s3::chunked),
    ("documents", s3::documents),
    ("evidence", |_, bytes| sites::evidence(bytes)),
    ("heads", s3::heads),
    ("idtokens", |_, bytes| identity::tokens(bytes)),
    ("jwks", |_, bytes| identity::key_sets(bytes)),
    ("keyrings", keyrings::keyrings),
    ("narrowing", |_, bytes| identity::session_policies(bytes)),
    ("policies", |_, bytes| policies::policies(bytes)),
    ("proofs", |_, bytes| proofs::proofs(bytes)),
    ("records", |_, bytes| sites::records(bytes)),
    ("requests", s3::requests),
    ("sessions", |_, bytes| sessions::sessions(bytes)),
    ("settings", |_, bytes| settings::settings(bytes)),
    ("sites", |_, bytes| sites::sites(bytes)),
    ("sts", sts::sts),
    ("witness", |_, bytes| witness::requests(bytes)),
];
