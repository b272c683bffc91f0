//! What every kind of site must do, as tests that each of them runs.
//!
//! Exported so that a new kind of site, wherever it lives, can be held to it:
//! see docs/operate/add-a-site.md. Each rule is a sentence; [`check`] runs all
//! of them against a site that is empty or does not mind, and returns the
//! first rule that is broken.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use ringfence_format::{
    chunk,
    limits::{CHUNK_BYTES_MAX, PACKED_CHUNK_BYTES_MAX},
    names::{InstallationId, UploadId},
};

use super::{
    Site, SiteError, Stored,
    pack::Item,
    probe,
    quirks::{CreateOnly, Tested},
};

/// A rule of the contract that a site broke.
#[derive(Debug, thiserror::Error)]
#[error("site `{site}` breaks the contract: {rule}: {why}")]
pub struct Broken {
    site: String,
    rule: &'static str,
    why: String,
}

/// Why one rule does not hold.
type Rule = Result<(), String>;

/// Names of one run, so that a second run on the same site is not disturbed.
struct Run<'a> {
    site: &'a Site,
    installation: InstallationId,
    /// Differs from run to run.
    salt: u8,
}

/// Checks every rule. `salt` keeps the names of two runs on one site apart.
pub async fn check(site: &Site, salt: u8) -> Result<probe::Report, Broken> {
    let run = Run { site, installation: InstallationId([0xc0; 16]), salt };
    let broken = |rule, why| Broken { site: site.id().to_string(), rule, why };
    macro_rules! rules {
        ($($rule:ident),* $(,)?) => {
            $( run.$rule().await.map_err(|why| broken(stringify!($rule), why))?; )*
        };
    }
    rules!(
        what_is_put_comes_back_whatever_its_size,
        a_range_comes_back_exactly,
        a_range_past_the_end_is_corrupt_and_never_short,
        what_is_absent_is_not_found,
        erasing_is_final_and_may_be_repeated,
        the_same_put_may_be_repeated,
        pieces_make_the_same_chunk_as_one_put,
        an_abandoned_writer_leaves_nothing,
        a_listing_holds_what_is_there_and_nothing_else,
        a_listing_longer_than_a_page_is_complete,
        what_is_too_large_or_badly_named_is_refused,
        many_at_once_do_not_mix,
    );
    let report = probe::check(site, run.installation).await;
    run.the_probe_agrees_with_what_is_known(&report).map_err(|why| broken("the_probe_agrees", why))?;
    Ok(report)
}

