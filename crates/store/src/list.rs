//! Listings whose cost grows with the page, not with the bucket.
//!
//! A page is one range scan. Where a delimiter rolls keys up, or a key has many
//! versions, the scan seeks past what it need not see: a common prefix costs
//! one seek, however many keys it holds.

use ringfence_db::rusqlite::{Connection, Row, Statement};
use ringfence_format::names::{BucketId, ObjectKey, UploadId, VersionUid};
use ringfence_format::redo::{TimeMs, Upload};

use crate::rows::{self, FLAG_MARKER, FLAG_NULL, Rows};

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: ObjectKey,
    /// Its identity.
    pub uid: VersionUid,
    /// Whether S3 shows it as version `null`.
    pub null_version: bool,
    /// Whether it is a delete marker; only version listings have these.
    pub delete_marker: bool,
    /// Whether it is its key's newest version.
    pub latest: bool,
    /// Last-Modified.
    pub created_ms: TimeMs,
    /// Plaintext bytes.
    pub size: u64,
    /// ETag without quotes.
    pub etag: String,
    /// Algorithm of its checksum, and whether that is composite.
    pub checksum: Option<(String, bool)>,
}

/// A page of a listing: contents and common prefixes are each in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T = Listed> {
    /// What is listed singly.
    pub contents: Vec<T>,
    /// What the delimiter rolled up.
    pub common_prefixes: Vec<String>,
    /// The last line of a page that has more behind it: where the next one
    /// begins. `None` where the listing ends here.
    pub next: Option<After>,
}

/// Where a listing goes on: behind this line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct After {
    /// A key or a common prefix; empty for the beginning.
    pub key: String,
    /// For listings of versions and uploads: behind this one of the key; all
    /// of the key are behind us where `None`.
    pub id: Option<AfterId>,
}

/// Which of a key's versions or uploads was last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterId {
    /// The version called `null`.
    Null,
    /// A version.
    Version(VersionUid),
    /// An upload.
    Upload(UploadId),
}

impl After {
    /// Behind all of a key, or of a common prefix.
    pub fn key(key: impl Into<String>) -> Self {
        Self { key: key.into(), id: None }
    }
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Query<'a> {
    /// Only keys that begin so.
    pub prefix: &'a str,
    /// Roll up behind the prefix at the first of these; empty: do not.
    pub delimiter: &'a str,
    /// Begin behind this line.
    pub after: After,
    /// Lines at most, common prefixes counted.
    pub max: usize,
}

const COLUMNS: &str = "key, ord, uid, flags, created_ms, size, etag, checksum";

/// Rows of one key that are stepped over before it is cheaper to seek.
const STEPS_BEFORE_SEEK: usize = 8;

/// Current objects of a bucket, as ListObjects shows them.
pub(crate) fn objects(db: &Connection, bucket: &BucketId, query: &Query<'_>) -> Rows<Page> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM version WHERE bucket = ?1 AND key >= ?2 AND key < ?3 ORDER BY key, ord"
    ))?;
    let mut scan = Scan::new(query);
    let mut last_key: Vec<u8> = Vec::new();
    'seek: while let Some(from) = scan.from.take() {
        let mut rows = statement.query((bucket.as_bytes(), from, &scan.until))?;
        let mut stepped = 0;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob()?;
            if key == last_key.as_slice() {
                stepped += 1;
                if stepped > STEPS_BEFORE_SEEK {
                    scan.from = Some(just_behind(key));
                    continue 'seek;
                }
                continue;
            }
            stepped = 0;
            last_key.clear();
            last_key.extend_from_slice(key);
            if row.get::<_, i64>(3)? & FLAG_MARKER != 0 {
                continue;
            }
            match scan.take(query, key, || listed(row, true), After::key)? {
                Step::Next => {}
                Step::Seek => continue 'seek,
                Step::Full => break 'seek,
            }
        }
    }
    Ok(scan.page)
}

