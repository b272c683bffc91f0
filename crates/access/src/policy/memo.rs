//! The memory of decisions under one policy epoch.
//!
//! A key holds every fact the world of a decision is built from, compared in
//! full: two requests share an entry only if no policy could tell them apart.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use quick_cache::Equivalent;
use ringfence_format::names::{BucketName, Label, ObjectKey, Principal, Realm, SiteId, Tenant};

use super::Act;
use super::vocabulary::Uses;
use super::world::{Asker, actor_name};
use crate::ask::{Ask, On};

/// What an access decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct AccessRef<'a> {
    act: Act,
    op: &'static str,
    actor: &'static str,
    tenant: &'a Tenant,
    realm: &'a Realm,
    principal: &'a Principal,
    source: Option<IpAddr>,
    on: u8,
    owner: Option<&'a Tenant>,
    bucket: Option<(&'a BucketName, Option<&'a SiteId>)>,
    role: Option<&'a Principal>,
    key: Option<&'a ObjectKey>,
    label: &'a Label,
    from: Option<&'a Label>,
}

impl<'a> AccessRef<'a> {
    pub(super) fn new(act: Act, asker: Asker<'a>, ask: &'a Ask, label: &'a Label, uses: Uses) -> Self {
        Self {
            act,
            op: ask.op,
            actor: actor_name(asker.actor),
            tenant: asker.tenant,
            realm: asker.realm,
            principal: asker.principal,
            source: asker.ip.filter(|_| uses.source),
            on: match ask.on {
                On::Installation => 0,
                On::Tenant(_) => 1,
                On::Bucket(_) => 2,
                On::Object(..) => 3,
                On::Role(..) => 4,
            },
            owner: ask.owner(),
            bucket: ask.bucket().map(|bucket| (&bucket.name, bucket.pin.as_ref())),
            role: ask.role(),
            key: ask.key().filter(|_| uses.key),
            label,
            from: ask.lowered_from.as_ref(),
        }
    }

    pub(super) fn to_owned(self) -> AccessKey {
        AccessKey {
            act: self.act,
            op: self.op,
            actor: self.actor,
            tenant: self.tenant.clone(),
            realm: self.realm.clone(),
            principal: self.principal.clone(),
            source: self.source,
            on: self.on,
            owner: self.owner.cloned(),
            bucket: self.bucket.map(|(name, pin)| (name.clone(), pin.cloned())),
            role: self.role.cloned(),
            key: self.key.cloned(),
            label: self.label.clone(),
            from: self.from.cloned(),
        }
    }
}

/// [`AccessRef`], kept.
#[derive(Clone)]
pub(super) struct AccessKey {
    act: Act,
    op: &'static str,
    actor: &'static str,
    tenant: Tenant,
    realm: Realm,
    principal: Principal,
    source: Option<IpAddr>,
    on: u8,
    owner: Option<Tenant>,
    bucket: Option<(BucketName, Option<SiteId>)>,
    role: Option<Principal>,
    key: Option<ObjectKey>,
    label: Label,
    from: Option<Label>,
}

impl AccessKey {
    fn borrowed(&self) -> AccessRef<'_> {
        AccessRef {
            act: self.act,
            op: self.op,
            actor: self.actor,
            tenant: &self.tenant,
            realm: &self.realm,
            principal: &self.principal,
            source: self.source,
            on: self.on,
            owner: self.owner.as_ref(),
            bucket: self.bucket.as_ref().map(|(name, pin)| (name, pin.as_ref())),
            role: self.role.as_ref(),
            key: self.key.as_ref(),
            label: &self.label,
            from: self.from.as_ref(),
        }
    }
}

/// What a placement decision depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct PlaceRef<'a> {
    pub(super) tenant: &'a Tenant,
    pub(super) bucket: &'a BucketName,
    pub(super) pin: Option<&'a SiteId>,
    pub(super) label: &'a Label,
}

impl PlaceRef<'_> {
    pub(super) fn to_owned(self) -> PlaceKey {
        PlaceKey {
            tenant: self.tenant.clone(),
            bucket: self.bucket.clone(),
            pin: self.pin.cloned(),
            label: self.label.clone(),
        }
    }
}

/// [`PlaceRef`], kept.
#[derive(Clone)]
pub(super) struct PlaceKey {
    tenant: Tenant,
    bucket: BucketName,
    pin: Option<SiteId>,
    label: Label,
}

impl PlaceKey {
    fn borrowed(&self) -> PlaceRef<'_> {
        PlaceRef { tenant: &self.tenant, bucket: &self.bucket, pin: self.pin.as_ref(), label: &self.label }
    }
}

// Kept and borrowed keys hash and compare alike because the kept one always
// goes through the borrowed one.
macro_rules! kept {
    ($kept:ident, $borrowed:ident) => {
        impl Hash for $kept {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.borrowed().hash(state);
            }
        }
        impl PartialEq for $kept {
            fn eq(&self, other: &Self) -> bool {
                self.borrowed() == other.borrowed()
            }
        }
        impl Eq for $kept {}
        impl Equivalent<$kept> for $borrowed<'_> {
            fn equivalent(&self, key: &$kept) -> bool {
                *self == key.borrowed()
            }
        }
    };
}

kept!(AccessKey, AccessRef);
kept!(PlaceKey, PlaceRef);
