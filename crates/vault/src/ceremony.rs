//! A realm's root, away from every server: made, kept and used offline. It is
//! one file, or shares of which some must come together (FROST, RFC 9591),
//! each sealed under a passphrase of its own.
//!
//! magic 8 ‖ format 1 ‖ length 4 ‖ slot (CBOR) ‖ wrap. Shares are dealt on one
//! machine, and brought together on one to sign: they keep one file, or one
//! person, from being enough; they do not help where that machine is not to be
//! trusted. Format: docs/formats/keyring.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aws_lc_rs::rand;
use frost_ed25519::keys::{KeyPackage, PublicKeyPackage, SigningShare, VerifyingShare};
use frost_ed25519::rand_core::{self, CryptoRng, RngCore};
use frost_ed25519::{Identifier, SigningPackage, VerifyingKey, round1, round2};
use ringfence_format::names::Realm;
use ringfence_format::session::{Manifest, PublicKey, SignedManifest};
use ringfence_format::wrap::{self, Place, WrapError};
use zeroize::Zeroizing;

use crate::durable::{self, Existing};
use crate::error::VaultError;
use crate::issuer::{pair, public_of};
use crate::provider::{Slot, Unlock};
use crate::secret::{Passphrase, random, random_key};

const MAGIC: &[u8; 8] = b"RFroot\r\n";
const FORMAT: u8 = 0;
const FILE_BYTES_MAX: u64 = 16 * 1024;
const SLOT_BYTES_MAX: usize = 1024;
/// More shares than people who could hold them.
pub const SHARES_MAX: u16 = 9;

/// One root, or one share of it, opened: the machine it is on can sign.
pub struct RootFile(Content);

#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Content {
    #[n(0)]
    realm: Realm,
    #[n(1)]
    public: PublicKey,
    /// The seed, or the signing share.
    #[cbor(n(2), with = "secret_cbor")]
    secret: Zeroizing<Vec<u8>>,
    /// Of a share: everything else that signing needs.
    #[n(3)]
    share: Option<Share>,
}

#[derive(Clone, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Share {
    #[n(0)]
    number: u16,
    /// So many must come together.
    #[n(1)]
    needed: u16,
    /// What each share's signature is checked by, in order of their numbers.
    #[n(2)]
    verifying: Vec<minicbor::bytes::ByteVec>,
}

impl RootFile {
    /// A root in one piece.
    ///
    /// # Errors
    /// No random numbers.
    pub fn whole(realm: &Realm) -> Result<Self, VaultError> {
        let seed = random_key()?;
        let public = public_of(&seed);
        Ok(Self(Content { realm: realm.clone(), public, secret: Zeroizing::new(seed.to_vec()), share: None }))
    }

    /// A root in `of` shares, of which `needed` sign.
    ///
    /// # Errors
    /// Fewer than two are needed, or more than there are.
    pub fn shares(realm: &Realm, needed: u16, of: u16) -> Result<Vec<Self>, VaultError> {
        if needed < 2 || needed > of || of > SHARES_MAX {
            return Err(VaultError::Shares("2 to 9 shares, of which at least 2 and at most all are needed"));
        }
        let dealt =
            frost_ed25519::keys::generate_with_dealer(of, needed, frost_ed25519::keys::IdentifierList::Default, Os);
        let (shares, group) = dealt.map_err(|_| VaultError::Shares("they could not be dealt"))?;
        let broken = |_| VaultError::Shares("a share does not fit its commitment");
        let public = group.verifying_key().serialize().map_err(broken)?;
        let public = public.try_into().map(PublicKey::Ed25519).map_err(|_| VaultError::Shares("no Ed25519 key"))?;
        let packages: Vec<KeyPackage> =
            shares.into_values().map(KeyPackage::try_from).collect::<Result<_, _>>().map_err(broken)?;
        let verifying = packages.iter().map(|package| Ok(package.verifying_share().serialize()?.into()));
        let verifying: Vec<_> = verifying.collect::<Result<_, frost_ed25519::Error>>().map_err(broken)?;
        let numbered = (1..).zip(&packages).map(|(number, package)| {
            let secret = Zeroizing::new(package.signing_share().serialize());
            let share = Some(Share { number, needed, verifying: verifying.clone() });
            Self(Content { realm: realm.clone(), public, secret, share })
        });
        Ok(numbered.collect())
    }

    /// Seals it into a file that is not there yet.
    ///
    /// # Errors
    /// A weak passphrase, or the file cannot be written.
    pub fn write(&self, to: &Path, passphrase: Passphrase) -> Result<(), VaultError> {
        passphrase.check_strength()?;
        let slot = Slot::new_passphrase(random()?);
        let key = slot.derive(&Unlock::Passphrase(passphrase), to)?;
        let slot = minicbor::to_vec(&slot).expect("encoding to memory does not fail");
        let plain = Zeroizing::new(minicbor::to_vec(&self.0).expect("encoding to memory does not fail"));
        let mut file = header(&slot);
        let sealed = wrap::seal(&key, Place { label: "realm root", context: &[&file] }, random()?, &plain);
        file.extend_from_slice(&sealed);
        durable::write(to, &file, Existing::Refuse)
    }

