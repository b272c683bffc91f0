//! Digests of plaintext that S3 knows: MD5 for the ETag, and the checksums a
//! client sends or asks for.

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use ringfence_format::redo::Checksum;

/// A checksum algorithm, by its name in the S3 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

/// All of them.
pub const ALGORITHMS: [Algorithm; 5] =
    [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

impl Algorithm {
    /// Its name in the S3 API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The algorithm of that name.
    pub fn of(name: &str) -> Option<Self> {
        ALGORITHMS.into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    /// Whether checksums of parts can only be composed (`COMPOSITE`), not
    /// combined into that of the whole.
    pub fn is_digest(self) -> bool {
        matches!(self, Self::Sha1 | Self::Sha256)
    }

    /// The lengths of its values, in bytes.
    pub fn len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
}

enum Hasher {
    Crc(Box<crc_fast::Digest>),
    Sha(digest::Context),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match (algorithm.crc(), algorithm) {
            (Some(crc), _) => Self::Crc(Box::new(crc_fast::Digest::new(crc))),
            (None, Algorithm::Sha1) => Self::Sha(digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY)),
            (None, _) => Self::Sha(digest::Context::new(&SHA256)),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest) => digest.update(bytes),
            Self::Sha(context) => context.update(bytes),
        }
    }

    fn finish(self, algorithm: Algorithm) -> Vec<u8> {
        match self {
            Self::Crc(digest) => digest.finalize().to_be_bytes()[8 - algorithm.len()..].to_vec(),
            Self::Sha(context) => context.finish().as_ref().to_vec(),
        }
    }
}

/// Takes plaintext as it comes.
pub struct Digests {
    md5: Md5,
    len: u64,
    sums: Vec<(Algorithm, Hasher)>,
}

impl Digests {
    /// MD5 and these.
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let sums = algorithms.iter().map(|a| (*a, Hasher::new(*a))).collect();
        Self { md5: Md5::new(), len: 0, sums }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.md5.update(bytes);
        self.sums.iter_mut().for_each(|(_, hasher)| hasher.update(bytes));
    }

    /// At the end of the plaintext.
    pub fn finish(self) -> Sums {
        let sums = self.sums.into_iter().map(|(a, hasher)| (a, hasher.finish(a))).collect();
        Sums { md5: self.md5.finalize().into(), len: self.len, sums }
    }
}

/// What a plaintext digests to.
#[derive(Clone, Debug)]
pub struct Sums {
    /// For the ETag.
    pub md5: [u8; 16],
    /// Plaintext bytes.
    pub len: u64,
    sums: Vec<(Algorithm, Vec<u8>)>,
}

impl Sums {
    /// The value of an algorithm that was asked for, in base64.
    pub fn base64(&self, algorithm: Algorithm) -> Option<String> {
        self.sums.iter().find(|(a, _)| *a == algorithm).map(|(_, value)| STANDARD.encode(value))
    }

    /// One checksum, as a row keeps it.
    pub fn checksum(&self, algorithm: Algorithm) -> Option<Checksum> {
        let value = self.base64(algorithm)?;
        Some(Checksum { algorithm: algorithm.name().to_owned(), value, composite: false })
    }
}

/// The checksum of parts laid end to end (`FULL_OBJECT`), or of their
/// checksums (`COMPOSITE`); `None` where a part has none of that kind.
pub fn combine(algorithm: Algorithm, composite: bool, parts: &[(u64, Option<&Checksum>)]) -> Option<Checksum> {
    let mut values = Vec::with_capacity(parts.len());
    for (len, checksum) in parts {
        let checksum = checksum.filter(|c| c.algorithm == algorithm.name())?;
        values.push((*len, STANDARD.decode(&checksum.value).ok().filter(|v| v.len() == algorithm.len())?));
    }
    let name = algorithm.name().to_owned();
    if composite {
        let mut hasher = Hasher::new(algorithm);
        values.iter().for_each(|(_, value)| hasher.update(value));
        let value = format!("{}-{}", STANDARD.encode(hasher.finish(algorithm)), parts.len());
        return Some(Checksum { algorithm: name, value, composite: true });
    }
    let crc = algorithm.crc()?;
    let number = |value: &[u8]| value.iter().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let mut whole: Option<u64> = None;
    for (len, value) in &values {
        let value = number(value);
        whole = Some(whole.map_or(value, |before| crc_fast::checksum_combine(crc, before, value, *len)));
    }
    let bytes = whole?.to_be_bytes();
    Some(Checksum { algorithm: name, value: STANDARD.encode(&bytes[8 - algorithm.len()..]), composite: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_values_of_the_published_catalogues_hold() {
        // "123456789": the check value of the CRC catalogue, FIPS 180 examples by tool.
        let cases = [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ];
        for (algorithm, hex) in cases {
            let mut digests = Digests::new(&[algorithm]);
            digests.update(b"1234");
            digests.update(b"56789");
            let expect = STANDARD.encode(hex::decode(hex).expect("hex"));
            assert_eq!(digests.finish().base64(algorithm), Some(expect), "{algorithm:?}");
        }
    }

    #[test]
    fn parts_combine_to_the_checksum_of_the_whole() {
        let pieces: [&[u8]; 3] = [b"first part", b"", b"and the last"];
        let whole = pieces.concat();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let sum = |bytes: &[u8]| {
                let mut digests = Digests::new(&[algorithm]);
                digests.update(bytes);
                digests.finish().checksum(algorithm)
            };
            let sums: Vec<_> = pieces.iter().map(|piece| (piece.len() as u64, sum(piece))).collect();
            let parts: Vec<_> = sums.iter().map(|(len, sum)| (*len, sum.as_ref())).collect();
            assert_eq!(combine(algorithm, false, &parts), sum(&whole), "{algorithm:?}");
        }
    }
}
