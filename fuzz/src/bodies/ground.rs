//! What a target runs on: a folder, and in it what was made for the first
//! input that needed it.

use std::path::{Path, PathBuf};

use ringfence::fuzz::Server;

use super::keyrings::Keyrings;
use super::wire::{Answer, Request};

/// The object that is there whatever an input does.
pub const KNOWN: &str = "known";

/// A folder with a server, or with keyrings.
pub struct Ground {
    dir: PathBuf,
    server: Option<Stand>,
    keyrings: Option<Keyrings>,
}

impl Ground {
    /// An empty one.
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        Self { dir: dir.to_owned(), server: None, keyrings: None }
    }

    pub(super) fn server(&mut self) -> &mut Stand {
        self.server.get_or_insert_with(|| Stand::new(&self.dir.join("server")))
    }

    pub(super) fn keyrings(&mut self) -> &mut Keyrings {
        self.keyrings.get_or_insert_with(|| Keyrings::new(&self.dir.join("keyrings")))
    }
}

/// A server with a bucket in which [`KNOWN`] lies.
pub(super) struct Stand {
    pub(super) server: Server,
    /// Buckets so far: one whose label an input raised beyond what its key may
    /// write is left behind.
    buckets: u32,
}

impl Stand {
    fn new(dir: &Path) -> Self {
        let mut stand = Self { server: Server::start(dir), buckets: 0 };
        stand.mend();
        stand
    }

    /// The bucket of today.
    pub(super) fn bucket(&self) -> String {
        format!("fuzz-{}", self.buckets)
    }

    /// Today, as `20260131`.
    pub(super) fn day(&self) -> String {
        super::wire::times(self.server.now_us()).1
    }

    /// What lies in [`KNOWN`].
    pub(super) fn known() -> Vec<u8> {
        (0..10_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    /// Signs, sends, and holds what must hold of every answer against it.
    pub(super) fn ask(&self, request: &Request) -> Answer {
        let before = self.server.records();
        let bytes = request.signed(&self.server);
        let answer = Answer::parse(&self.server.s3(&bytes), request);
        self.is_in_order(&answer, before, request);
        answer
    }

    /// INVARIANT 8, and that an answer is one: S3's own words for what is
    /// wrong, never ours for a fault, and each on record or counted.
    pub(super) fn is_in_order(&self, answer: &Answer, before: u64, request: &Request) {
        let Answer { status, .. } = answer;
        assert!(!matches!(status, 500 | 502..), "{status} to {request:?}: {answer:?}");
        let id = answer.header("x-amz-request-id").unwrap_or_default();
        let recorded = id == "aggregated" || self.server.records() > before;
        assert!(!id.is_empty() && recorded, "not on record: {request:?} {answer:?}");
        if *status >= 400 && request.method != "HEAD" {
            assert!(answer.text().contains("<Code>"), "no S3 error: {request:?} {answer:?}");
        }
    }

    /// Puts back what every input may rely on. That it can be put back is the
    /// proof that the server lives.
    pub(super) fn mend(&mut self) {
        for _ in 0..2 {
            let bucket = self.ask(&Request::new("PUT", &format!("/{}", self.bucket())));
            let path = format!("/{}/{KNOWN}", self.bucket());
            let put = self.ask(&Request::new("PUT", &path).body(Self::known()));
            if matches!(bucket.status, 200 | 409) && put.status == 200 {
                assert_eq!(self.ask(&Request::new("GET", &path)).body, Self::known());
                return;
            }
            self.buckets += 1;
        }
        panic!("the server takes no bucket and no object any more");
    }
}
