//! Who asks: the secrets SigV4 is checked with, the one place that makes a
//! caller of a verified signature, and which bucket a host name means.

use std::sync::Arc;

use ringfence_access::caller::{Credential, VerifiedSignature, authenticate};
use ringfence_access::keys::KeyState;
use ringfence_access::policy::S3_OPS;
use ringfence_format::names::KeyId;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::host::{S3Host, VirtualHost};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::scope::Scope;
use crate::installation::Installation;
use crate::sessions::Live;

/// Gives the library the secret of a key, for as long as one check lasts.
pub(super) struct Secrets {
    pub(super) at: Arc<Installation>,
}

tokio::task_local! {
    /// The session whose token came with the request that is being answered:
    /// the library asks for a secret by the id of a key alone.
    pub(super) static LIVE: Option<Arc<Live>>;
}

#[async_trait::async_trait]
impl S3Auth for Secrets {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let unknown = || S3Error::new(S3ErrorCode::InvalidAccessKeyId);
        let id = KeyId::parse(access_key).map_err(|_| unknown())?;
        if let Some(live) = LIVE.try_with(Clone::clone).ok().flatten() {
            // With a session's token only that session's key may sign.
            let own = live.key_id().is_some_and(|own| own == id);
            let secret = live.secret.as_ref().filter(|_| own).ok_or_else(unknown)?;
            return Ok(SecretKey::from(secret.expose_secret()));
        }
        let entry = self.at.keys.find(&id).filter(|entry| entry.state == KeyState::Active).ok_or_else(unknown)?;
        let row = self.at.catalog().static_key(&id).ok_or_else(unknown)?;
        let secret = self.at.vault.secret_for(&entry.realm, &entry.tenant, &id, &row.row.sealed_secret);
        let secret = secret.map_err(|error| {
            tracing::error!("the secret of `{id}` cannot be opened: {error}");
            S3Error::new(S3ErrorCode::InternalError)
        })?;
        Ok(SecretKey::from(secret.expose_secret()))
    }
}

/// Turns a verified signature into a caller, before anything is looked up.
pub(super) struct Authenticate {
    pub(super) at: Arc<Installation>,
}

#[async_trait::async_trait]
impl S3Access for Authenticate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let op = name_of(cx.s3_op().name());
        let (bucket, key) = (cx.s3_path().get_bucket_name(), cx.s3_path().get_object_key());
        let claimed = cx.credentials().map(|credentials| credentials.access_key.clone());
        let (bucket, key) = (bucket.map(str::to_owned), key.map(str::to_owned));
        let foreign = foreign_parameter(op, cx.uri().query().unwrap_or_default());
        let scope = cx.extensions_mut().get::<Arc<Scope>>().cloned();
        let scope = scope.ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))?;
        scope.asks(op, bucket.as_deref(), key.as_deref());
        let denied = || S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied");
        let id = claimed.and_then(|id| KeyId::parse(&id).ok()).ok_or_else(denied)?;
        // The library has just verified SigV4 with the secret of this key.
        let signed = VerifiedSignature::sigv4_was_checked_by_the_wire_layer;
        let credential = match scope.live() {
            Some(live) => {
                let claims = live.session.claims();
                let signature = signed(id, claims.tenant.clone(), claims.realm.clone());
                Credential::Session(signature, live.session.clone())
            }
            None => {
                let entry = self.at.keys.find(&id).ok_or_else(|| S3Error::new(S3ErrorCode::InvalidAccessKeyId))?;
                Credential::StaticKey(signed(id, entry.tenant.clone(), entry.realm.clone()))
            }
        };
        match authenticate(credential, &self.at.keys, scope.origin().clone()) {
            Ok(caller) => {
                if let Some(id) = caller.key_id().filter(|_| caller.session().is_none()) {
                    self.at.key_use.used(id, self.at.clock.now_us());
                }
                scope.is(caller);
                built(op, foreign)
            }
            Err(refused) => {
                let code = refused.answer().1;
                scope.is_refused(refused.during(op));
                Err(S3Error::new(S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::AccessDenied)))
            }
        }
    }
}

/// The operation as records and policies name it; what S3 has and we do not
/// is `s3:Other`.
fn name_of(op: &str) -> &'static str {
    S3_OPS.into_iter().find(|known| known.strip_prefix("s3:") == Some(op)).unwrap_or("s3:Other")
}

/// What is not built answers so before its body is looked at, whatever it
/// says: never a silent 200, and no complaint about details either.
fn built(op: &'static str, foreign: bool) -> S3Result<()> {
    const NOT_YET: [&str; 5] =
        ["s3:Other", "s3:GetBucketVersioning", "s3:PutBucketVersioning", "s3:GetObjectAttributes", "s3:PostObject"];
    match NOT_YET.contains(&op) || foreign {
        true => Err(S3Error::with_message(S3ErrorCode::NotImplemented, "this operation is not implemented")),
        false => Ok(()),
    }
}

/// Whether a request asks for a sub-resource that the router does not know.
/// `DELETE /bucket?something` must not become `DELETE /bucket`: for the
/// operations that a path alone selects, only their own parameters pass.
fn foreign_parameter(op: &str, query: &str) -> bool {
    let own: &[&str] = match op {
        "s3:GetObject" | "s3:HeadObject" => &["versionId", "partNumber", "response-"],
        "s3:DeleteObject" => &["versionId"],
        "s3:PutObject" | "s3:CopyObject" | "s3:CreateBucket" | "s3:DeleteBucket" | "s3:HeadBucket" => &[],
        "s3:ListObjects" | "s3:ListBuckets" => &[
            "prefix",
            "delimiter",
            "marker",
            "max-keys",
            "encoding-type",
            "max-buckets",
            "continuation-token",
            "bucket-region",
        ],
        _ => return false,
    };
    let names = query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty());
    let signature =
        |name: &str| name == "x-id" || name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"));
    let is_own = |name: &str| own.iter().any(|own| *own == name || (own.ends_with('-') && name.starts_with(own)));
    // A parameter with a value that nobody knows is ignored on reads, as S3
    // does; without one it is a sub-resource.
    let harmless = |name: &str| {
        let reads =
            matches!(op, "s3:GetObject" | "s3:HeadObject" | "s3:ListObjects" | "s3:ListBuckets" | "s3:HeadBucket");
        reads
            && query
                .split('&')
                .any(|pair| pair.split_once('=').is_some_and(|(n, value)| n == name && !value.is_empty()))
    };
    names.into_iter().any(|name| !signature(name) && !is_own(name) && !harmless(name))
}

/// Virtual-host style for the configured domains, path style for every other
/// host name: a name in front of an unknown domain is no bucket.
pub(super) struct Hosts {
    pub(super) domains: Vec<String>,
}

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        for domain in &self.domains {
            let bucket = name.strip_suffix(domain.as_str()).and_then(|rest| rest.strip_suffix('.'));
            if let Some(bucket) = bucket.filter(|bucket| !bucket.is_empty()) {
                return Ok(VirtualHost::new(domain).with_bucket(bucket));
            }
        }
        Ok(VirtualHost::new(host))
    }
}
