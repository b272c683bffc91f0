//! One operation of a history: drawn, done, and told to the oracle.

use std::rc::Rc;
use std::sync::Arc;

use ringfence_format::chunk::{SiteName, parse_name};
use ringfence_format::names::{ObjectKey, UploadId};
use ringfence_format::redo::{Upload, Version};
use ringfence_store::{Anything, Conditions, Conflict, ScrubOptions, Source, SweepMode};

use crate::act::{New, Told, note};
use crate::check;
use crate::history::History;
use crate::life::{BUCKETS, installation};
use crate::machine::Which;
use crate::oracle::{Content, MARK, Object, Place, State, UploadKnown};

/// Keys of a bucket.
const KEYS: u64 = 16;
/// Uploads under way at once.
const UPLOADS_MAX: usize = 6;
/// Erased after this, milliseconds: as the binary does.
const READER_GRACE_MS: u64 = 10_000;

/// A version, and what it must be.
type Located = (Arc<Version>, Rc<Object>);

impl History {
    pub(crate) async fn operation(&mut self) -> Result<(), String> {
        match self.chance.below(120) {
            0..=34 => self.put().await,
            35..=38 if self.loose => self.burst().await,
            35..=38 => self.put().await,
            39..=43 => self.copy().await,
            44..=55 => self.delete().await,
            56..=77 => self.read().await,
            78..=81 => self.retag().await,
            82..=85 => self.begin_upload().await,
            86..=92 => self.put_part().await,
            93..=96 => self.complete().await,
            97 => self.abort().await,
            98..=101 => self.erase().await,
            102..=103 => self.sweep(SweepMode::Erase).await,
            104 => self.scrub().await,
            105 => self.compact().await,
            106 if self.chance.one_in(2) => self.compact().await,
            106 => self.rotate().await,
            107..=108 => {
                self.checkpoint_wal();
                Ok(())
            }
            109 if self.chance.one_in(2) => {
                self.back_up();
                Ok(())
            }
            110 if self.chance.one_in(4) => self.bring_back().await,
            111 if self.chance.one_in(4) => self.rebuild().await,
            112 if self.chance.one_in(3) => {
                self.rot();
                Ok(())
            }
            _ => self.publish(),
        }
    }

    /// One bit of a chunk at `second` is another from now on: reads take the
    /// other copy, and scrub finds it.
    fn rot(&mut self) {
        let mut found = Vec::new();
        for (path, bytes) in self.machine.disk(Which::Second).files() {
            let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let name = format!("{}/c/{file}", installation());
            if let Some((_, SiteName::Chunk { upload, .. })) = parse_name(&name) {
                found.push((path, upload, bytes.len()));
            }
        }
        let Some((path, upload, len)) = self.chance.pick(&found).cloned() else { return };
        let at = self.chance.below(len as u64) as usize;
        self.machine.disk(Which::Second).tamper(&path, |bytes| bytes[at] ^= 1);
        self.oracle.rotten.insert(upload);
        self.say(format!("a bit of {upload} rots at `second`"));
    }

    fn place(&mut self) -> Place {
        let bucket = BUCKETS[self.chance.below(2) as usize];
        let mark = String::from_utf8_lossy(MARK).repeat(3);
        (bucket, format!("{mark}/{}", self.chance.below(KEYS)))
    }

    fn content(&mut self) -> Content {
        let len = match self.chance.below(20) {
            0 => 0,
            1..=12 => self.chance.below(4_000),
            13..=16 => 4_000 + self.chance.below(56_000),
            17..=18 => 64_000 + self.chance.below(4_000),
            _ => 70_000 + self.chance.below(250_000),
        };
        Content { len: len as usize, number: self.chance.number() }
    }

