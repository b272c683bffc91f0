//! `ringfence demo`: the whole promise on a real folder, through a real S3
//! client, in seven steps. Where no server runs on the data directory, it starts
//! one for as long as the demo lasts.

mod client;
mod server;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use serde_json::Value;

use self::client::Client;
pub use self::client::Refusal;
use super::output::{human_bytes, plain};
use super::{Common, Failure, Kind, Output, connect, offline};
use crate::admin::call::Call;

/// Bounds of what is uploaded, so that a demo of a home folder ends.
const FILES_MAX: usize = 2000;
const BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Uploads under way at once.
const AT_ONCE: usize = 8;
/// Folders nobody wants to see uploaded.
const SKIPPED: &[&str] = &["target", "node_modules", "__pycache__", "ringfence-data"];

/// Runs it.
pub fn run(common: &Common, folder: Option<PathBuf>, output: &Output) -> Result<(), Failure> {
    let folder = folder.unwrap_or_else(|| PathBuf::from("."));
    let files = collect(&folder)?;
    let server = server::find_or_start(common, output)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    let client = Client::new(&server.endpoint, &common.data.join("credentials"))?;
    let tag = client::random_tag()?;
    let demo = Demo {
        common,
        output,
        client: Arc::new(client),
        bucket: format!("demo-{tag}"),
        pinned: format!("demo-pinned-{tag}"),
    };

    let request = runtime.block_on(demo.upload(&folder, &files))?;
    let usage = demo.placement()?;
    let seen = demo.onlooker(&files)?;
    let proof = demo.proof(&request)?;
    let refusals = runtime.block_on(demo.pinned_bucket())?;
    let refusals = demo.explain(refusals)?;
    demo.farewell();
    if output.is_json() {
        let document = serde_json::json!({
            "bucket": demo.bucket,
            "files": files.len(),
            "usage": usage["usage"],
            "onlooker": seen,
            "proof": proof,
            "pinned_bucket": demo.pinned,
            "refusals": refusals,
        });
        output.answer(&document, |_| {});
    }
    Ok(())
}

/// One file of the folder.
struct Entry {
    path: PathBuf,
    key: String,
    bytes: u64,
    label: &'static str,
}

fn collect(folder: &Path) -> Result<Vec<Entry>, Failure> {
    let wanted = |entry: &walkdir::DirEntry| {
        let name = entry.file_name().to_string_lossy();
        entry.depth() == 0 || !(name.starts_with('.') || SKIPPED.contains(&&*name))
    };
    let mut files = Vec::new();
    let mut total = 0;
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(wanted) {
        let Ok(entry) = entry else { continue };
        let (Ok(meta), Some(key)) = (entry.metadata(), key_of(folder, entry.path())) else { continue };
        if !meta.is_file() {
            continue;
        }
        total += meta.len();
        if files.len() == FILES_MAX || total > BYTES_MAX {
            break;
        }
        let label = label_of(&key);
        files.push(Entry { path: entry.into_path(), key, bytes: meta.len(), label });
    }
    if files.is_empty() {
        let shown = folder.display();
        return Err(Failure::new(Kind::Usage, format!("there are no files in `{shown}`")).next("name another folder"));
    }
    Ok(files)
}

fn key_of(folder: &Path, path: &Path) -> Option<String> {
    let key = path.strip_prefix(folder).ok()?.to_str()?.to_owned();
    (!key.is_empty() && key.len() <= 1024).then_some(key)
}

/// The sample rule: documents may be public, code is internal, settings are
/// confidential, and so is whatever smells of a secret: what is restricted a
/// static key, which the demo has, may not even write.
fn label_of(key: &str) -> &'static str {
    let lower = key.to_lowercase();
    let name = lower.rsplit('/').next().unwrap_or(&lower);
    if ["secret", "key", "credential", "passw", "private"].iter().any(|word| name.contains(word)) {
        return "confidential";
    }
    match name.rsplit_once('.').map_or(name, |(_, extension)| extension) {
        "md" | "txt" | "html" | "png" | "jpg" | "jpeg" | "svg" | "pdf" | "license" | "makefile" => "public",
        "toml" | "json" | "yaml" | "yml" | "ini" | "conf" | "lock" | "cedar" | "cedarschema" => "confidential",
        _ => "internal",
    }
}

struct Demo<'a> {
    common: &'a Common,
    output: &'a Output,
    client: Arc<Client>,
    bucket: String,
    pinned: String,
}

