//! The store: catalogue, sites and commit thread under one roof.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ringfence_access::Placement;
use ringfence_access::manifests::CheckedManifest;
use ringfence_access::permit::{Administer, Delete, Write};
use ringfence_access::placement::Unavailable;
use ringfence_access::policy::PolicyChange;
use ringfence_db::clock::Clock;
use ringfence_db::rusqlite::Connection;
use ringfence_format::names::{BucketId, InstallationId, PartId, SiteId, UploadId, VersionUid};
use ringfence_format::redo::{Bucket, Rehead, StaticKeyRow, TenantRow, Upload};
use ringfence_format::session::Revocation;
use ringfence_log::{Log, Recorded};
use tokio::sync::Semaphore;

use crate::act::{Act, CompleteUpload, DeleteTarget, NewHead, PutPart, PutVersion};
use crate::apply::close_incarnations;
use crate::authority::{Authority, Held};
use crate::catalog::Catalog;
use crate::commit::{Commit, CommitError, Committer, StartError, last_record_ms};
use crate::fetch::Readers;
use crate::put::BUFFERED_BYTES_MAX;
use crate::rows::Rows;
use crate::site::{Breaker, Site};
use crate::unclaimed::Attic;

/// A source of unpredictable bytes; `main` hands in the system's.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// Policy allows sites, and too few of them can be reached now.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{why}{}", self.reasons())]
pub struct NowhereNow {
    /// How many are wanted and left.
    pub why: Unavailable,
    /// Those that cannot take it, each with its reason.
    pub sites: Vec<(SiteId, String)>,
}

impl NowhereNow {
    fn reasons(&self) -> String {
        self.sites.iter().map(|(id, why)| format!("; site `{id}`: {why}")).collect()
    }
}

/// What a store is opened with.
pub struct Parts {
    /// Whose chunks these are; every name at a site begins with it.
    pub installation: InstallationId,
    /// The log, open.
    pub log: Arc<Log>,
    /// Every site of the configuration, open.
    pub sites: Vec<Site>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Random,
}

/// Where every object lives.
pub struct Store {
    pub(crate) installation: InstallationId,
    pub(crate) incarnation: u32,
    pub(crate) started_ms: u64,
    pub(crate) log: Arc<Log>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) attic: Arc<Attic>,
    catalog: Arc<Catalog>,
    committer: Committer,
    sites: RwLock<BTreeMap<SiteId, OpenSite>>,
    random: Random,
    /// Held by what moves packed bytes while the catalogue names them: a
    /// compaction of a pack, a repair of a copy.
    pub(crate) moving: tokio::sync::Mutex<()>,
    /// By version: what must be erased, and where, before its label is
    /// acknowledged.
    pub(crate) owed: Mutex<HashMap<VersionUid, Owed>>,
}

/// Chunk series and heads, and the sites where they must go.
pub(crate) type Owed = (Vec<UploadId>, Vec<SiteId>);

/// A site, and the memory that chunks on their way to it may take.
#[derive(Clone)]
pub(crate) struct OpenSite {
    pub(crate) site: Arc<Site>,
    /// One for each, so that a slow site keeps nobody else's chunks waiting.
    pub(crate) budget: Arc<Semaphore>,
}

impl OpenSite {
    fn new(site: Site, clock: &Arc<dyn Clock>) -> (SiteId, Self) {
        site.keep_time(clock.clone());
        (site.id().clone(), Self { site: Arc::new(site), budget: Arc::new(Semaphore::new(BUFFERED_BYTES_MAX / 1024)) })
    }
}

