//! Does everything the catalogue refers to lie where it says? The reverse
//! question, what lies there that nobody refers to, is sweep's.

use ringfence_format::names::SiteId;
use ringfence_format::redo::{UploadPart, Version};

use crate::commit::CommitError;
use crate::inventory::{self, Inventory};
use crate::rows::Rows;
use crate::site::SiteError;
use crate::store::Store;
use crate::sweep::SweepError;

/// Findings kept; more are only counted.
const FINDINGS_MAX: usize = 1000;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Versions looked at.
    pub versions: u64,
    /// Copies looked at.
    pub copies: u64,
    /// Parts of uploads under way looked at.
    pub upload_parts: u64,
    /// What is wrong; empty where all is well.
    pub findings: Vec<String>,
    /// How many findings there were in all.
    pub findings_total: u64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings_total == 0
    }

    fn find(&mut self, finding: String) {
        self.findings_total += 1;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }
}

impl Store {
    /// Checks the file, its tables against each other, and every chunk and
    /// head by name, place and length (no byte of content is read; that is
    /// [`scrub`](Store::scrub)). Run it while nothing is written: a version
    /// replaced in between looks like a loss.
    ///
    /// # Errors
    /// Whatever the catalogue's file or the scratch tables say.
    pub async fn check(&self) -> Result<CheckReport, SweepError> {
        self.settle().await?;
        self.catalog().check_file().map_err(CommitError::from)?;
        let mut report = CheckReport::default();
        let mut inventory = Inventory::new().map_err(SweepError::Scratch)?;
        for site in self.sites() {
            match inventory::list(&site, &self.installation, &mut inventory).await {
                Ok(noted) => drop(noted.map_err(SweepError::Scratch)?),
                Err(error) => note_unlisted(&mut report, site.id(), &error),
            }
        }
        let checked = self.catalog().read(|db| {
            db.execute_batch("BEGIN")?;
            let checked = tables(db, &mut report)
                .and_then(|()| inventory::each_version(db, |version| check_version(&inventory, &version, &mut report)))
                .and_then(|()| {
                    inventory::each_upload_part(db, |part| check_upload_part(&inventory, &part, &mut report))
                });
            db.execute_batch("COMMIT")?;
            checked
        });
        checked.map_err(CommitError::from)?;
        Ok(report)
    }
}

fn note_unlisted(report: &mut CheckReport, site: &SiteId, error: &SiteError) {
    report.find(format!("site `{site}` cannot be listed: {error}"));
}

/// Rows that must have a counterpart in another table.
fn tables(db: &ringfence_db::rusqlite::Connection, report: &mut CheckReport) -> Rows<()> {
    let rules = [
        (
            "a listed version has no body",
            "SELECT count(*) FROM version v LEFT JOIN body b ON b.row = v.body WHERE b.row IS NULL OR b.uid <> v.uid",
        ),
        ("a body is listed nowhere", "SELECT (SELECT count(*) FROM body) - (SELECT count(*) FROM version)"),
        ("a version lies in no bucket", "SELECT count(*) FROM version WHERE bucket NOT IN (SELECT id FROM bucket)"),
        ("an upload lies in no bucket", "SELECT count(*) FROM upload WHERE bucket NOT IN (SELECT id FROM bucket)"),
        ("a part belongs to no upload", "SELECT count(*) FROM upload_part WHERE upload NOT IN (SELECT id FROM upload)"),
    ];
    for (what, sql) in rules {
        let count: i64 = db.query_row(sql, [], |row| row.get(0))?;
        if count != 0 {
            report.find(format!("{what} ({count})"));
        }
    }
    Ok(())
}

fn check_version(inventory: &Inventory, version: &Version, report: &mut CheckReport) -> Rows<()> {
    report.versions += 1;
    let who = || format!("version {} of `{}`", version.uid, version.key.as_str().escape_debug());
    if version.delete_marker {
        return Ok(());
    }
    if version.copies.is_empty() || version.head.is_none() {
        report.find(format!("{} has no copy", who()));
    }
    if version.parts.iter().map(|part| part.plain_len).sum::<u64>() != version.size {
        report.find(format!("the parts of {} do not add up to its size", who()));
    }
    for copy in &version.copies {
        report.copies += 1;
        if !inventory.head_is_there(&copy.site, &copy.head, copy.head_at)? {
            report.find(format!("{} has no head at site `{}`", who(), copy.site));
        }
        for part in &version.parts {
            let at = copy.packed.iter().find(|packed| packed.part == part.id).map(|packed| packed.at);
            if let Some(why) = inventory.part_is_missing(&copy.site, part, at)? {
                report.find(format!("{}, part {}, at site `{}`: {why}", who(), part.number, copy.site));
            }
        }
    }
    Ok(())
}

fn check_upload_part(inventory: &Inventory, row: &UploadPart, report: &mut CheckReport) -> Rows<()> {
    report.upload_parts += 1;
    for (site, at) in &row.copies {
        if let Some(why) = inventory.part_is_missing(site, &row.part, *at)? {
            report.find(format!("upload {}, part {}, at site `{site}`: {why}", row.upload, row.part.number));
        }
    }
    Ok(())
}
