//! What a session's holder has: a secret that is derived and never stored, and
//! what another site is given of it.

use aws_lc_rs::{hkdf, hmac};
use ringfence_format::names::{KeyId, Realm, Tenant};
use ringfence_format::session::pre_authentication_encoding;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::secret::SecretText;
use crate::vault::Vault;

/// Characters of a session's secret: 200 bits.
const SECRET_CHARS: usize = 40;
/// No character that a shell or a header minds, none that looks like another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

impl Vault {
    /// The secret with which a session's holder signs requests (SigV4): HKDF-
    /// SHA-256 under the tenant's key for access secrets, over realm, tenant,
    /// access key id and session id.
    ///
    /// # Errors
    /// The tenant has no keys here, or its root key was withdrawn.
    pub fn session_secret(
        &self,
        realm: &Realm,
        tenant: &Tenant,
        key: &KeyId,
        session: &[u8; 16],
    ) -> Result<SecretText, VaultError> {
        let mut bytes = Zeroizing::new([0; SECRET_CHARS]);
        let names = [realm.as_str().as_bytes(), tenant.as_str().as_bytes(), key.as_str().as_bytes(), session];
        self.derive(realm, tenant, b"ringfence session secret 0", &names, &mut *bytes)?;
        // 32 divides 256: no character is likelier than another.
        let text = bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect();
        Ok(SecretText::new(Zeroizing::new(text)))
    }

    /// SigV4's signing key of a session for one day and region and the service
    /// `s3` (ruling 26): all that the gateway of that region is given. `date`
    /// is `YYYYMMDD`.
    ///
    /// # Errors
    /// As [`session_secret`](Self::session_secret).
    pub fn session_signing_key(
        &self,
        realm: &Realm,
        tenant: &Tenant,
        key: &KeyId,
        session: &[u8; 16],
        date: &str,
        region: &str,
    ) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        let secret = self.session_secret(realm, tenant, key, session)?;
        let first = Zeroizing::new([b"AWS4", secret.expose_secret().as_bytes()].concat());
        let date = mac(&first, date);
        Ok(mac(&*mac(&*mac(&*date, region), "s3"), "aws4_request"))
    }

    /// What stands for a tenant in public leaves: the same each time, and told
    /// apart from others only by who has the tenant's key.
    ///
    /// # Errors
    /// As [`session_secret`](Self::session_secret).
    pub fn tenant_pseudonym(&self, realm: &Realm, tenant: &Tenant) -> Result<[u8; 16], VaultError> {
        let mut pseudonym = [0; 16];
        let names = [realm.as_str().as_bytes(), tenant.as_str().as_bytes()];
        self.derive(realm, tenant, b"ringfence tenant pseudonym 0", &names, &mut pseudonym)?;
        Ok(pseudonym)
    }

    fn derive(
        &self,
        realm: &Realm,
        tenant: &Tenant,
        label: &[u8],
        names: &[&[u8]],
        out: &mut [u8],
    ) -> Result<(), VaultError> {
        let under = self.access_key(realm, tenant)?;
        let info = pre_authentication_encoding(&[&[label], names].concat());
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"ringfence session")
            .extract(&**under)
            .expand(&[&info], Length(out.len()))
            .and_then(|okm| okm.fill(out))
            .expect("40 bytes are within HKDF's limit");
        Ok(())
    }
}

/// AWS Signature Version 4, "Deriving a signing key": one HMAC-SHA-256.
fn mac(key: &[u8], data: &str) -> Zeroizing<[u8; 32]> {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes());
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(tag.as_ref());
    out
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