    /// Opens a file that [`write`](Self::write) made.
    ///
    /// # Errors
    /// Damaged, or another passphrase.
    pub fn read(path: &Path, passphrase: Passphrase) -> Result<Self, VaultError> {
        let damaged = |why| VaultError::Damaged { path: path.into(), why };
        let meta = fs::metadata(path).map_err(VaultError::io("read", path))?;
        if meta.len() > FILE_BYTES_MAX {
            return Err(damaged("it is larger than any root"));
        }
        let bytes = fs::read(path).map_err(VaultError::io("read", path))?;
        let cut = || damaged("it is cut short");
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
        if magic != MAGIC {
            return Err(damaged("it does not begin like a realm root"));
        }
        let (format, rest) = rest.split_first().ok_or_else(cut)?;
        if *format != FORMAT {
            return Err(VaultError::Newer { path: path.into(), format: *format });
        }
        let (len, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let len = u32::from_be_bytes(*len) as usize;
        if len > SLOT_BYTES_MAX || len > rest.len() {
            return Err(cut());
        }
        let (slot, sealed) = rest.split_at(len);
        let header = header(slot);
        let slot: Slot = minicbor::decode(slot).map_err(|_| damaged("its header cannot be decoded"))?;
        let key = slot.derive(&Unlock::Passphrase(passphrase), path)?;
        let plain = wrap::open(&key, Place { label: "realm root", context: &[&header] }, sealed);
        let plain = plain.map_err(|why| match why {
            WrapError::NotThisKey => VaultError::WrongPassphrase { path: path.into() },
            WrapError::Corrupt => damaged("its content does not authenticate"),
            WrapError::Short => cut(),
        })?;
        let content: Content = minicbor::decode(&plain).map_err(|_| damaged("its content cannot be decoded"))?;
        if content.secret.len() != 32 {
            return Err(damaged("its secret has not 32 bytes"));
        }
        Ok(Self(content))
    }

    /// Whose root.
    pub fn realm(&self) -> &Realm {
        &self.0.realm
    }

    /// What its signatures are checked by.
    pub fn public(&self) -> PublicKey {
        self.0.public
    }

    /// How many files of this root must come together.
    pub fn needed(&self) -> u16 {
        self.0.share.as_ref().map_or(1, |share| share.needed)
    }
}

/// Signs with a root: one whole, or as many shares as it needs.
///
/// # Errors
/// They are not of one root, or too few.
pub fn sign(files: &[RootFile], message: &[u8]) -> Result<[u8; 64], VaultError> {
    let wrong = |why| Err(VaultError::Shares(why));
    let Some(first) = files.first() else { return wrong("no root was given") };
    if files.iter().any(|file| (file.realm(), file.public()) != (first.realm(), first.public())) {
        return wrong("they are not of one root");
    }
    let signature = match &first.0.share {
        None => {
            let mut seed = Zeroizing::new([0; 32]);
            seed.copy_from_slice(&first.0.secret);
            pair(&seed).sign(message).as_ref().to_vec()
        }
        Some(share) => {
            let shares: Vec<(&Share, &[u8])> =
                files.iter().filter_map(|file| Some((file.0.share.as_ref()?, file.0.secret.as_slice()))).collect();
            if shares.iter().any(|(other, _)| (other.needed, &other.verifying) != (share.needed, &share.verifying)) {
                return wrong("they were not dealt together");
            }
            together(&shares, &first.public(), message).map_err(|_| {
                VaultError::Shares("these shares make no signature: too few, one twice, or one is wrong")
            })?
        }
    };
    match <[u8; 64]>::try_from(signature) {
        // Whatever made it, it counts only if everybody else will believe it.
        Ok(signature) if first.public().signed(message, &signature) => Ok(signature),
        _ => wrong("what they signed does not verify"),
    }
}

/// Signs the next manifest.
///
/// # Errors
/// As [`sign`], or it is of another realm.
pub fn sign_manifest(files: &[RootFile], manifest: Manifest) -> Result<SignedManifest, VaultError> {
    if files.iter().any(|file| *file.realm() != manifest.realm) {
        return Err(VaultError::Shares("the manifest is of another realm"));
    }
    let signature = sign(files, &manifest.to_be_signed())?;
    Ok(SignedManifest { manifest, signature })
}

/// Both rounds of FROST, for shares that are all here.
fn together(shares: &[(&Share, &[u8])], public: &PublicKey, message: &[u8]) -> Result<Vec<u8>, frost_ed25519::Error> {
    let group = VerifyingKey::deserialize(public.as_bytes())?;
    let needed = shares.first().map_or(u16::MAX, |(share, _)| share.needed);
    let mut verifying = BTreeMap::new();
    for (number, bytes) in (1_u16..).zip(shares.first().map_or(&[][..], |(share, _)| &share.verifying)) {
        verifying.insert(Identifier::try_from(number)?, VerifyingShare::deserialize(bytes)?);
    }
    let (mut nonces, mut commitments, mut packages) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (share, secret) in shares {
        let number = Identifier::try_from(share.number)?;
        let signing = SigningShare::deserialize(secret)?;
        let own = verifying.get(&number).copied().ok_or(frost_ed25519::Error::UnknownIdentifier)?;
        let (nonce, commitment) = round1::commit(&signing, &mut Os);
        nonces.insert(number, nonce);
        commitments.insert(number, commitment);
        packages.insert(number, KeyPackage::new(number, signing, own, group, needed));
    }
    let package = SigningPackage::new(commitments, message);
    let mut signed = BTreeMap::new();
    for (number, nonce) in &nonces {
        signed.insert(*number, round2::sign(&package, nonce, &packages[number])?);
    }
    let all = PublicKeyPackage::new(verifying, group, Some(needed));
    frost_ed25519::aggregate(&package, &signed, &all)?.serialize()
}

fn header(slot: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &[FORMAT], &(slot.len() as u32).to_be_bytes(), slot].concat()
}

