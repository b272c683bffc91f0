//! What travels between a server and an offline root, as text: a request for a
//! manifest, the manifest, the public half of a root, and that one root hands
//! over to another. A title line, then base64 of CBOR.

use base64::{Engine, engine::general_purpose::STANDARD};
use ringfence_format::names::Realm;
use ringfence_format::session::{KeyRow, Manifest, PublicKey, Purpose, SignedManifest, pre_authentication_encoding};
use ringfence_vault::COUNTS_S;
use std::collections::{BTreeMap, BTreeSet};

use crate::cli::{Failure, Kind};
use crate::retention::time;

/// No paper is longer, in bytes of text.
pub const PAPER_BYTES_MAX: u64 = 16 * 1024 * 1024;
const COLUMNS: usize = 76;

/// What an offline root is asked to sign, with what it signed last.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Request {
    /// What to sign.
    #[n(0)]
    pub manifest: Manifest,
    /// The one in force.
    #[n(1)]
    pub previous: Option<SignedManifest>,
}

/// The public half of a root.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct RootPublic {
    /// Whose root.
    #[n(0)]
    pub realm: Realm,
    /// What its signatures are checked by.
    #[n(1)]
    pub public: PublicKey,
}

/// That a root takes over from another, which signed it.
#[derive(Debug, Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct HandOver {
    /// The root that goes.
    #[n(0)]
    pub from: PublicKey,
    /// The root that comes.
    #[n(1)]
    pub to: RootPublic,
    /// The signature of the one that goes.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub signature: [u8; 64],
}

/// A kind of paper.
pub trait Paper: Sized + minicbor::Encode<()> + for<'b> minicbor::Decode<'b, ()> {
    /// Its first line.
    const TITLE: &'static str;

    /// As text.
    fn to_text(&self) -> String {
        let bytes = minicbor::to_vec(self).expect("encoding into memory cannot fail");
        let body = STANDARD.encode(bytes);
        let lines = body.as_bytes().chunks(COLUMNS).map(|line| std::str::from_utf8(line).expect("base64 is ASCII"));
        format!("{}\n{}\n", Self::TITLE, lines.collect::<Vec<_>>().join("\n"))
    }

    /// Reads what [`to_text`](Self::to_text) wrote, and nothing else.
    ///
    /// # Errors
    /// Another paper, or a damaged one.
    fn from_text(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::new(Kind::Usage, format!("this is not a `{}`: {why}", Self::TITLE));
        let (title, body) = text.split_once('\n').ok_or_else(|| wrong("it has no lines"))?;
        if title.trim_end() != Self::TITLE {
            let found: String = title.chars().filter(|c| !c.is_control()).take(60).collect();
            return Err(wrong(&format!("it begins with `{found}`")));
        }
        let body: String = body.split_ascii_whitespace().collect();
        let bytes = STANDARD.decode(body).map_err(|_| wrong("it is not base64"))?;
        let paper: Self = minicbor::decode(&bytes).map_err(|_| wrong("it cannot be decoded"))?;
        let again = minicbor::to_vec(&paper).expect("encoding into memory cannot fail");
        if again == bytes { Ok(paper) } else { Err(wrong("it is not in the one form it is written in")) }
    }
}

impl Paper for Request {
    const TITLE: &'static str = "ringfence manifest request v0";
}
impl Paper for SignedManifest {
    const TITLE: &'static str = "ringfence manifest v0";
}
impl Paper for RootPublic {
    const TITLE: &'static str = "ringfence root v0";
}
impl Paper for HandOver {
    const TITLE: &'static str = "ringfence root hand-over v0";
}

impl HandOver {
    /// What the root that goes signs.
    pub fn to_be_signed(from: &PublicKey, to: &RootPublic) -> Vec<u8> {
        let parts =
            [b"ringfence root hand-over v0", to.realm.as_str().as_bytes(), from.as_bytes(), to.public.as_bytes()];
        pre_authentication_encoding(&parts)
    }

    /// Whether the root that goes signed it.
    pub fn holds(&self) -> bool {
        self.from.signed(&Self::to_be_signed(&self.from, &self.to), &self.signature)
    }
}

/// A key as people compare it: its id, in groups.
pub fn fingerprint(public: &PublicKey) -> String {
    let kid = public.kid().to_string();
    let groups: Vec<&str> = (0..kid.len()).step_by(4).map(|at| &kid[at..at + 4]).collect();
    groups.join("-")
}