    fn label(&mut self) -> &'static str {
        ["public", "internal", "internal", "confidential", "restricted"][self.chance.below(5) as usize]
    }

    fn new_object(&mut self) -> New {
        let place = self.place();
        let if_none_match = self.chance.one_in(8).then_some(Anything);
        let if_match = match (if_none_match, self.chance.below(10)) {
            (None, 0) => Some("*".to_owned()),
            (None, 1) => self.oracle.can(&place).first().cloned().flatten().map(|object| object.etag.clone()),
            _ => None,
        };
        let conditions = Conditions { if_none_match, if_match };
        New { place, label: self.label(), content: self.content(), conditions }
    }

    /// Whether an answer agrees with what the key may hold.
    fn agrees(&self, new: &New, told: &Told) -> Result<(), String> {
        let can = self.oracle.can(&new.place);
        let (empty, full) = (can.contains(&None), can.iter().any(Option::is_some));
        let Conditions { if_none_match, if_match } = &new.conditions;
        let possible = match told {
            Told::Done(_) => (if_none_match.is_none() || empty) && (if_match.is_none() || full),
            Told::Conflict(Conflict::Precondition) => full && (if_none_match.is_some() || if_match.is_some()),
            Told::Conflict(Conflict::NoSuchKey) => empty && if_match.is_some(),
            Told::Conflict(Conflict::SourceChanged) => true,
            Told::Conflict(_) => false,
            _ => true,
        };
        if possible { Ok(()) } else { Err(format!("a put under {:?} was told {told:?}", new.conditions)) }
    }

    fn note_put(&mut self, new: &New, object: Option<Rc<Object>>, told: &Told) -> Result<(), String> {
        let Content { len, .. } = new.content;
        self.count(&format!("put {}{} {len} {}", new.place.0, tail(&new.place.1), new.label), told)?;
        self.agrees(new, told)?;
        note(&mut self.oracle, &new.place, object, "s3:PutObject", told);
        Ok(())
    }

    async fn put(&mut self) -> Result<(), String> {
        let new = self.new_object();
        // How often a request is looked at is not by seed.
        let goes_after = (self.loose && self.chance.one_in(12)).then(|| 1 + self.chance.below(14));
        let (object, told) = self.life().put(&new, None, &self.private, goes_after).await;
        if goes_after.is_some() && matches!(told, Told::Failed(_)) {
            self.say(format!("put {}{}: {told:?}", new.place.0, tail(&new.place.1)));
            return Ok(());
        }
        self.note_put(&new, object, &told)
    }

    /// Several puts at once, under different keys: one batch of the commit thread.
    async fn burst(&mut self) -> Result<(), String> {
        let mut news: Vec<New> = Vec::new();
        for _ in 0..2 + self.chance.below(4) {
            let new = self.new_object();
            if news.iter().all(|other| other.place != new.place) {
                news.push(new);
            }
        }
        let puts = news.iter().map(|new| self.life().put(new, None, &self.private, None));
        let done = futures::future::join_all(puts).await;
        for (new, (object, told)) in news.iter().zip(done) {
            self.note_put(new, object, &told)?;
        }
        Ok(())
    }

    /// The current version of a key, held against what it may be.
    fn locate(&self, place: &Place) -> Result<Option<Located>, String> {
        let bucket = self.life().bucket(place.0)?;
        let key = ObjectKey::parse(&place.1).expect("a key");
        let Ok(found) = self.life().store.catalog().locate(&bucket.id, &key, None) else { return Ok(None) };
        let state = self.oracle.allows(place, found.as_deref())?;
        Ok(found.zip(state))
    }

    async fn read(&mut self) -> Result<(), String> {
        let place = self.place();
        let Some((version, object)) = self.locate(&place)? else { return Ok(()) };
        let size = version.size;
        let range = if size > 0 && self.chance.one_in(2) {
            let start = self.chance.below(size);
            start..start + 1 + self.chance.below(size - start)
        } else {
            0..size
        };
        let _bytes = self.read_checked(&place, &version, &object, range).await?;
        Ok(())
    }

    /// A read that gives out wrong bytes is a violation; one that fails is not,
    /// unless nothing had gone wrong.
    async fn read_checked(
        &mut self,
        place: &Place,
        version: &Arc<Version>,
        object: &Object,
        range: std::ops::Range<u64>,
    ) -> Result<Option<Vec<u8>>, String> {
        let got = self.life().read(version, range.clone()).await;
        let said = got.as_ref().map(|(seq, bytes)| (*seq, bytes.as_ref().map(Vec::len)));
        self.say(format!("read {}{} {range:?}: {said:?}", place.0, tail(&place.1)));
        let why = match got {
            Ok((seq, bytes)) => {
                self.oracle.records.push((seq, "s3:GetObject"));
                match bytes {
                    Ok(bytes) if bytes == object.bytes()[range.start as usize..range.end as usize] => {
                        self.report.reads += 1;
                        return Ok(Some(bytes));
                    }
                    Ok(_) => return Err(format!("a read of {}{} gave out wrong bytes", place.0, tail(&place.1))),
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        self.report.unread += 1;
        if self.calm && !why.contains("busy") && !why.contains("`cloud`") {
            return Err(format!("a read of {}{} failed and nothing had gone wrong: {why}", place.0, tail(&place.1)));
        }
        Ok(None)
    }

    async fn copy(&mut self) -> Result<(), String> {
        let from = self.place();
        let Some((version, object)) = self.locate(&from)? else { return Ok(()) };
        let [content] = object.parts[..] else { return Ok(()) };
        let Some(_plain) = self.read_checked(&from, &version, &object, 0..version.size).await? else { return Ok(()) };
        let mut new = self.new_object();
        new.content = content;
        // Only to what is as strict.
        new.label = if object.label == "public" { "public" } else { "restricted" };
        let source = Source { uid: version.uid, head_seq: version.head.as_ref().map_or(0, |head| head.seq) };
        let (made, told) = self.life().put(&new, Some(source), &self.private, None).await;
        self.note_put(&new, made, &told)
    }

    async fn delete(&mut self) -> Result<(), String> {
        let first = self.place();
        let mut keys = vec![first.1];
        for _ in 0..self.chance.below(3) {
            let another = self.place().1;
            if !keys.contains(&another) {
                keys.push(another);
            }
        }
        let told = self.life().delete(first.0, &keys).await;
        self.count(&format!("delete {} {:?}", first.0, keys.iter().map(|key| tail(key)).collect::<Vec<_>>()), &told)?;
        let changes: Vec<(Place, State)> = keys.into_iter().map(|key| ((first.0, key), None)).collect();
        match told {
            Told::Unknown(_) => self.oracle.may_be(changes),
            told => changes.iter().for_each(|(place, _)| note(&mut self.oracle, place, None, "s3:DeleteObject", &told)),
        }
        Ok(())
    }

    async fn retag(&mut self) -> Result<(), String> {
        let place = self.place();
        let Some((version, object)) = self.locate(&place)? else { return Ok(()) };
        let number = self.chance.number();
        let (tags, told) = match self.life().retag(&place, &version, number).await {
            Ok((tags, told)) => (tags, told),
            Err(told) => (Vec::new(), told),
        };
        self.count(&format!("retag {}{}", place.0, tail(&place.1)), &told)?;
        let Object { uid, parts, etag, label, metadata, .. } = &*object;
        let renewed = Object {
            uid: *uid,
            parts: parts.clone(),
            etag: etag.clone(),
            label: label.clone(),
            tags,
            metadata: metadata.clone(),
        };
        note(&mut self.oracle, &place, Some(Rc::new(renewed)), "s3:PutObjectTagging", &told);
        Ok(())
    }

    async fn begin_upload(&mut self) -> Result<(), String> {
        if self.oracle.uploads.len() >= UPLOADS_MAX {
            return Ok(());
        }
        let new = New { conditions: Conditions::default(), ..self.new_object() };
        let (upload, told) = match self.life().begin_upload(&new).await {
            Ok((upload, told)) => (upload, told),
            Err(told) => return self.count("begin an upload", &told),
        };
        self.count(&format!("begin upload {} {}", upload.id, new.label), &told)?;
        let can_be = match told {
            Told::Done(_) => (true, false),
            Told::Recorded(_) | Told::Unknown(_) => (true, true),
            Told::Conflict(_) | Told::Failed(_) => return Ok(()),
        };
        self.remember(&told, "s3:CreateMultipartUpload");
        let known = UploadKnown { place: new.place, version: upload.version, can_be, parts: Default::default() };
        self.oracle.uploads.insert(upload.id, known);
        Ok(())
    }

    fn remember(&mut self, told: &Told, op: &'static str) {
        if let Told::Done(seq) | Told::Recorded(seq) = told {
            self.oracle.records.push((*seq, op));
        }
    }

    /// An upload that is under way for sure.
    fn some_upload(&mut self) -> Result<Option<Upload>, String> {
        let open = |known: &UploadKnown| known.can_be == (true, false);
        let ids: Vec<UploadId> =
            self.oracle.uploads.iter().filter(|(_, known)| open(known)).map(|(id, _)| *id).collect();
        let Some(id) = self.chance.pick(&ids) else { return Ok(None) };
        match self.life().store.catalog().upload(id) {
            Ok(Some(upload)) => Ok(Some(upload)),
            Ok(None) => Err(format!("upload {id} is lost")),
            Err(_) => Ok(None),
        }
    }

    async fn put_part(&mut self) -> Result<(), String> {
        let Some(upload) = self.some_upload()? else { return self.begin_upload().await };
        let (number, content) = (1 + self.chance.below(4) as u32, self.content());
        let told = self.life().put_part(&upload, number, content, &self.private).await.unwrap_or_else(|told| told);
        self.count(&format!("part {number} of {} {}", upload.id, content.len), &told)?;
        self.remember(&told, "s3:UploadPart");
        let Some(known) = self.oracle.uploads.get_mut(&upload.id) else { return Ok(()) };
        let can = known.parts.entry(number).or_insert_with(|| vec![None]);
        match told {
            Told::Done(_) => *can = vec![Some(content)],
            Told::Recorded(_) | Told::Unknown(_) => can.push(Some(content)),
            Told::Conflict(_) | Told::Failed(_) => {}
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), String> {
        let Some(upload) = self.some_upload()? else { return Ok(()) };
        let Ok(rows) = self.life().store.catalog().list_parts(&upload.id, 0, 10) else { return Ok(()) };
        let Some(known) = self.oracle.uploads.get(&upload.id) else { return Ok(()) };
        let of = |number: &u32, mark: [u8; 16]| {
            let can = known.parts.get(number)?;
            can.iter().flatten().find(|content| content.mark() == mark).copied()
        };
        let contents: Option<Vec<Content>> = rows.iter().map(|row| of(&row.part.number, row.part.md5)).collect();
        let contents = contents.ok_or_else(|| format!("upload {} has a part nobody put", upload.id))?;
        if rows.is_empty() {
            return Ok(());
        }
        let place = known.place.clone();
        let (object, told) = match self.life().complete(&upload, &rows, &contents).await {
            Ok((object, told)) => (Some(Rc::new(object)), told),
            Err(told) => (None, told),
        };
        self.count(&format!("complete {} at {}{}", upload.id, place.0, tail(&place.1)), &told)?;
        note(&mut self.oracle, &place, object, "s3:CompleteMultipartUpload", &told);
        self.end_of_upload(&upload.id, &told);
        Ok(())
    }

    async fn abort(&mut self) -> Result<(), String> {
        let Some(upload) = self.some_upload()? else { return Ok(()) };
        let told = self.life().abort(&upload).await;
        self.count(&format!("abort {}", upload.id), &told)?;
        self.remember(&told, "s3:AbortMultipartUpload");
        self.end_of_upload(&upload.id, &told);
        Ok(())
    }

    fn end_of_upload(&mut self, id: &UploadId, told: &Told) {
        let Some(known) = self.oracle.uploads.get_mut(id) else { return };
        match told {
            Told::Done(_) => known.can_be = (false, true),
            Told::Recorded(_) | Told::Unknown(_) => known.can_be = (true, true),
            Told::Conflict(_) | Told::Failed(_) => {}
        }
    }

    async fn erase(&mut self) -> Result<(), String> {
        let erased = self.life().store.erase_due(READER_GRACE_MS).await;
        self.say(format!("erase what is due: {erased:?}"));
        match erased {
            Err(error) if self.calm && !error.to_string().contains("busy") => Err(format!("erasing failed: {error}")),
            _ => Ok(()),
        }
    }

    async fn scrub(&mut self) -> Result<(), String> {
        // Under faults it may repair what it cannot vouch for: only as a check.
        if !self.calm {
            return Ok(());
        }
        let life = self.life();
        let Ok(keys) = life.scrubber().await else { return Ok(()) };
        let scrubbed = life.store.scrub(ScrubOptions::default(), &keys, |_| {}).await;
        let line = format!("scrub: {:?}", scrubbed.as_ref().map(|report| (report.copies, report.bad.len())));
        if let Ok(report) = &scrubbed {
            let Self { life, oracle, .. } = self;
            check::as_rotten(life.as_ref().expect("it goes on"), oracle, report)?;
        }
        self.say(line);
        Ok(())
    }

    async fn compact(&mut self) -> Result<(), String> {
        // Packs of a history are small: those that the binary would leave too.
        let compacted = self.life().store.compact_below(95, 4096).await;
        self.say(format!("compact: {compacted:?}"));
        Ok(())
    }

    async fn rotate(&mut self) -> Result<(), String> {
        let rotated = self.life().rotate().await;
        self.say(format!("rotate the tenant's key: {rotated:?}"));
        Ok(())
    }

    fn publish(&mut self) -> Result<(), String> {
        let published = self.life().log.publish();
        if published.is_ok() {
            self.oracle.checkpoint = Some(self.life().log.checkpoint());
        }
        self.say(format!("publish: {published:?}"));
        match published {
            Err(error) if self.calm => Err(format!("the log does not publish: {error}")),
            _ => Ok(()),
        }
    }
}

/// The end of a key, after the mark.
fn tail(key: &str) -> &str {
    key.rfind('/').map_or(key, |at| &key[at..])
}