/// All versions and delete markers of a bucket, as ListObjectVersions shows them.
pub(crate) fn versions(db: &Connection, bucket: &BucketId, query: &Query<'_>) -> Rows<Page> {
    let mut scan = Scan::new(query);
    let mut last_key = scan.resume_within_key(query);
    let mut skip_to = match (&last_key, query.after.id) {
        (Some(key), Some(id)) => ord_of(db, bucket, key, id)?.unwrap_or(i64::MAX),
        _ => i64::MIN,
    };
    let mut statement = db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM version WHERE bucket = ?1 AND key < ?4 AND (key, ord) > (?2, ?3) ORDER BY key, ord"
    ))?;
    'seek: while let Some(from) = scan.from.take() {
        let mut rows = statement.query((bucket.as_bytes(), from, skip_to, &scan.until))?;
        skip_to = i64::MIN;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob()?;
            let latest = last_key.as_deref() != Some(key);
            if latest {
                last_key = Some(key.to_vec());
            }
            match scan.take(query, key, || listed(row, latest), |key| After { key, id: after_id(row) })? {
                Step::Next => {}
                Step::Seek => continue 'seek,
                Step::Full => break 'seek,
            }
        }
    }
    Ok(scan.page)
}

/// Uploads under way in a bucket, by key and then by age.
pub(crate) fn uploads(db: &Connection, bucket: &BucketId, query: &Query<'_>) -> Rows<Page<Upload>> {
    let mut scan = Scan::new(query);
    let resumed = scan.resume_within_key(query);
    let mut behind = (-1_i64, Vec::new());
    if let (Some(_), Some(AfterId::Upload(id))) = (resumed, query.after.id) {
        behind = match rows::upload(db, &id)? {
            Some(upload) => (i64::try_from(upload.version.created_ms).unwrap_or(i64::MAX), id.as_bytes().to_vec()),
            None => (i64::MAX, Vec::new()),
        };
    }
    let mut statement = db.prepare_cached(
        "SELECT key, body FROM upload
         WHERE bucket = ?1 AND key < ?5 AND (key, created_ms, id) > (?2, ?3, ?4) ORDER BY key, created_ms, id",
    )?;
    'seek: while let Some(from) = scan.from.take() {
        let mut rows = statement.query((bucket.as_bytes(), from, behind.0, &behind.1, &scan.until))?;
        behind = (-1, Vec::new());
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob()?;
            let mut id = None;
            let read = || {
                let upload: Upload = rows::cbor(row, 1)?;
                id = Some(AfterId::Upload(upload.id));
                Ok(upload)
            };
            match scan.take(query, key, read, After::key)? {
                Step::Next => {}
                Step::Seek => continue 'seek,
                Step::Full => break 'seek,
            }
            scan.last.id = id;
        }
    }
    Ok(scan.page)
}

/// The state of one page being filled.
struct Scan<T> {
    /// Where the next query begins; `None` ends the scan.
    from: Option<Vec<u8>>,
    /// Where the prefix ends, exclusive.
    until: Vec<u8>,
    /// The last line taken.
    last: After,
    page: Page<T>,
}

enum Step {
    /// Go on with the next row.
    Next,
    /// Go on at `from`.
    Seek,
    /// The page is full and there is more.
    Full,
}

impl<T> Scan<T> {
    fn new(query: &Query<'_>) -> Self {
        let prefix = query.prefix.as_bytes();
        let after = behind(query);
        let from = after.filter(|after| after.as_slice() > prefix).unwrap_or_else(|| prefix.to_vec());
        Self {
            // S3: `max-keys=0` asks for nothing and is never truncated.
            from: (query.max > 0).then_some(from),
            until: upper_bound(prefix),
            last: After::default(),
            page: Page { contents: Vec::new(), common_prefixes: Vec::new(), next: None },
        }
    }

    /// Where a listing goes on inside one key, begins there and says which.
    fn resume_within_key(&mut self, query: &Query<'_>) -> Option<Vec<u8>> {
        let key = query.after.key.as_bytes();
        query.after.id?;
        let inside = key >= query.prefix.as_bytes() && key < self.until.as_slice();
        if !inside || self.from.is_none() {
            return None;
        }
        self.from = Some(key.to_vec());
        Some(key.to_vec())
    }

