//! What can go wrong with keys, by what the reader of the message can do.

use std::path::PathBuf;

use ringfence_format::chunk::BadLayout;
use ringfence_format::envelope::EnvelopeError;
use ringfence_format::floe::FloeError;
use ringfence_format::head::HeadError;
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::session::{BadSession, Scope};

/// Why the vault did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    // --- the operator can put these right ---
    /// No keyring was ever made here.
    #[error("no keyring in `{}`: restore one with `ringfence keys restore`, or start with a new data folder", dir.display())]
    NoKeyring {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// A keyring is here already.
    #[error("a keyring exists in `{}` and is not overwritten: choose another folder, or move it away first", path.display())]
    KeyringExists {
        /// The keyring.
        path: PathBuf,
    },
    /// The passphrase does not open the keyring; the file itself is intact.
    #[error("the passphrase does not open `{}` (the file itself is intact): check the passphrase", path.display())]
    WrongPassphrase {
        /// The keyring or backup.
        path: PathBuf,
    },
    /// The key file is another one than the keyring was made with.
    #[error("key file `{}` does not open `{}` (both files are readable): give the key file the keyring was made with", key_file.display(), path.display())]
    WrongKeyFile {
        /// The keyring.
        path: PathBuf,
        /// The key file that was tried.
        key_file: PathBuf,
    },
    /// The keyring was made for a passphrase and a key file was given, or the
    /// other way round.
    #[error("`{}` is unlocked by a {needs}: give that instead", path.display())]
    OtherUnlock {
        /// The keyring.
        path: PathBuf,
        /// `passphrase` or `key file`.
        needs: &'static str,
    },
    /// The key file cannot be used as one.
    #[error("key file `{}` {why}", path.display())]
    KeyFile {
        /// The key file.
        path: PathBuf,
        /// Why, with the next step.
        why: String,
    },
    /// A passphrase too short to protect anything.
    #[error("the passphrase is shorter than {min} characters: choose a longer one")]
    WeakPassphrase {
        /// The least there must be.
        min: usize,
    },
    /// The file was cut or changed by accident.
    #[error("`{}` is damaged ({why}): put back a copy of it, or run `ringfence keys restore` with your key backup", path.display())]
    Damaged {
        /// The keyring or backup.
        path: PathBuf,
        /// What does not fit.
        why: &'static str,
    },
    /// The file is internally sound and yet not what its keys wrote.
    #[error("`{}` was changed by somebody without its keys ({why}): keep the file for investigation and run `ringfence keys restore` with your key backup", path.display())]
    Tampered {
        /// The keyring.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// A keyring of another realm lies where this realm's should.
    #[error("`{}` is the keyring of {found}, not of {expected}: put each keyring back under its own name", path.display())]
    WrongRealm {
        /// The keyring.
        path: PathBuf,
        /// Whose it should be.
        expected: String,
        /// Whose it says it is.
        found: String,
    },
    /// Written by a newer release.
    #[error("`{}` has format {format}, which this release does not know: use a newer release", path.display())]
    Newer {
        /// The keyring or backup.
        path: PathBuf,
        /// Its format byte.
        format: u8,
    },
    /// The file system refused.
    #[error("cannot {what} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The operating system gives no random numbers.
    #[error("the operating system gives no random numbers: nothing can be sealed")]
    NoRandomness,

    // --- the request names something that is not there ---
    /// No keys for this realm.
    #[error("realm `{0}` has no keyring here")]
    UnknownRealm(Realm),
    /// No keys for this tenant.
    #[error("tenant `{0}` has no keys in realm `{1}`: add it with `ringfence tenant add`")]
    UnknownTenant(Tenant, Realm),
    /// A month's evidence key was replaced ten thousand times.
    #[error("the evidence keys of {month} were replaced too often: wait until retention has trimmed that month")]
    MonthUsedUp {
        /// `YYYY-MM`
        month: String,
    },
    /// The tenant has keys already.
    #[error("tenant `{0}` has keys already")]
    TenantExists(Tenant),
    /// That version of the tenant's key-encryption key is not here: never was,
    /// or was retired or shredded.
    #[error(
        "version {version} of the key of tenant `{tenant}` is not in the keyring: it was retired, shredded or never restored"
    )]
    UnknownKek {
        /// Whose.
        tenant: Tenant,
        /// Which.
        version: u32,
    },
    /// A head names a key that is not here.
    #[error("the head was made under a key that is not in the keyring: restore the key backup it belongs to")]
    UnknownKekId,
    /// No secret of that name.
    #[error("no secret `{0}` in the keyring")]
    UnknownSecret(String),
    /// The current version cannot be retired.
    #[error("version {version} is the current key of tenant `{tenant}`: rotate first")]
    CurrentKek {
        /// Whose.
        tenant: Tenant,
        /// Which.
        version: u32,
    },
    /// That version is just being retired.
    #[error("version {version} of the key of tenant `{tenant}` is being retired: try again in a moment")]
    KekClosing {
        /// Whose.
        tenant: Tenant,
        /// Which.
        version: u32,
    },
    /// Objects still need this version.
    #[error(
        "{heads} heads or uploads are still under version {version} of the key of tenant `{tenant}`: let the rotation finish first"
    )]
    KekInUse {
        /// Whose.
        tenant: Tenant,
        /// Which.
        version: u32,
        /// How many.
        heads: u64,
    },

    // --- session keys ---
    /// No key of the scope may sign now.
    #[error(
        "no key of scope {scope} may sign now ({why}): issuing stops until a manifest with a fresh key is in force, see `ringfence keys list`"
    )]
    KeyOverdue {
        /// Where.
        scope: Box<Scope>,
        /// Why not.
        why: &'static str,
    },
    /// What is to be signed says something that its key may not say.
    #[error("the session is not signed: {0}")]
    OutsideScope(&'static str),
    /// The payload does not fit.
    #[error("the session is not signed: {0}")]
    Session(#[from] BadSession),
    /// Fewer revocations are in the catalogue than were on record.
    #[error(
        "revocations of realm `{0}` that are on record are not in the catalogue: move it and its `-wal` and `-shm` files away and run `ringfence recover`"
    )]
    RevocationsLost(Realm),
    /// Files of a root that do not sign together.
    #[error("the root does not sign: {0}")]
    Shares(&'static str),
    /// The realm's root is not here.
    #[error(
        "the root of realm `{0}` is offline: make a request with `ringfence keys manifest request` and sign it there"
    )]
    OfflineRoot(Realm),

    // --- the caller brought evidence for something else ---
    /// The permit or receipt is about another object, or about none.
    #[error("the permit is not for this object")]
    NotPermitted,

    // --- the data is not what was written ---
    /// A wrapped key or secret does not open where it lies.
    #[error("a wrapped {what} {why}")]
    Wrapped {
        /// `data key`, `secret`.
        what: &'static str,
        /// Why not.
        why: ringfence_format::wrap::WrapError,
    },
    /// Ciphertext of a part.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// A head object.
    #[error(transparent)]
    Head(#[from] HeadError),
}

impl VaultError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }

    /// Whether bytes at a site are wrong, so that another copy may be right.
    pub fn is_corrupt_copy(&self) -> bool {
        matches!(self, Self::Envelope(_) | Self::Head(_))
    }
}

impl From<FloeError> for VaultError {
    fn from(error: FloeError) -> Self {
        Self::Envelope(error.into())
    }
}

impl From<BadLayout> for VaultError {
    fn from(error: BadLayout) -> Self {
        Self::Envelope(error.into())
    }
}