impl Demo<'_> {
    /// Steps 1 and 2. Returns the request id of one upload.
    async fn upload(&self, folder: &Path, files: &[Entry]) -> Result<String, Failure> {
        let o = self.output;
        o.heading("1. a bucket, through a real S3 client");
        self.client.create_bucket(&self.bucket, None).await.map_err(not_refused)?;
        o.say(&format!("  s3://{}", self.bucket));

        o.heading(&format!("2. {} files of {}, each with a label", files.len(), folder.display()));
        let total: u64 = files.iter().map(|f| f.bytes).sum();
        let bar = o.progress("uploading", total);
        let mut uploads = futures::stream::iter(files)
            .map(|file| async move {
                let sent = self.client.put_file(&self.bucket, &file.key, &file.path, file.label).await;
                sent.map(|request| (request, file.bytes))
            })
            .buffer_unordered(AT_ONCE);
        let mut one = String::new();
        while let Some(sent) = uploads.next().await {
            let (request, bytes) = sent.map_err(not_refused)?;
            bar.inc(bytes);
            one = request;
        }
        bar.finish_and_clear();
        o.say(&format!("  {} uploaded", human_bytes(total)));
        Ok(one)
    }

    /// Step 3.
    fn placement(&self) -> Result<Value, Failure> {
        let o = self.output;
        o.heading("3. where they lie: policy decided, label by label");
        let usage = connect::call(self.common, Call::Usage { bucket: self.bucket.clone() }, o)?;
        let columns = [
            ("LABEL", "label"),
            ("SITE", "site"),
            ("OBJECTS", "objects"),
            ("BYTES", "bytes"),
            ("SEALED", "sealed_bytes"),
        ];
        o.table(&usage["usage"], &columns);
        Ok(usage)
    }

    /// Step 4: what lies at public sites that are directories of this machine.
    fn onlooker(&self, files: &[Entry]) -> Result<Value, Failure> {
        let o = self.output;
        o.heading("4. what an onlooker at the public site sees");
        let sites = connect::call(self.common, Call::SiteList {}, o)?;
        let rows = sites["sites"].as_array().cloned().unwrap_or_default();
        let public = rows.iter().filter(|s| s["kind"] == "public" && s["type"] == "directory");
        let mut told = Vec::new();
        for site in public {
            told.push(self.look_at(Path::new(site["place"].as_str().unwrap_or_default()), files)?);
        }
        if told.is_empty() {
            o.say("  no public site is a directory of this machine: look at its bucket with the provider's own tools");
        }
        Ok(told.into())
    }

    fn look_at(&self, place: &Path, files: &[Entry]) -> Result<Value, Failure> {
        let o = self.output;
        let mut shown = 0;
        let (mut bytes, mut found) = (0, 0);
        let needles = needles(files);
        for entry in walkdir::WalkDir::new(place).sort_by_file_name().into_iter().filter_map(Result::ok) {
            if !entry.file_type().is_file() {
                continue;
            }
            let content = std::fs::read(entry.path()).map_err(|e| {
                Failure::new(Kind::Unavailable, format!("cannot read `{}`: {e}", entry.path().display()))
            })?;
            let name = entry.path().strip_prefix(place).unwrap_or(entry.path()).display().to_string();
            if let (0..3, Some(piece)) = (shown, content.windows(32).skip(256).find(|w| w.iter().all(|b| *b != 0))) {
                o.say(&format!("  {name}"));
                o.say(&o.dim(&format!("    … {} …", hex::encode(piece))));
                shown += 1;
            }
            bytes += content.len() as u64;
            found += needles.iter().filter(|n| contains(&content, n) || contains(name.as_bytes(), n)).count();
        }
        let verdict =
            format!("{} searched for {} names and first lines: {found} found", human_bytes(bytes), needles.len());
        o.say(&format!("  {}", if found == 0 { o.good(&verdict) } else { o.bad(&verdict) }));
        Ok(serde_json::json!({ "place": place, "bytes": bytes, "searched_for": needles.len(), "found": found }))
    }

    /// Step 5.
    fn proof(&self, request: &str) -> Result<Value, Failure> {
        let o = self.output;
        o.heading("5. a proof, checked with the log's public key and nothing else");
        let proved = connect::call(self.common, Call::LogProve { request: request.to_owned() }, o)?;
        let key = offline::verifier_key(&self.common.data.join("log").join("log.vkey"))?;
        let checked = offline::check_proof(proved["proof"].as_str().unwrap_or_default(), &key)?;
        o.field("request", request);
        o.field("log", key.name());
        o.field("what", &format!("{} of {}", plain(&checked["core"]["op"]), plain(&checked["resource"]["key"])));
        let verdict = format!("record #{} is in the signed log of {} entries", checked["index"], checked["size"]);
        o.say(&format!("  {}", o.good(&verdict)));
        Ok(checked)
    }

    /// Step 6: confidential data on every way into a bucket pinned to the
    /// cloud, and a static key at restricted data.
    async fn pinned_bucket(&self) -> Result<Vec<(&'static str, Refusal)>, Failure> {
        let o = self.output;
        o.heading("6. a bucket pinned to `cloud`, and confidential data on every way in");
        self.client.create_bucket(&self.pinned, Some("cloud")).await.map_err(not_refused)?;
        self.client.put_text(&self.bucket, "demo/confidential.txt", "confidential").await.map_err(not_refused)?;
        self.client.put_text(&self.pinned, "demo/public.txt", "public").await.map_err(not_refused)?;
        o.say(&format!("  s3://{} takes public data, and not:", self.pinned));
        let from = format!("{}/demo/confidential.txt", self.bucket);
        let ways = [
            ("put", self.client.put_text(&self.pinned, "leak", "confidential").await.map(drop)),
            ("copy", self.client.copy(&from, &self.pinned, "leak").await),
            ("multipart", self.client.begin_multipart(&self.pinned, "leak", "confidential").await),
            // Not even at home: a key that lives for ever does not reach it.
            ("static key", self.client.put_text(&self.bucket, "secret", "restricted").await.map(drop)),
        ];
        ways.into_iter().map(|(way, answer)| Ok((way, refused(way, answer)?))).collect()
    }

    /// Step 7.
    fn explain(&self, refusals: Vec<(&'static str, Refusal)>) -> Result<Vec<Value>, Failure> {
        let o = self.output;
        let mut all = Vec::new();
        for (way, refusal) in refusals {
            let call = Call::PolicyExplain { request: refusal.request_id.clone() };
            let explained = connect::call(self.common, call, o)?;
            let answer = format!("{} {}", refusal.status, refusal.code);
            o.say(&format!("\n  {:<10} {}  request {}", way, o.bad(&answer), refusal.request_id));
            o.say(&format!("             {}", plain(&explained["core"]["reason"])));
            for policy in explained["policies"].as_array().into_iter().flatten() {
                o.say(&o.dim(&format!("             policy `{}`", plain(&policy["id"]))));
            }
            all.push(serde_json::json!({
                "way": way,
                "status": refusal.status,
                "code": refusal.code,
                "request_id": refusal.request_id,
                "reason": explained["core"]["reason"],
                "policies": explained["core"]["policy_ids"],
            }));
        }
        Ok(all)
    }

    fn farewell(&self) {
        let data = self.common.data.display();
        self.output.heading("look further");
        self.output.say(&format!("  ringfence where s3://{}/demo/confidential.txt --data {data}", self.bucket));
        self.output.say(&format!("  ringfence log show --data {data}"));
        self.output.say(&format!("  ringfence log verify --data {data}"));
    }
}

