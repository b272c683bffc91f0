//! The tables of the catalogue, as numbered steps.
//!
//! docs/formats/catalogue.md says what each column is for. Ids and keys are
//! BLOBs, so that SQLite orders them by bytes as S3 orders keys.

use ringfence_db::Migration;

/// Every step from the first release on; a released step is never edited.
pub(crate) const MIGRATIONS: &[Migration] = &[Migration { to: 1, sql: V1 }, Migration { to: 2, sql: V2 }];

/// What gives session keys their power, and takes it.
const V2: &str = "
CREATE TABLE manifest(
    realm TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE revocation(
    seq INTEGER PRIMARY KEY,
    realm TEXT NOT NULL,
    body BLOB NOT NULL
);
";

/// `version` is narrow, so that a listing page is one range scan over few
/// pages; what only a read of the object needs lies in `body`, whose rows are
/// appended. The newest version of a key has the lowest `ord`.
const V1: &str = "
CREATE TABLE meta(
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE tenant(
    name TEXT PRIMARY KEY,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE static_key(
    id TEXT PRIMARY KEY,
    body BLOB NOT NULL,
    issued_seq INTEGER
) WITHOUT ROWID;

CREATE TABLE bucket(
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    body BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE version(
    bucket BLOB NOT NULL,
    key BLOB NOT NULL,
    ord INTEGER NOT NULL,
    uid BLOB NOT NULL,
    body INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    checksum TEXT,
    label TEXT NOT NULL,
    PRIMARY KEY(bucket, key, ord)
) WITHOUT ROWID;

CREATE TABLE body(
    row INTEGER PRIMARY KEY,
    uid BLOB NOT NULL UNIQUE,
    body BLOB NOT NULL
);

CREATE TABLE upload(
    bucket BLOB NOT NULL,
    key BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    body BLOB NOT NULL,
    PRIMARY KEY(bucket, key, created_ms, id)
) WITHOUT ROWID;

CREATE TABLE upload_part(
    upload BLOB NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY(upload, number)
) WITHOUT ROWID;

CREATE TABLE completed(
    upload BLOB PRIMARY KEY,
    bucket BLOB NOT NULL,
    key BLOB NOT NULL,
    uid BLOB NOT NULL,
    etag TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE attempt(
    upload BLOB PRIMARY KEY,
    sites TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE aborted(
    upload BLOB PRIMARY KEY,
    since_ms INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE garbage(
    site TEXT NOT NULL,
    kind INTEGER NOT NULL,
    id BLOB NOT NULL,
    chunks INTEGER NOT NULL,
    pack INTEGER,
    pack_offset INTEGER,
    pack_len INTEGER,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY(site, kind, id)
) WITHOUT ROWID;
CREATE INDEX garbage_by_age ON garbage(site, since_ms);

CREATE TABLE incarnation(
    id INTEGER PRIMARY KEY,
    until_ms INTEGER
);

CREATE TABLE bad_copy(
    uid BLOB NOT NULL,
    site TEXT NOT NULL,
    why TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    PRIMARY KEY(uid, site)
) WITHOUT ROWID;

CREATE TABLE unconfirmed(
    uid BLOB PRIMARY KEY
) WITHOUT ROWID;
";
