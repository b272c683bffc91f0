//! Repair: a copy that is damaged or gone, written again from a good one.
//!
//! Ciphertext goes from site to site and is authenticated in between
//! (`Fetched` → `Sealed`, INVARIANT 4); no plaintext is made. Order: the repair
//! is on record → chunks that differ are written again → the head and what is
//! packed get new places, in one recorded change of the catalogue → all of the
//! copy is read and authenticated → its mark goes.
//!
//! A chunk that is a file or an object keeps its name, and gets the bytes that
//! were meant to be under it: a name still never stands for two contents. What
//! is packed is appended again, and the old place is erased.
//!
//! A crash anywhere leaves a bad copy that the next scrub finds, and at most
//! packed entries that no row names, which a compaction drops.

use ringfence_format::chunk::{Layout, chunk_name, head_name};
use ringfence_format::envelope::{Fetched, Sealed};
use ringfence_format::redo::{Copy, PackAddr, PackedPart, Part, Rehead, Version};
use ringfence_log::Recorded;

use crate::authority::SystemAct;
use crate::commit::CommitError;
use crate::scrub::{Authenticate, ScrubOptions, ScrubReport, Trouble, pause};
use crate::site::Site;
use crate::store::Store;

/// One copy of a version that is to be written again.
struct Repair<'a> {
    version: &'a Version,
    to: &'a Site,
    bad: &'a Copy,
    from: &'a Site,
    good: &'a Copy,
    vault: &'a dyn Authenticate,
    bytes_per_s: u64,
    /// Nothing is written before this: the intent, durable.
    _on_record: Recorded<SystemAct>,
}

impl Store {
    /// Writes `bad` again from `good`, which has just been authenticated. The
    /// inner error says why it is still bad.
    #[allow(clippy::too_many_arguments, reason = "called in one place, with what that place has")]
    pub(crate) async fn repair(
        &self,
        version: &Version,
        bad: &Copy,
        good: &Copy,
        options: ScrubOptions,
        vault: &dyn Authenticate,
        report: &mut ScrubReport,
        why: &str,
    ) -> Result<Result<(), String>, CommitError> {
        let (Some(to), Some(from)) = (self.site(&bad.site), self.site(&good.site)) else {
            return Ok(Err("its site is not open".to_owned()));
        };
        // upholds INVARIANT 5: what may no longer lie there is drift, and
        // drift is not written anew.
        let placed = vault.place(version, &bad.site).map(|placement| {
            let object = placement.object();
            object.version == version.uid && object.bucket == version.bucket && placement.sites() == [bad.site.clone()]
        });
        match placed {
            Ok(true) => {}
            Ok(false) => return Ok(Err("the placement is for something else".to_owned())),
            Err(denied) => return Ok(Err(denied)),
        }
        // A compaction must not move what is being replaced.
        let _alone = self.moving.lock().await;
        let intent = SystemAct::on_version("system:Repair", version, &bad.site, why);
        let _on_record = self.log.record(intent).await.map_err(CommitError::Log)?;
        let repair =
            Repair { version, to: &to, bad, from: &from, good, vault, bytes_per_s: options.bytes_per_s, _on_record };
        let mended = match self.write_again(&repair).await {
            Ok(copy) => copy,
            Err(trouble) => return Ok(Err(trouble.to_string())),
        };
        let new = match self.take_over(&repair, mended).await {
            Ok(new) => new,
            Err(CommitError::Conflict(_)) => return Ok(Err("it was changed meanwhile".to_owned())),
            Err(error) => return Err(error),
        };
        if let Err(trouble) = self.check_copy(version, &new, options, vault, report).await {
            return Ok(Err(trouble.to_string()));
        }
        tracing::info!("the copy of version {} at site `{}` is good again", version.uid, bad.site);
        metrics::counter!("ringfence_repaired_copies", "site" => bad.site.to_string()).increment(1);
        self.mark(version.uid, &bad.site, None).await?;
        Ok(Ok(()))
    }

