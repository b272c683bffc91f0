//! `Ask`: what somebody wants to do, and on what.

use ringfence_format::names::{BucketId, BucketName, Label, ObjectKey, ObjectVersion, Principal, SiteId, Tenant};
use ringfence_format::record::Resource;
use ringfence_format::redo::Bucket;

/// What somebody wants to do, and on what: the question to
/// [`Engine::decide`](crate::policy::Engine::decide) and
/// [`Engine::place`](crate::policy::Engine::place), and later the resource of
/// the record.
///
/// ```
/// # use ringfence_access::Ask;
/// # use ringfence_format::names::*;
/// # fn ask(bucket: &ringfence_format::redo::Bucket, key: &ObjectKey, label: &Label, version: ObjectVersion) -> Ask {
/// Ask::on_object("s3:GetObject", bucket, key, label)
///     .version(version)
///     .record(|resource| resource.range = Some((0, 1023)))
/// # }
/// ```
#[must_use]
#[derive(Clone, Debug)]
pub struct Ask {
    pub(crate) op: &'static str,
    pub(crate) on: On,
    pub(crate) object: Option<ObjectVersion>,
    /// `None` where the act is about no label (lists, administration).
    pub(crate) label: Option<Label>,
    pub(crate) lowered_from: Option<Label>,
    pub(crate) resource: Resource,
}

/// On what.
#[derive(Clone, Debug)]
pub(crate) enum On {
    Installation,
    Tenant(Tenant),
    Role { tenant: Tenant, role: Principal, issuer: Option<Principal> },
    Bucket(InBucket),
    Object(InBucket, ObjectKey),
}

/// What policies may know of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct InBucket {
    pub(crate) tenant: Tenant,
    pub(crate) id: BucketId,
    pub(crate) name: BucketName,
    pub(crate) pin: Option<SiteId>,
}

impl From<&Bucket> for InBucket {
    fn from(bucket: &Bucket) -> Self {
        let Bucket { id, name, tenant, pin, .. } = bucket;
        Self { tenant: tenant.clone(), id: *id, name: name.clone(), pin: pin.clone() }
    }
}

impl Ask {
    /// About the installation itself: tenants, policies, sites, maintenance.
    pub fn on_installation(op: &'static str) -> Self {
        Self { op, on: On::Installation, object: None, label: None, lowered_from: None, resource: Resource::default() }
    }

    /// About a tenant: its buckets' names, its keys.
    pub fn on_tenant(op: &'static str, tenant: &Tenant) -> Self {
        Self { on: On::Tenant(tenant.clone()), ..Self::on_installation(op) }
    }

    /// About a role, for `Issue`. `issuer` is the entry of the identity
    /// provider whose token is shown, where one is.
    pub fn on_role(op: &'static str, tenant: &Tenant, role: &Principal, issuer: Option<&Principal>) -> Self {
        let on = On::Role { tenant: tenant.clone(), role: role.clone(), issuer: issuer.cloned() };
        let resource = Resource { detail: Some(format!("role {role}")), ..Resource::default() };
        Self { on, resource, ..Self::on_installation(op) }
    }

    /// About a bucket, which may be one that is about to be made. `label` is
    /// what [`LabelRules::of_bucket`](crate::labels::LabelRules::of_bucket) says.
    pub fn on_bucket(op: &'static str, bucket: &Bucket, label: &Label) -> Self {
        let resource = Resource { bucket: Some(bucket.name.clone()), ..Resource::default() };
        let on = On::Bucket(bucket.into());
        Self { on, label: Some(label.clone()), resource, ..Self::on_installation(op) }
    }

    /// About an object, which may be one that is about to be made. `label` is
    /// its effective label, or, where there is no such object, the one it
    /// would inherit.
    pub fn on_object(op: &'static str, bucket: &Bucket, key: &ObjectKey, label: &Label) -> Self {
        let resource = Resource {
            bucket: Some(bucket.name.clone()),
            key: Some(key.clone()),
            label: Some(label.clone()),
            ..Resource::default()
        };
        let on = On::Object(bucket.into(), key.clone());
        Self { on, label: Some(label.clone()), resource, ..Self::on_installation(op) }
    }

    /// Names the sealed thing: the vault opens and seals only what the permit names.
    pub fn version(mut self, version: ObjectVersion) -> Self {
        self.resource.version = Some(version.version);
        self.object = Some(version);
        self
    }

    /// For `LowerLabel`: the stricter label that is given up.
    pub fn lowering_from(mut self, from: &Label) -> Self {
        self.lowered_from = Some(from.clone());
        self
    }

    /// Says more for the record: ranges, sizes, prefixes, names.
    pub fn record(mut self, say: impl FnOnce(&mut Resource)) -> Self {
        say(&mut self.resource);
        self
    }

    /// Whose data; `None` for the installation.
    pub(crate) fn owner(&self) -> Option<&Tenant> {
        match &self.on {
            On::Installation => None,
            On::Tenant(tenant) | On::Role { tenant, .. } => Some(tenant),
            On::Bucket(bucket) | On::Object(bucket, _) => Some(&bucket.tenant),
        }
    }

    pub(crate) fn bucket(&self) -> Option<&InBucket> {
        match &self.on {
            On::Bucket(bucket) | On::Object(bucket, _) => Some(bucket),
            On::Installation | On::Tenant(_) | On::Role { .. } => None,
        }
    }

    pub(crate) fn role(&self) -> Option<&Principal> {
        match &self.on {
            On::Role { role, .. } => Some(role),
            _ => None,
        }
    }

    pub(crate) fn key(&self) -> Option<&ObjectKey> {
        match &self.on {
            On::Object(_, key) => Some(key),
            _ => None,
        }
    }
}