impl Store {
    /// Opens the catalogue at `path` (or makes it), replays what the log has
    /// beyond it, and puts the start of this process on record.
    ///
    /// # Errors
    /// [`StartError`] says which of the two is older, or which record is in
    /// the way. Nothing was changed at any site.
    pub async fn open(path: &Path, parts: Parts) -> Result<Arc<Self>, StartError> {
        let Parts { installation, log, sites, clock, random } = parts;
        let (catalog, writer) = Catalog::open(path)?;
        let catalog = Arc::new(catalog);
        let committer = Committer::start(catalog.clone(), writer, log.clone(), clock.clone())?;
        let mut incarnation = [0; 4];
        random(&mut incarnation);
        let incarnation = u32::from_be_bytes(incarnation);
        let sites = sites.into_iter().map(|site| OpenSite::new(site, &clock)).collect();
        let store = Self {
            installation,
            incarnation,
            started_ms: clock.now_us() / 1000,
            attic: Attic::new(clock.clone()),
            log,
            clock,
            readers: Arc::default(),
            catalog,
            committer,
            sites: RwLock::new(sites),
            random,
            moving: tokio::sync::Mutex::default(),
            owed: Mutex::default(),
        };
        let before = last_record_ms(&store.log, store.log.durable_size())?;
        store.chore(move |db| close_incarnations(db, before)).await.map_err(StartError::Record)?;
        let start = Act::Start(Held::system("system:Start", None), incarnation);
        let _on_record = store.submit(start).await.map_err(StartError::Record)?;
        Ok(Arc::new(store))
    }

    /// The catalogue, for reading.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// An open site.
    pub fn site(&self, id: &SiteId) -> Option<Arc<Site>> {
        self.open_site(id).map(|open| open.site)
    }