    /// The copy as it is to be: everything of it is durable when this returns.
    async fn write_again(&self, repair: &Repair<'_>) -> Result<Copy, Trouble> {
        let mut copy = repair.bad.clone();
        copy.packed.clear();
        for part in &repair.version.parts {
            let there = packed(repair.bad, part);
            let at = self.write_part_again(repair, part, there).await?;
            copy.packed.extend(at.map(|at| PackedPart { part: part.id, at }));
        }
        let head =
            repair.from.get(&head_name(&self.installation, &repair.good.head), repair.good.head_at, None).await?;
        let head = repair.vault.sealed_head(repair.version, head).map_err(Trouble::Bad)?;
        let there = repair.to.get(&head_name(&self.installation, &copy.head), copy.head_at, None).await;
        if there.is_ok_and(|there| *there.untrusted() == *head.bytes()) {
            return Ok(copy);
        }
        // Heads have a name for each writing: a new one needs no erasure first.
        copy.head = self.new_id();
        copy.head_at = repair.to.put(&head_name(&self.installation, &copy.head), vec![head]).await?.at;
        Ok(copy)
    }

    /// Writes the chunks of a part that are not what they should be. Answers
    /// where the part is packed.
    async fn write_part_again(
        &self,
        repair: &Repair<'_>,
        part: &Part,
        there: Option<PackAddr>,
    ) -> Result<Option<PackAddr>, Trouble> {
        let layout = Layout::of(part).map_err(|why| Trouble::Bad(why.to_string()))?;
        let mut check = repair.vault.part(repair.version, part).map_err(Trouble::Unchecked)?;
        let mut at = there;
        for index in 0..layout.chunks() {
            let name = chunk_name(&self.installation, &part.upload, index);
            let chunk = layout.chunk(index).expect("the index is below the number of chunks");
            let all = Some(0..chunk.end - chunk.start);
            let good: Fetched = repair.from.get(&name, packed(repair.good, part), all.clone()).await?;
            let good: Sealed = check.verify(good).map_err(Trouble::Bad)?;
            pause(repair.bytes_per_s, good.len() as u64).await;
            let found = repair.to.get(&name, there, all).await;
            let whole = repair.to.stat(&name, there).await.is_ok_and(|stat| stat.len == good.len() as u64);
            if whole && found.is_ok_and(|found| *found.untrusted() == *good.bytes()) {
                continue;
            }
            pause(repair.bytes_per_s, good.len() as u64).await;
            if there.is_some() {
                at = repair.to.put(&name, vec![good]).await?.at;
                continue;
            }
            // A directory takes a name once; other sites do not mind.
            repair.to.delete(&name, None).await?;
            let mut chunk = repair.to.begin(&name).await?;
            chunk.write(good).await?;
            let _not_packed = chunk.finish().await?;
        }
        check.finish().map_err(Trouble::Bad)?;
        Ok(at)
    }

    /// Tells the catalogue where the copy lies now, and erases what was packed
    /// at the places it left.
    async fn take_over(&self, repair: &Repair<'_>, new: Copy) -> Result<Copy, CommitError> {
        let Repair { version, bad, .. } = repair;
        if new == **bad {
            return Ok(new);
        }
        let head = version.head.clone().ok_or(crate::Conflict::Changed)?;
        let with = |copy: &Copy| if copy.site == new.site { new.clone() } else { copy.clone() };
        let rehead = Rehead {
            uid: version.uid,
            label: version.label.clone(),
            label_source: version.label_source,
            tags: version.tags.clone(),
            head,
            copies: version.copies.iter().map(with).collect(),
        };
        let _on_record = self.moved("system:Repair", vec![rehead]).await?;
        let left = bad.packed.iter().filter(|old| !new.packed.contains(old));
        for old in left {
            let Some(part) = version.parts.iter().find(|part| part.id == old.part) else { continue };
            let name = chunk_name(&self.installation, &part.upload, 0);
            // Damaged as it is, it may not even look like an entry any more.
            if let Err(error) = repair.to.delete(&name, Some(old.at)).await {
                tracing::debug!("what a repair replaced is left to a compaction: {error}");
            }
        }
        Ok(new)
    }
}

fn packed(copy: &Copy, part: &Part) -> Option<PackAddr> {
    copy.packed.iter().find(|packed| packed.part == part.id).map(|packed| packed.at)
}