impl Run<'_> {
    fn name(&self, upload: u16, index: u32) -> String {
        let mut id = [self.salt; 16];
        id[14..].copy_from_slice(&upload.to_be_bytes());
        chunk::chunk_name(&self.installation, &UploadId(id), index)
    }

    async fn put(&self, name: &str, bytes: &Bytes) -> Result<Stored, String> {
        // In three pieces, as a sealer hands them over.
        let (a, b) = (bytes.len() / 3, bytes.len() / 2);
        let parts = vec![bytes.slice(..a), bytes.slice(a..b), bytes.slice(b..)];
        let stored = self.site.put_bytes(vec![Item { name: name.to_owned(), parts }]).await;
        stored.map(|s| s[0]).map_err(text)
    }

    async fn expect(&self, name: &str, stored: Stored, wanted: &Bytes) -> Rule {
        let whole = self.site.get_bytes(name, stored.at, None).await.map_err(text)?;
        ensure(whole == wanted, || format!("{} bytes came back as {} others", wanted.len(), whole.len()))?;
        let len = self.site.stat(name, stored.at).await.map_err(text)?.len;
        ensure(len == wanted.len() as u64, || format!("stat says {len} for {}", wanted.len()))
    }

    async fn what_is_put_comes_back_whatever_its_size(&self) -> Rule {
        let packed = PACKED_CHUNK_BYTES_MAX;
        for (i, len) in [1, 106, 4096, packed, packed + 1, 1 << 20, CHUNK_BYTES_MAX].into_iter().enumerate() {
            let (name, bytes) = (self.name(1, i as u32), pattern(len));
            let stored = self.put(&name, &bytes).await?;
            self.expect(&name, stored, &bytes).await?;
            self.site.delete(&name, stored.at).await.map_err(text)?;
        }
        Ok(())
    }

    async fn a_range_comes_back_exactly(&self) -> Rule {
        for (i, len) in [5000u64, 200_000].into_iter().enumerate() {
            let (name, bytes) = (self.name(2, i as u32), pattern(len as usize));
            let stored = self.put(&name, &bytes).await?;
            for range in [0..1, 0..len, len - 1..len, 100..4196, 1..len - 1, 7..7] {
                let got = self.site.get_bytes(&name, stored.at, Some(range.clone())).await.map_err(text)?;
                let wanted = bytes.slice(range.start as usize..range.end as usize);
                ensure(got == wanted, || format!("{range:?} of {len}: {} bytes came", got.len()))?;
            }
            self.site.delete(&name, stored.at).await.map_err(text)?;
        }
        Ok(())
    }

    async fn a_range_past_the_end_is_corrupt_and_never_short(&self) -> Rule {
        for (i, len) in [5000u64, 200_000].into_iter().enumerate() {
            let name = self.name(3, i as u32);
            let stored = self.put(&name, &pattern(len as usize)).await?;
            for range in [0..len + 1, len - 1..len + 1, len..len + 1, len + 10..len + 20] {
                let got = self.site.get_bytes(&name, stored.at, Some(range.clone())).await;
                let corrupt = matches!(got, Err(SiteError::Corrupt { .. }));
                ensure(corrupt, || format!("{range:?} of {len}: {:?}", got.map(|b| b.len())))?;
            }
            self.site.delete(&name, stored.at).await.map_err(text)?;
        }
        Ok(())
    }

    async fn what_is_absent_is_not_found(&self) -> Rule {
        let name = self.name(4, 0);
        for range in [None, Some(0..10)] {
            let got = self.site.get_bytes(&name, None, range).await;
            ensure(matches!(got, Err(SiteError::NotFound { .. })), || format!("get: {got:?}"))?;
        }
        let stat = self.site.stat(&name, None).await;
        ensure(matches!(stat, Err(SiteError::NotFound { .. })), || format!("stat: {stat:?}"))?;
        let nothing = self.site.list("ffffffffffffffffffffffffffffffff/").all().await.map_err(text)?;
        ensure(nothing.is_empty(), || "a listing below an absent prefix is not empty".to_owned())
    }

    async fn erasing_is_final_and_may_be_repeated(&self) -> Rule {
        let mut all = Vec::new();
        for (i, len) in [300, 90_000].into_iter().enumerate() {
            let name = self.name(5, i as u32);
            let stored = self.put(&name, &pattern(len)).await?;
            all.push((name, stored.at));
        }
        all.push((self.name(5, 99), None));
        self.site.delete_many(all.clone()).await.map_err(text)?;
        self.site.delete_many(all.clone()).await.map_err(text)?;
        for (name, at) in all {
            let got = self.site.get_bytes(&name, at, Some(0..100)).await;
            ensure(matches!(got, Err(SiteError::NotFound { .. })), || format!("still there: {got:?}"))?;
        }
        Ok(())
    }

    async fn the_same_put_may_be_repeated(&self) -> Rule {
        for (i, len) in [300, 90_000].into_iter().enumerate() {
            let (name, bytes) = (self.name(6, i as u32), pattern(len));
            let first = self.put(&name, &bytes).await?;
            let second = self.put(&name, &bytes).await?;
            self.expect(&name, second, &bytes).await?;
            self.site.delete_many(vec![(name.clone(), first.at), (name, second.at)]).await.map_err(text)?;
        }
        Ok(())
    }

    async fn pieces_make_the_same_chunk_as_one_put(&self) -> Rule {
        let bytes = pattern(3 * (1 << 20) + 17);
        let name = self.name(7, 0);
        let mut writer = self.site.begin(&name).await.map_err(text)?;
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(65_536 + 13));
            writer.write_bytes(piece).await.map_err(text)?;
        }
        let stored = writer.finish().await.map_err(text)?;
        self.expect(&name, stored, &bytes).await?;
        self.site.delete(&name, stored.at).await.map_err(text)
    }

    async fn an_abandoned_writer_leaves_nothing(&self) -> Rule {
        let name = self.name(8, 0);
        let mut writer = self.site.begin(&name).await.map_err(text)?;
        writer.write_bytes(pattern(2 << 20)).await.map_err(text)?;
        drop(writer);
        let stat = self.site.stat(&name, None).await;
        ensure(matches!(stat, Err(SiteError::NotFound { .. })), || format!("stat: {stat:?}"))?;
        let listed = self.site.list(&self.name(8, 0)).all().await.map_err(text)?;
        ensure(listed.is_empty(), || "it is listed".to_owned())
    }

    async fn a_listing_holds_what_is_there_and_nothing_else(&self) -> Rule {
        let head = chunk::head_name(&self.installation, &UploadId([self.salt; 16]));
        let mut wanted = BTreeMap::new();
        for (name, len) in [(self.name(9, 0), 100), (self.name(9, 1), 100_000), (head.clone(), 400)] {
            let stored = self.put(&name, &pattern(len)).await?;
            wanted.insert(name, (len as u64, stored.at));
        }
        let all = self.site.list(&chunk::installation_prefix(&self.installation)).all().await.map_err(text)?;
        for (name, (len, at)) in &wanted {
            let found: Vec<_> = all.iter().filter(|e| e.name == *name).collect();
            let exact = matches!(found[..], [e] if e.len == *len && e.at == *at);
            ensure(exact, || format!("`{name}` is listed as {found:?}"))?;
        }
        let heads = self.site.list(&format!("{}/h/", self.installation)).all().await.map_err(text)?;
        let only = heads.len() == 1 && heads[0].name == head;
        ensure(only, || format!("{} heads are listed where one is", heads.len()))?;
        let erase = wanted.iter().map(|(name, (_, at))| (name.clone(), *at)).collect();
        self.site.delete_many(erase).await.map_err(text)?;
        let all = self.site.list(&chunk::installation_prefix(&self.installation)).all().await.map_err(text)?;
        ensure(all.iter().all(|e| !wanted.contains_key(&e.name)), || "erased things are still listed".to_owned())
    }

    async fn a_listing_longer_than_a_page_is_complete(&self) -> Rule {
        let count = match self.site {
            Site::Dir(_) => 250,
            Site::Remote(remote) => remote.quirks().list_page as u16 + 50,
        };
        let puts = (0..count).map(|i| async move {
            let name = self.name(1000 + i, 0);
            let stored = self.put(&name, &pattern(10)).await?;
            Ok::<_, String>((name, stored.at))
        });
        let stored: BTreeMap<_, _> = stream::iter(puts).buffer_unordered(32).try_collect().await?;
        let listed = self.site.list(&format!("{}/c/", self.installation)).all().await.map_err(text)?;
        let names: std::collections::BTreeSet<_> = listed.iter().map(|e| &e.name).collect();
        ensure(names.len() == listed.len(), || "a name is listed twice".to_owned())?;
        let missing = stored.keys().filter(|name| !names.contains(name)).count();
        ensure(missing == 0, || format!("{missing} of {count} are not listed"))?;
        self.site.delete_many(stored.into_iter().collect()).await.map_err(text)
    }

    async fn what_is_too_large_or_badly_named_is_refused(&self) -> Rule {
        let bad = ["", "plain", "../../etc/passwd", "a//b", "/a/b", "a/.b", "a/B", "a/b\0", "a/ü", &"a/".repeat(150)];
        for name in bad {
            let put = self.site.put_bytes(vec![Item { name: name.to_owned(), parts: vec![pattern(1)] }]).await;
            ensure(matches!(put, Err(SiteError::Refused { .. })), || format!("name {name:?}: {put:?}"))?;
        }
        let huge = vec![pattern(CHUNK_BYTES_MAX), pattern(1)];
        let put = self.site.put_bytes(vec![Item { name: self.name(10, 0), parts: huge }]).await;
        ensure(matches!(put, Err(SiteError::Refused { .. })), || format!("16 MiB and a byte: {put:?}"))
    }

    async fn many_at_once_do_not_mix(&self) -> Rule {
        let work = (0..48u16).map(|i| async move {
            let name = self.name(2000 + i, 0);
            let bytes: Bytes = vec![i as u8; 1000 + usize::from(i) * 3000].into();
            let stored = self.put(&name, &bytes).await?;
            self.expect(&name, stored, &bytes).await?;
            self.site.delete(&name, stored.at).await.map_err(text)
        });
        stream::iter(work).buffer_unordered(16).try_collect().await
    }

    /// A capability is asserted exactly as probed where we know the software.
    fn the_probe_agrees_with_what_is_known(&self, report: &probe::Report) -> Rule {
        ensure(report.is_usable(), || format!("the probe failed:\n{report}"))?;
        let known = match self.site {
            Site::Dir(_) => CreateOnly::Honoured,
            Site::Remote(remote) if remote.quirks().tested == Tested::Real => remote.quirks().create_only,
            Site::Remote(_) => return Ok(()),
        };
        let fits = known == CreateOnly::Unknown || known == report.create_only;
        ensure(fits, || format!("create-only is {:?}, the table says {known:?}", report.create_only))
    }
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Rule {
    if holds { Ok(()) } else { Err(why()) }
}

fn text(error: SiteError) -> String {
    error.to_string()
}

fn pattern(len: usize) -> Bytes {
    (0..len as u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}