    pub(crate) fn open_site(&self, id: &SiteId) -> Option<OpenSite> {
        self.sites.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// All sites that are open now.
    pub fn sites(&self) -> Vec<Arc<Site>> {
        let sites = self.sites.read().unwrap_or_else(PoisonError::into_inner);
        sites.values().map(|open| open.site.clone()).collect()
    }

    /// Takes in a site that could not be opened at the start. One of that name
    /// that is open stays; the answer is whether this one was taken.
    pub fn add_site(&self, site: Site) -> bool {
        use std::collections::btree_map::Entry;
        let (id, open) = OpenSite::new(site, &self.clock);
        match self.sites.write().unwrap_or_else(PoisonError::into_inner).entry(id) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(open);
                true
            }
        }
    }

    /// Places elsewhere what was placed at a site that is not open, rests or
    /// takes no writes, as far as policy and the placement table allow: a site
    /// that is merely full is still better than none. Answers the sites that
    /// were passed over and why.
    ///
    /// # Errors
    /// [`NowhereNow`] where too few of the allowed sites are left: 503.
    pub fn place_now(&self, placement: Placement) -> Result<(Placement, Vec<(SiteId, String)>), NowhereNow> {
        let out = |asked_only: bool| -> Vec<(SiteId, String)> {
            let unusable = |id: &SiteId| self.unusable(id, asked_only).map(|why| (id.clone(), why));
            placement.candidates().iter().filter_map(unusable).collect()
        };
        let (down, avoided) = (out(true), out(false));
        let usable = placement.candidates().len() - avoided.len();
        let skip = if usable < placement.sites().len() { down } else { avoided };
        if !placement.sites().iter().any(|site| skip.iter().any(|(id, _)| id == site)) {
            return Ok((placement, Vec::new()));
        }
        let ids: Vec<SiteId> = skip.iter().map(|(id, _)| id.clone()).collect();
        match placement.without(&ids) {
            Ok(placement) => Ok((placement, skip)),
            Err(why) => Err(NowhereNow { why, sites: skip }),
        }
    }

    /// Why nothing new goes to a site now.
    fn unusable(&self, id: &SiteId, asked_only: bool) -> Option<String> {
        let Some(site) = self.site(id) else { return Some("it is not open".to_owned()) };
        let health = site.health();
        match health.breaker {
            Breaker::Closed => health.passed_over.filter(|_| !asked_only),
            _ => Some(format!("it rests: {}", health.why.unwrap_or_default())),
        }
    }

    /// Whose chunks these are.
    pub fn installation(&self) -> InstallationId {
        self.installation
    }

    /// A new id of a write attempt, a head or a multipart upload: the
    /// incarnation of this process, then 96 random bits.
    pub fn new_id(&self) -> UploadId {
        let mut id = [0; 16];
        (self.random)(&mut id);
        id[..4].copy_from_slice(&self.incarnation.to_be_bytes());
        UploadId(id)
    }

    /// A new version identity: milliseconds in the first 6 bytes, so that rows
    /// of new versions lie together, then 80 random bits.
    pub fn new_version(&self) -> VersionUid {
        let mut uid = [0; 16];
        (self.random)(&mut uid);
        let now_ms = (self.clock.now_us() / 1000).to_be_bytes();
        uid[..6].copy_from_slice(&now_ms[2..]);
        VersionUid(uid)
    }

    /// A new part identity.
    pub fn new_part(&self) -> PartId {
        PartId(self.random_id())
    }

    /// A new bucket identity.
    pub fn new_bucket(&self) -> BucketId {
        BucketId(self.random_id())
    }

    /// Makes a version current. In the same step the conditions are evaluated,
    /// permit, copies and policy epoch are compared, the record is made durable
    /// and the version it replaces goes (ruling 1). Outcome:
    /// [`Outcome::Put`](crate::Outcome::Put).
    ///
    /// # Errors
    /// On any error but [`CommitError::Unsettled`] nothing is visible and, but
    /// for a failed log, nothing is on record; the copies are given up.
    pub async fn put_version(
        &self,
        authority: impl Into<Authority<Write>>,
        put: PutVersion,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::PutVersion(authority.into().into(), Box::new(put))).await
    }

    /// Takes versions away, all in one step with one record. What a target's
    /// conditions keep, or what has another label than was decided by, is left and reported; a single target that is kept is
    /// the error. Outcome: [`Outcome::Deleted`](crate::Outcome::Deleted).
    ///
    /// # Errors
    /// As for [`put_version`](Self::put_version).
    pub async fn delete_versions(
        &self,
        authority: impl Into<Authority<Delete>>,
        bucket: BucketId,
        targets: Vec<DeleteTarget>,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::Delete(authority.into().into(), bucket, targets)).await
    }

    /// Makes a bucket; its name is unique in the installation.
    ///
    /// # Errors
    /// [`Conflict::BucketExists`](crate::Conflict::BucketExists) with the owner.
    pub async fn create_bucket(
        &self,
        authority: impl Into<Authority<Write>>,
        bucket: Bucket,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::CreateBucket(authority.into().into(), bucket)).await
    }

    /// Changes tags or pin of a bucket that is still as it `was` read.
    ///
    /// # Errors
    /// [`Conflict::Changed`](crate::Conflict::Changed) where it is not.
    pub async fn update_bucket(
        &self,
        authority: impl Into<Authority<Write>>,
        was: Bucket,
        now: Bucket,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::UpdateBucket(authority.into().into(), Box::new((was, now)))).await
    }

    /// Takes an empty bucket away; uploads under way go with it.
    ///
    /// # Errors
    /// [`Conflict::BucketNotEmpty`](crate::Conflict::BucketNotEmpty).
    pub async fn delete_bucket(
        &self,
        authority: impl Into<Authority<Delete>>,
        bucket: BucketId,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::DeleteBucket(authority.into().into(), bucket)).await
    }

    /// Begins a multipart upload. Its version carries everything but parts,
    /// copies, size and ETag; `policy_epoch` is that of its placement.
    ///
    /// # Errors
    /// As for [`put_version`](Self::put_version).
    pub async fn create_upload(
        &self,
        authority: impl Into<Authority<Write>>,
        upload: Upload,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::CreateUpload(authority.into().into(), Box::new(upload))).await
    }

    /// Adds a part to an upload; one of the same number is replaced.
    ///
    /// # Errors
    /// [`Conflict::NoSuchUpload`](crate::Conflict::NoSuchUpload) where it ended
    /// meanwhile; the part is given up.
    pub async fn put_part(
        &self,
        authority: impl Into<Authority<Write>>,
        part: PutPart,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::PutPart(authority.into().into(), Box::new(part))).await
    }

    /// Makes an upload an object, its parts by reference: nothing is copied.
    /// Parts that are not in it go. Outcome: [`Outcome::Put`](crate::Outcome::Put).
    ///
    /// # Errors
    /// [`Conflict::AlreadyComplete`](crate::Conflict::AlreadyComplete) with what
    /// it became, for a client that missed the answer.
    pub async fn complete_upload(
        &self,
        authority: impl Into<Authority<Write>>,
        complete: CompleteUpload,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::Complete(authority.into().into(), Box::new(complete))).await
    }

    /// Ends an upload; its parts go.
    ///
    /// # Errors
    /// [`Conflict::NoSuchUpload`](crate::Conflict::NoSuchUpload).
    pub async fn abort_upload(
        &self,
        authority: impl Into<Authority<Delete>>,
        upload: UploadId,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::AbortUpload(authority.into().into(), upload)).await
    }

    /// Gives a version other tags, another label and the head that says so.
    /// Outcome: [`Outcome::Reheaded`](crate::Outcome::Reheaded).
    ///
    /// # Errors
    /// [`Conflict::Changed`](crate::Conflict::Changed) where its head is not the
    /// one the new head follows.
    pub async fn rehead(
        &self,
        authority: impl Into<Authority<Write>>,
        new: NewHead,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::Rehead(authority.into().into(), vec![new])).await
    }

    /// Gives many versions heads under a newer key (rotation): one record.
    /// Versions that changed meanwhile are left out of the outcome.
    ///
    /// # Errors
    /// [`Conflict::Changed`](crate::Conflict::Changed) where all of them had.
    pub async fn rewrap(
        &self,
        authority: impl Into<Authority<Administer>>,
        heads: Vec<NewHead>,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::RewrapHeads(authority.into().into(), heads)).await
    }

    /// Makes a tenant.
    ///
    /// # Errors
    /// [`Conflict::Tenant`](crate::Conflict::Tenant) where the name is taken.
    pub async fn put_tenant(
        &self,
        authority: impl Into<Authority<Administer>>,
        tenant: TenantRow,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::PutTenant(authority.into().into(), tenant)).await
    }

    /// Makes a static key, disables one, or seals its secret anew.
    ///
    /// # Errors
    /// [`Conflict::Changed`](crate::Conflict::Changed) where the id belongs to
    /// somebody else.
    pub async fn put_static_key(
        &self,
        authority: impl Into<Authority<Administer>>,
        key: StaticKeyRow,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::PutStaticKey(authority.into().into(), key)).await
    }

    /// Puts a manifest of session keys in force. Its leaf stands in the log in
    /// clear.
    ///
    /// # Errors
    /// [`Conflict::Changed`](crate::Conflict::Changed) where it does not follow
    /// the one in force.
    pub async fn put_manifest(
        &self,
        authority: impl Into<Authority<Administer>>,
        manifest: &CheckedManifest,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::PutManifest(authority.into().into(), Box::new(manifest.signed().clone()))).await
    }

    /// Revokes, or takes a revocation back. Its leaf stands in the log in clear.
    ///
    /// # Errors
    /// [`Conflict::NotRevoked`](crate::Conflict::NotRevoked) where there is
    /// nothing to take back.
    pub async fn put_revocation(
        &self,
        authority: impl Into<Authority<Administer>>,
        revocation: Revocation,
    ) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::PutRevocation(authority.into().into(), revocation)).await
    }

    /// The first tenant and key of an installation that has none: nobody is
    /// there who could be asked for a permit.
    ///
    /// # Errors
    /// [`Conflict::NotFirst`](crate::Conflict::NotFirst) where there are some.
    pub async fn bootstrap(&self, tenant: TenantRow, key: StaticKeyRow) -> Result<Recorded<Commit>, CommitError> {
        let why = || Some("the first of this installation".to_owned());
        let _first = self.submit(Act::PutTenant(Held::system("system:FirstTenant", why()), tenant)).await?;
        self.submit(Act::PutStaticKey(Held::system("system:FirstKey", why()), key)).await
    }

    /// Puts a policy set in force: from the next commit on, what was decided
    /// or placed under another epoch is refused. `None` as authority for
    /// the first set of an installation: nobody is there who could be asked.
    ///
    /// # Errors
    /// As for [`put_version`](Self::put_version).
    pub async fn put_policy(
        &self,
        authority: Option<Authority<Administer>>,
        epoch: u64,
        sha256: [u8; 32],
    ) -> Result<Recorded<Commit>, CommitError> {
        let held = authority.map_or_else(
            || Held::system("system:PolicyLoad", Some("the first policies of this installation".to_owned())),
            Held::from,
        );
        self.submit(Act::Policy(held, epoch, sha256)).await
    }

    /// Records a change of the policy set and puts its epoch in force in the
    /// catalogue, in one step; the engine adopts the evidence. Until it has,
    /// commits answer [`Conflict::PolicyChanged`](crate::Conflict::PolicyChanged)
    /// (retry).
    ///
    /// # Errors
    /// As for [`put_version`](Self::put_version).
    pub async fn record_policy(&self, change: PolicyChange) -> Result<Recorded<PolicyChange>, CommitError> {
        self.committer.record(change).await
    }

    /// Ends uploads that began more than `age_ms` ago, at most `max` of them;
    /// answers how many. Each is a record of its own.
    ///
    /// # Errors
    /// As for [`put_version`](Self::put_version).
    pub async fn abort_stale_uploads(&self, age_ms: u64, max: usize) -> Result<u64, CommitError> {
        let before = self.now_ms().saturating_sub(age_ms);
        let mut aborted = 0;
        for upload in self.catalog().stale_uploads(before, max)? {
            let why = format!("began at {} ms and was never completed", upload.version.created_ms);
            match self.submit(Act::AbortUpload(Held::system("system:AbortStaleUpload", Some(why)), upload.id)).await {
                Ok(_on_record) => aborted += 1,
                // It ended meanwhile.
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(aborted)
    }

    /// Forgets what uploads became more than `age_ms` ago: until then,
    /// completing again answers the same.
    ///
    /// # Errors
    /// Whatever the catalogue's file says.
    pub async fn forget_completed(&self, age_ms: u64) -> Result<(), CommitError> {
        let before = self.now_ms().saturating_sub(age_ms);
        self.chore(move |db| db.execute("DELETE FROM completed WHERE at_ms < ?1", [before]).map(drop)).await
    }

    /// Notes where a compaction or a repair put chunks and heads.
    pub(crate) async fn moved(&self, op: &'static str, moved: Vec<Rehead>) -> Result<Recorded<Commit>, CommitError> {
        self.submit(Act::Moved(Held::system(op, None), moved)).await
    }

    pub(crate) async fn submit(&self, act: Act) -> Result<Recorded<Commit>, CommitError> {
        self.committer.submit(act).await
    }

    pub(crate) async fn chore(
        &self,
        chore: impl FnOnce(&Connection) -> Rows<()> + Send + 'static,
    ) -> Result<(), CommitError> {
        self.committer.chore(chore).await
    }

    /// Every change that was durable when this was called is applied when it
    /// returns; the answer is the record the catalogue waits for.
    ///
    /// # Errors
    /// [`CommitError::NotApplied`] while the catalogue's disk fails.
    pub async fn settle(&self) -> Result<ringfence_format::record::Seq, CommitError> {
        self.committer.settle().await
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_us() / 1000
    }

    fn random_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        (self.random)(&mut id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flows run on any worker thread: every future of the store must be able
    /// to move between them.
    #[allow(dead_code, clippy::too_many_arguments)]
    fn every_future_can_move_between_threads(store: Arc<Store>, heads: &dyn crate::OpenHead, put: PutVersion) {
        fn send<T: Send>(_: T) {}
        send(store.sweep(crate::SweepMode::DryRun, 0, heads));
        send(store.erase_due(0));
        send(store.check());
        send(store.compact());
        send(store.abort_stale_uploads(0, 1));
        send(store.put_version(Authority::anew(|_| unreachable!("never called")), put));
    }
}