/// The operating system's generator, as FROST asks for one. It stops rather
/// than give predictable numbers.
struct Os;

impl RngCore for Os {
    fn next_u32(&mut self) -> u32 {
        rand_core::impls::next_u32_via_fill(self)
    }
    fn next_u64(&mut self) -> u64 {
        rand_core::impls::next_u64_via_fill(self)
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        rand::fill(dest).expect("the operating system gives random numbers");
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Os {}

mod secret_cbor {
    use minicbor::{Decoder, Encoder, decode::Error as DecodeError, encode::Error as EncodeError, encode::Write};
    use zeroize::Zeroizing;

    pub(super) fn encode<C, W: Write>(
        secret: &Zeroizing<Vec<u8>>,
        e: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        e.bytes(secret)?;
        Ok(())
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Zeroizing<Vec<u8>>, DecodeError> {
        Ok(Zeroizing::new(d.bytes()?.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm() -> Realm {
        Realm::parse("main").unwrap()
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn any_two_of_three_shares_make_a_plain_ed25519_signature_and_one_makes_none() {
        let mut shares = RootFile::shares(&realm(), 2, 3).unwrap();
        let public = shares[0].public();
        let message = b"what the root says";
        for away in 0..3 {
            let gone = shares.remove(away);
            for order in [false, true] {
                if order {
                    shares.reverse();
                }
                let signature = sign(&shares, message).unwrap();
                // By a library that knows nothing of shares.
                assert!(public.signed(message, &signature));
                assert!(!public.signed(b"something else", &signature));
            }
            shares.reverse();
            assert!(sign(&shares[..1], message).is_err());
            shares.insert(away, gone);
        }
        assert!(sign(&shares, message).is_ok(), "all three");
        let others = RootFile::shares(&realm(), 2, 3).unwrap();
        let mixed: Vec<RootFile> = shares.into_iter().take(1).chain(others.into_iter().skip(1).take(1)).collect();
        assert!(sign(&mixed, message).is_err(), "shares of two roots");
        for (needed, of) in [(1, 3), (3, 2), (2, 10), (0, 0)] {
            assert!(RootFile::shares(&realm(), needed, of).is_err());
        }
    }

    #[test]
    fn a_share_twice_or_changed_makes_no_signature() {
        let mut shares = RootFile::shares(&realm(), 2, 3).unwrap();
        let copy = RootFile(Content {
            realm: realm(),
            public: shares[0].public(),
            secret: shares[0].0.secret.clone(),
            share: shares[0].0.share.clone(),
        });
        assert!(sign(&[copy, shares.remove(0)], b"m").is_err());
        shares[0].0.secret[0] ^= 1;
        assert!(sign(&shares, b"m").is_err());
    }

    #[test]
    fn a_root_file_opens_with_its_passphrase_only_and_every_byte_of_it_matters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        let root = RootFile::whole(&realm()).unwrap();
        assert!(matches!(root.write(&path, passphrase("short")), Err(VaultError::WeakPassphrase { .. })));
        root.write(&path, passphrase("correct horse battery")).unwrap();
        assert!(root.write(&path, passphrase("correct horse battery")).is_err(), "it is not overwritten");
        let back = RootFile::read(&path, passphrase("correct horse battery")).unwrap();
        assert_eq!((back.realm(), back.public(), back.needed()), (root.realm(), root.public(), 1));
        assert_eq!(sign(&[back], b"m").unwrap(), sign(&[root], b"m").unwrap());
        let refused = RootFile::read(&path, passphrase("wrong horse battery"));
        assert!(matches!(refused, Err(VaultError::WrongPassphrase { .. })));
        let good = fs::read(&path).unwrap();
        for at in [0, 8, 12, 15, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(RootFile::read(&path, passphrase("correct horse battery")).is_err(), "byte {at}");
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(RootFile::read(&path, passphrase("correct horse battery")).is_err());
    }
}