impl Request {
    /// What signing it would change, in words: a line each. Begins with what
    /// should make the reader stop.
    pub fn in_words(&self) -> Vec<String> {
        let Manifest { realm, seq, keys, .. } = &self.manifest;
        let before: &[KeyRow] = self.previous.as_ref().map_or(&[], |signed| &signed.manifest.keys);
        let mut lines = self.strange(before);
        lines.push(format!("manifest #{seq} of realm `{realm}`, {} keys", keys.len()));
        let scopes: BTreeSet<(String, Purpose)> =
            keys.iter().chain(before).map(|row| (row.tenant.to_string(), row.purpose)).collect();
        for (tenant, purpose) in scopes {
            let of = |rows: &[KeyRow]| -> BTreeMap<PublicKey, KeyRow> {
                let own = rows.iter().filter(|row| row.tenant.as_str() == tenant && row.purpose == purpose);
                own.map(|row| (row.public, row.clone())).collect()
            };
            let (old, new) = (of(before), of(keys));
            let added: Vec<&KeyRow> = new.values().filter(|row| !old.contains_key(&row.public)).collect();
            let gone = old.keys().filter(|key| !new.contains_key(*key)).count();
            let kept = new.len() - added.len();
            let when = match (added.iter().map(|row| row.from_s).min(), added.iter().map(|row| row.until_s).max()) {
                (Some(from_s), Some(until_s)) => format!(" (from {} to {})", day(from_s), day(until_s)),
                _ => String::new(),
            };
            let newly = if old.is_empty() { ", which had none" } else { "" };
            lines.push(format!("  {tenant}/{purpose}: {} new keys{when}{newly}; {kept} stay, {gone} go", added.len()));
        }
        let sites: BTreeSet<String> = keys.iter().map(|row| row.sites.to_string()).collect();
        lines.push(format!("  sites: {}", sites.into_iter().collect::<Vec<_>>().join("; ")));
        lines
    }

    fn strange(&self, before: &[KeyRow]) -> Vec<String> {
        let mut lines = vec![];
        let last = self.previous.as_ref().map(|signed| &signed.manifest);
        if self.manifest.seq != last.map_or(1, |last| last.seq + 1)
            || self.manifest.previous != last.map(Manifest::sha256)
        {
            lines.push("WARNING: it does not follow the manifest that the request says is in force".to_owned());
        }
        let now: BTreeSet<PublicKey> = self.manifest.keys.iter().map(|row| row.public).collect();
        let early =
            before.iter().filter(|row| row.until_s > self.manifest.made_s && !now.contains(&row.public)).count();
        if early > 0 {
            lines.push(format!("WARNING: {early} keys go before their time: sessions they signed end"));
        }
        let long = self.manifest.keys.iter().filter(|row| row.until_s.saturating_sub(row.from_s) > COUNTS_S).count();
        if long > 0 {
            lines.push(format!("WARNING: {long} keys live longer than two days"));
        }
        lines
    }
}

fn day(at_s: u64) -> String {
    time(at_s.saturating_mul(1_000_000)).chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use ringfence_format::names::{SiteId, Tenant};
    use ringfence_format::session::Sites;

    use super::*;

    fn key(n: u8, days: u64) -> KeyRow {
        KeyRow {
            public: PublicKey::Ed25519([n; 32]),
            tenant: Tenant::parse("acme").expect("a tenant"),
            purpose: Purpose::StsSession,
            sites: Sites::one(SiteId::parse("home").expect("a site")),
            from_s: 86_400,
            until_s: 86_400 * (1 + days),
        }
    }

    fn manifest(seq: u64, previous: Option<&Manifest>, keys: Vec<KeyRow>) -> Manifest {
        let realm = Realm::parse("main").expect("a realm");
        Manifest { version: 0, realm, seq, previous: previous.map(Manifest::sha256), made_s: 86_400, keys }
    }

    #[test]
    fn a_paper_comes_back_as_it_was_and_is_no_other_paper() {
        let request = Request { manifest: manifest(1, None, vec![key(1, 2)]), previous: None };
        let text = request.to_text();
        assert_eq!(Request::from_text(&text).expect("its own text"), request);
        assert!(SignedManifest::from_text(&text).is_err());
        for bad in ["", "x", "ringfence manifest request v0\n!!", "ringfence manifest request v0\n"] {
            assert!(Request::from_text(bad).is_err(), "{bad:?}");
        }
        assert!(Request::from_text(&text.replacen('o', "p", 1)).is_err());
    }

    #[test]
    fn a_request_says_in_words_what_it_changes_and_what_is_strange() {
        let first = manifest(1, None, vec![key(1, 2), key(2, 2)]);
        let previous = SignedManifest { manifest: first.clone(), signature: [0; 64] };
        let ask = |manifest| Request { manifest, previous: Some(previous.clone()) }.in_words();
        let plain = ask(manifest(2, Some(&first), vec![key(1, 2), key(2, 2), key(3, 2)]));
        assert!(plain.iter().all(|line| !line.contains("WARNING")), "{plain:?}");
        assert!(plain[1].contains("1 new keys (from 1970-01-02T00:00 to 1970-01-04T00:00); 2 stay, 0 go"), "{plain:?}");
        for (strange, word) in [
            (manifest(3, Some(&first), vec![key(1, 2), key(2, 2)]), "does not follow"),
            (manifest(2, None, vec![key(1, 2), key(2, 2)]), "does not follow"),
            (manifest(2, Some(&first), vec![key(1, 2)]), "1 keys go before their time"),
            (manifest(2, Some(&first), vec![key(1, 2), key(2, 2), key(3, 14)]), "1 keys live longer"),
        ] {
            let lines = ask(strange);
            assert!(lines[0].starts_with("WARNING") && lines[0].contains(word), "{lines:?}");
        }
    }
}
