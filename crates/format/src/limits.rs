//! Every maximum in one place, each with its reason; relations between them
//! are asserted at compile time.

/// Object keys: S3 allows 1,024 bytes of UTF-8.
pub const OBJECT_KEY_BYTES_MAX: usize = 1024;
/// S3 bucket names are 3 to 63 characters.
pub const BUCKET_NAME_BYTES_MIN: usize = 3;
/// See [`BUCKET_NAME_BYTES_MIN`].
pub const BUCKET_NAME_BYTES_MAX: usize = 63;
/// Realms, tenants, principals, sites and labels: DNS-label sized.
pub const SHORT_NAME_BYTES_MAX: usize = 63;
/// User metadata of one object, names and values together (S3: 2 KB).
pub const USER_METADATA_BYTES_MAX: usize = 2 * 1024;
/// Tags on one object (S3: 10) and on one bucket (S3: 50).
pub const OBJECT_TAGS_MAX: usize = 10;
/// See [`OBJECT_TAGS_MAX`].
pub const BUCKET_TAGS_MAX: usize = 50;
/// Tag key length in Unicode code points (S3: 128).
pub const TAG_KEY_CHARS_MAX: usize = 128;
/// Tag value length in Unicode code points (S3: 256).
pub const TAG_VALUE_CHARS_MAX: usize = 256;

/// Plaintext and header of one FLOE segment: the unit that is authenticated
/// before a byte of it is released.
pub const SEGMENT_BYTES: usize = 64 * 1024;
/// A part's ciphertext is cut into chunk objects of at most this size.
pub const CHUNK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Chunks up to this size may share a pack file at a directory site.
pub const PACKED_CHUNK_BYTES_MAX: usize = 64 * 1024;

/// One S3 PUT or part carries at most 5 GiB.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Every part but the last has at least 5 MiB.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// Parts are numbered 1 to 10,000.
pub const PART_NUMBER_MAX: u32 = 10_000;
/// S3's largest object: 50 TiB would need more parts than this; 5 TiB is what
/// 10,000 parts of 5 GiB allow in practice and what clients expect.
pub const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// Keys in one `DeleteObjects` request (S3: 1,000).
pub const DELETE_OBJECTS_MAX: usize = 1000;
/// Keys in one listing page (S3: 1,000).
pub const LIST_PAGE_MAX: usize = 1000;
/// Buckets of one tenant.
pub const BUCKETS_PER_TENANT_MAX: usize = 10_000;

/// XML bodies that are read whole (S3's DeleteObjects limit is about 2 MB).
pub const XML_BODY_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A signed aws-chunked chunk is held in memory until its signature is checked.
pub const SIGNED_CHUNK_BYTES_MAX: usize = 16 * 1024 * 1024;
/// All request headers together.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Connections to the S3 endpoint at once; more wait in the kernel's backlog.
/// Each may hold a site's descriptor too, and 20,000 is a usual limit of them.
pub const CONNECTIONS_MAX: usize = 4096;
/// Clock skew that SigV4 allows, in seconds (AWS: 15 minutes).
pub const CLOCK_SKEW_S_MAX: u32 = 15 * 60;
/// Lifetime of a presigned URL, in seconds (AWS: 7 days).
pub const PRESIGNED_S_MAX: u32 = 7 * 24 * 3600;

/// A trust file holds one manifest of each realm, of at most 1 MiB or so.
pub const TRUST_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A permit is good for this long before it must have been recorded, so that
/// a revocation cannot be outrun by a request that was decided before it.
pub const PERMIT_MS_MAX: u64 = 10_000;
/// One encoded record, redo included. A multipart completion with 10,000
/// parts is the largest.
pub const RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The public part of one record: a manifest with some tens of keys is the
/// largest. An entry bundle holds 256 of them and is read whole.
pub const PUBLIC_ENTRY_BYTES_MAX: usize = 8 * 1024;
/// What an alarm says in words.
pub const ALARM_DETAIL_BYTES_MAX: usize = 2048;
/// Alarms that are remembered for `alarm list` after they were told.
pub const ALARMS_LISTED_MAX: usize = 1000;
/// Alarms that wait in memory to be told; those beyond wait in the log alone.
pub const ALARMS_WAITING_MAX: usize = 10_000;
/// Subjects whose alarms are counted apart at one time; those beyond share a
/// count for each kind, so that a flood costs a bounded number of records.
pub const ALARM_SUBJECTS_MAX: usize = 1024;

/// Witnesses of one log. C2SP tlog-policy asks readers for 32 at least; a note
/// has room for as many signatures and the log's own.
pub const WITNESSES_MAX: usize = 32;

const _: () = assert!(PUBLIC_ENTRY_BYTES_MAX + 33 <= u16::MAX as usize, "tlog-tiles: u16 before each entry");
const _: () = assert!(PACKED_CHUNK_BYTES_MAX <= CHUNK_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES_MAX.is_multiple_of(SEGMENT_BYTES));
const _: () = assert!(PART_BYTES_MAX * PART_NUMBER_MAX as u64 >= OBJECT_BYTES_MAX);