    /// Adds one row to the page, rolled up where the delimiter says so.
    fn take(
        &mut self,
        query: &Query<'_>,
        key: &[u8],
        read: impl FnOnce() -> Rows<T>,
        mark: impl FnOnce(String) -> After,
    ) -> Rows<Step> {
        if self.page.contents.len() + self.page.common_prefixes.len() == query.max {
            self.page.next = Some(std::mem::take(&mut self.last));
            return Ok(Step::Full);
        }
        let text = || String::from_utf8_lossy(key).into_owned();
        match common_prefix(key, query) {
            Some(end) => {
                let rolled = String::from_utf8_lossy(&key[..end]).into_owned();
                self.from = Some(upper_bound(&key[..end]));
                self.last = After::key(rolled.clone());
                self.page.common_prefixes.push(rolled);
                Ok(Step::Seek)
            }
            None => {
                self.page.contents.push(read()?);
                self.last = mark(text());
                Ok(Step::Next)
            }
        }
    }
}

/// The first key that may follow `after`, or `None` for the beginning.
fn behind(query: &Query<'_>) -> Option<Vec<u8>> {
    let after = query.after.key.as_bytes();
    if after.is_empty() {
        return None;
    }
    // A page that ended with a common prefix goes on behind all it holds.
    if common_prefix(after, query) == Some(after.len()) {
        return Some(upper_bound(after));
    }
    Some(just_behind(after))
}

/// How long the common prefix is that `key` is rolled up into, if it is.
fn common_prefix(key: &[u8], query: &Query<'_>) -> Option<usize> {
    let (prefix, delimiter) = (query.prefix.as_bytes(), query.delimiter.as_bytes());
    if delimiter.is_empty() {
        return None;
    }
    let rest = key.strip_prefix(prefix)?;
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(prefix.len() + at + delimiter.len())
}

/// The least byte string above `key`.
fn just_behind(key: &[u8]) -> Vec<u8> {
    let mut bound = key.to_vec();
    bound.push(0);
    bound
}

/// The least byte string above everything that begins with `prefix`. Keys are
/// UTF-8, so 0xff is above all of them.
fn upper_bound(prefix: &[u8]) -> Vec<u8> {
    let mut bound = prefix.to_vec();
    while let Some(last) = bound.pop() {
        if last < 0xff {
            bound.push(last + 1);
            return bound;
        }
    }
    vec![0xff]
}

fn listed(row: &Row<'_>, latest: bool) -> Rows<Listed> {
    let flags: i64 = row.get(3)?;
    let checksum: Option<String> = row.get(7)?;
    Ok(Listed {
        key: rows::object_key(row, 0)?,
        uid: VersionUid(row.get(2)?),
        null_version: flags & FLAG_NULL != 0,
        delete_marker: flags & FLAG_MARKER != 0,
        latest,
        created_ms: row.get(4)?,
        size: row.get(5)?,
        etag: row.get(6)?,
        checksum: checksum.map(|text| match text.strip_suffix('+') {
            Some(algorithm) => (algorithm.to_owned(), true),
            None => (text, false),
        }),
    })
}

fn after_id(row: &Row<'_>) -> Option<AfterId> {
    let null = row.get::<_, i64>(3).ok()? & FLAG_NULL != 0;
    if null { Some(AfterId::Null) } else { row.get(2).ok().map(|uid| AfterId::Version(VersionUid(uid))) }
}