/// Names and first lines that must not lie open anywhere: long enough that
/// they do not occur by chance.
fn needles(files: &[Entry]) -> Vec<Vec<u8>> {
    let mut needles: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
    for file in files.iter().filter(|f| f.label == "public").take(200) {
        let name = file.key.rsplit('/').next().unwrap_or(&file.key);
        if name.len() >= 8 {
            needles.insert(name.as_bytes().to_vec(), ());
        }
        if let Ok(content) = std::fs::read(&file.path) {
            let line = content.split(|b| *b == b'\n').find(|line| line.len() >= 16);
            needles.extend(line.map(|line| (line[..line.len().min(64)].to_vec(), ())));
        }
    }
    needles.into_keys().collect()
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    // The first byte is found quickly; the rest is compared where it stands.
    let Some((first, _)) = needle.split_first() else { return false };
    let mut at = 0;
    while let Some(next) = hay[at..].iter().position(|b| b == first) {
        at += next;
        if hay[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    false
}

fn not_refused(refusal: Refusal) -> Failure {
    Failure::new(Kind::Wrong, format!("the S3 client was answered {refusal}"))
        .next(format!("ringfence policy explain {}", refusal.request_id))
}

fn refused(way: &str, answer: Result<(), Refusal>) -> Result<Refusal, Failure> {
    match answer {
        Err(refusal) if refusal.status == 403 => Ok(refusal),
        Err(other) => Err(not_refused(other)),
        Ok(()) => Err(Failure::new(Kind::Wrong, format!("what must be refused was accepted: {way}"))
            .next("see the policies in force: ringfence policy test")),
    }
}