/// The place of a version among those of its key; `None` if it is gone.
fn ord_of(db: &Connection, bucket: &BucketId, key: &[u8], id: AfterId) -> Rows<Option<i64>> {
    use ringfence_db::rusqlite::OptionalExtension;
    let one = |statement: &mut Statement<'_>, value: &dyn ringfence_db::rusqlite::ToSql| {
        statement.query_row((bucket.as_bytes(), key, value), |row| row.get(0)).optional()
    };
    match id {
        AfterId::Null => one(
            &mut *db.prepare_cached("SELECT ord FROM version WHERE bucket = ?1 AND key = ?2 AND flags & ?3 != 0")?,
            &FLAG_NULL,
        ),
        AfterId::Version(uid) => one(
            &mut *db.prepare_cached("SELECT ord FROM version WHERE bucket = ?1 AND key = ?2 AND uid = ?3")?,
            uid.as_bytes(),
        ),
        AfterId::Upload(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use ringfence_db::rusqlite::StatementStatus;
    use ringfence_format::names::Label;
    use ringfence_format::redo::{LabelSource, Redo, Version};

    use super::*;
    use crate::apply::apply;
    use crate::catalog::Catalog;

    const BUCKET: BucketId = BucketId([1; 16]);

    fn version(bucket: BucketId, key: &str, uid: u128, marker: bool) -> Version {
        Version {
            bucket,
            key: ObjectKey::parse(key).unwrap(),
            uid: VersionUid(uid.to_be_bytes()),
            null_version: false,
            delete_marker: marker,
            created_ms: 1,
            size: 3,
            etag: "e".to_owned(),
            label: Label::parse("internal").unwrap(),
            label_source: LabelSource::Bucket,
            tags: Vec::new(),
            headers: Vec::new(),
            metadata: Vec::new(),
            checksums: Vec::new(),
            parts: Vec::new(),
            head: None,
            copies: Vec::new(),
            placed_by: Vec::new(),
            policy_epoch: 1,
            retention: None,
            legal_hold: false,
        }
    }

    /// A catalogue with these versions in this order, and others around them.
    fn catalogue(versions: &[(String, bool)]) -> (tempfile::TempDir, Catalog, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let (catalog, writer) = Catalog::open(&dir.path().join("c.db")).unwrap();
        let put = |bucket, key: &str, uid, marker| {
            let version = version(bucket, key, uid, marker);
            apply(&writer, &Redo::PutVersion(Box::new(version), Vec::new()), 1).unwrap();
        };
        for (uid, (key, marker)) in (0..).zip(versions) {
            put(BUCKET, key, uid, *marker);
        }
        put(BucketId([0; 16]), "a/before", 1 << 100, false);
        put(BucketId([2; 16]), "a/behind", 2 << 100, false);
        (dir, catalog, writer)
    }

    /// S3's rule, written the slow way: every key, then what is rolled up.
    fn oracle(versions: &[(String, bool)], prefix: &str, delimiter: &str) -> Vec<String> {
        let mut newest = BTreeMap::new();
        for (key, marker) in versions {
            newest.insert(key.clone(), *marker);
        }
        let live = newest.into_iter().filter(|(_, marker)| !marker).map(|(key, _)| key);
        let mut lines = BTreeSet::new();
        for key in live.filter(|key| key.starts_with(prefix)) {
            let rest = &key[prefix.len()..];
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(at) => lines.insert(key[..prefix.len() + at + delimiter.len()].to_owned()),
                None => lines.insert(key),
            };
        }
        lines.into_iter().collect()
    }

    /// All pages laid end to end; each line once, in order, pages full.
    fn all_pages(catalog: &Catalog, prefix: &str, delimiter: &str, max: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut after = After::default();
        loop {
            let page = catalog.list_page(&BUCKET, &Query { prefix, delimiter, after, max }).unwrap();
            let mut here: Vec<_> = page.contents.iter().map(|listed| listed.key.as_str().to_owned()).collect();
            here.extend(page.common_prefixes);
            here.sort();
            assert!(here.len() == max || page.next.is_none());
            assert!(page.next.as_ref().is_none_or(|next| Some(&next.key) == here.last()));
            lines.extend(here);
            match page.next {
                Some(next) => after = next,
                None => return lines,
            }
        }
    }

    fn name() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "/", "//", "ab", "é", "\u{10ffff}", "-"]), 1..6)
            .prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

        #[test]
        fn a_listing_is_what_the_rule_says(
            versions in prop::collection::vec((name(), prop::bool::weighted(0.2)), 0..60),
            prefix in prop_oneof![Just(String::new()), name()],
            delimiter in prop::sample::select(vec!["", "/", "a", "//", "é"]),
            max in 1_usize..8,
        ) {
            let (_dir, catalog, _writer) = catalogue(&versions);
            prop_assert_eq!(all_pages(&catalog, &prefix, delimiter, max), oracle(&versions, &prefix, delimiter));
        }

        #[test]
        fn start_after_any_key_gives_what_is_behind_it(
            versions in prop::collection::vec((name(), prop::bool::weighted(0.2)), 0..60),
            after in name(),
        ) {
            let (_dir, catalog, _writer) = catalogue(&versions);
            let query = Query { prefix: "", delimiter: "", after: After::key(after.clone()), max: 1000 };
            let page = catalog.list_page(&BUCKET, &query).unwrap();
            let got: Vec<_> = page.contents.iter().map(|listed| listed.key.as_str().to_owned()).collect();
            let want: Vec<_> = oracle(&versions, "", "").into_iter().filter(|key| *key > after).collect();
            prop_assert_eq!(got, want);
        }

        #[test]
        fn versions_come_newest_first_and_each_once(
            versions in prop::collection::vec((name(), any::<bool>()), 0..40),
            max in 1_usize..5,
        ) {
            let (_dir, catalog, _writer) = catalogue(&versions);
            let mut got = Vec::new();
            let mut after = After::default();
            loop {
                let page = catalog.list_versions(&BUCKET, &Query { prefix: "", delimiter: "", after, max }).unwrap();
                got.extend(page.contents.iter().map(|listed| (listed.key.clone(), listed.uid, listed.latest)));
                match page.next {
                    Some(next) => after = next,
                    None => break,
                }
            }
            let mut want: Vec<_> = (0_u128..).zip(&versions).map(|(uid, (key, _))| (key.clone(), u128::MAX - uid)).collect();
            want.sort();
            let mut seen = BTreeSet::new();
            let want: Vec<_> = want.into_iter().map(|(key, uid)| {
                let latest = seen.insert(key.clone());
                (ObjectKey::parse(&key).unwrap(), VersionUid((u128::MAX - uid).to_be_bytes()), latest)
            }).collect();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn a_key_that_ends_with_the_delimiter_is_a_prefix_of_itself() {
        let versions: Vec<_> = ["d/", "d/a", "e"].map(|key| (key.to_owned(), false)).into();
        let (_dir, catalog, _writer) = catalogue(&versions);
        assert_eq!(all_pages(&catalog, "", "/", 1), ["d/", "e"]);
        assert_eq!(all_pages(&catalog, "d/", "/", 10), ["d/", "d/a"]);
    }

    #[test]
    fn max_keys_zero_is_an_empty_page_that_ends() {
        let (_dir, catalog, _writer) = catalogue(&[("a".to_owned(), false)]);
        let page = catalog.list_page(&BUCKET, &Query::default()).unwrap();
        assert_eq!((page.contents.len(), page.next), (0, None));
    }

    /// Counts what SQLite steps through, not time: a page costs the same in a
    /// large bucket as in a small one, and a common prefix costs one seek.
    #[test]
    fn a_page_costs_what_it_shows() {
        let steps = |folders: usize, keys: usize, delimiter: &str| {
            let dir = tempfile::tempdir().unwrap();
            let (_catalog, writer) = Catalog::open(&dir.path().join("c.db")).unwrap();
            writer.execute_batch("BEGIN").unwrap();
            for folder in 0..folders {
                for key in 0..keys {
                    let uid = (folder * keys + key) as u128;
                    let version = version(BUCKET, &format!("{folder:05}/{key:05}"), uid, false);
                    apply(&writer, &Redo::PutVersion(Box::new(version), Vec::new()), 1).unwrap();
                }
            }
            writer.execute_batch("COMMIT").unwrap();
            let sql =
                format!("SELECT {COLUMNS} FROM version WHERE bucket = ?1 AND key >= ?2 AND key < ?3 ORDER BY key, ord");
            writer.prepare_cached(&sql).unwrap().reset_status(StatementStatus::VmStep);
            let query = Query { prefix: "", delimiter, after: After::key("00001/"), max: 10 };
            let page = objects(&writer, &BUCKET, &query).unwrap();
            assert_eq!(page.contents.len() + page.common_prefixes.len(), 10);
            let statement = writer.prepare_cached(&sql).unwrap();
            assert_eq!(statement.get_status(StatementStatus::FullscanStep), 0);
            assert_eq!(statement.get_status(StatementStatus::Sort), 0);
            statement.get_status(StatementStatus::VmStep)
        };
        let (small, large) = (steps(20, 5, "/"), steps(20, 400, "/"));
        assert!(large <= small + small / 10, "{small} steps over 100 keys, {large} over 8,000");
        let (small, large) = (steps(20, 40, ""), steps(200, 40, ""));
        assert!(large <= small + small / 10, "{small} steps over 800 keys, {large} over 8,000");
    }
}
