//! Requests and entities as Cedar sees them.
//!
//! Built anew for each decision that is not remembered; who asks and what
//! about is all there is in it, beside the labels and sites of the setting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::LazyLock;

use cedar_policy::{
    Context, Entities, Entity, EntityId, EntityTypeName, EntityUid, Request, RestrictedExpression as Expression,
};
use ringfence_format::names::{Label, Principal, Realm, SiteId, Tenant};
use ringfence_format::record::ActorKind;

use super::Act;
use super::set::{PolicySet, VALIDATOR};
use crate::ask::{Ask, InBucket, On};
use crate::caller::Who;
use crate::setting::Setting;

/// Who asks, as far as policies can tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    pub(crate) tenant: &'a Tenant,
    pub(crate) realm: &'a Realm,
    pub(crate) principal: &'a Principal,
    pub(crate) actor: ActorKind,
    pub(crate) ip: Option<IpAddr>,
}

impl<'a> From<&'a Who> for Asker<'a> {
    fn from(who: &'a Who) -> Self {
        let Who { tenant, realm, principal, actor, origin, .. } = who;
        Self { tenant, realm, principal, actor: *actor, ip: origin.ip }
    }
}

/// A request and everything it is about; an error says what the schema has no
/// room for, such as a `Read` of a tenant.
pub(super) type World = Result<(Request, Entities), String>;

/// The world of an access decision.
pub(super) fn of_access(set: &PolicySet, act: Act, asker: Asker<'_>, ask: &Ask, label: &Label) -> World {
    let tenant = uid("Tenant", asker.tenant.as_str());
    let principal = uid("Principal", &format!("{}/{}", asker.tenant, asker.principal));
    let mut entities = vec![
        Entity::with_uid(tenant.clone()),
        entity(
            &principal,
            [tenant.clone()],
            [
                ("tenant", Expression::new_entity_uid(tenant)),
                ("realm", text(asker.realm.as_str())),
                ("name", text(asker.principal.as_str())),
                ("actor", text(actor_name(asker.actor))),
            ],
        )?,
    ];
    let resource = resource(ask, set.uses().key, &mut entities)?;
    let mut context = vec![("op".to_owned(), text(ask.op))];
    context.extend(asker.ip.map(|ip| ("source".to_owned(), Expression::new_ip(ip.to_canonical().to_string()))));
    if matches!(act, Act::Read | Act::Write | Act::Delete | Act::LowerLabel) {
        context.push(("label".to_owned(), Expression::new_entity_uid(label_uid(label))));
    }
    if let (Act::LowerLabel, Some(from)) = (act, &ask.lowered_from) {
        context.push(("from".to_owned(), Expression::new_entity_uid(label_uid(from))));
    }
    finish(set, act, principal, resource, context, entities)
}

/// The world of one placement: may data of this bucket, with this label, lie there?
pub(super) fn of_place(set: &PolicySet, bucket: &InBucket, label: &Label, site: &SiteId) -> World {
    let mut entities = vec![];
    let bucket_uid = add_bucket(bucket, &mut entities)?;
    let context = vec![
        ("label".to_owned(), Expression::new_entity_uid(label_uid(label))),
        ("bucket".to_owned(), Expression::new_entity_uid(bucket_uid)),
    ];
    let tenant = uid("Tenant", bucket.tenant.as_str());
    finish(set, Act::Place, tenant, uid("Site", site.as_str()), context, entities)
}

/// What all requests share.
pub(super) fn labels_and_sites(setting: &Setting) -> Entities {
    let mut less_strict: Option<EntityUid> = None;
    let labels = setting.labels().iter().enumerate().map(|(rank, label)| {
        let rank = [("rank", Expression::new_long(rank as i64))];
        let this = label_uid(label);
        let entity = entity(&this, less_strict.replace(this.clone()), rank);
        entity.expect("a number is a value")
    });
    let sites = setting.sites().iter().map(|site| {
        entity(
            &uid("Site", site.id.as_str()),
            None,
            [
                ("kind", text(site.kind.as_str())),
                ("jurisdiction", text(&site.jurisdiction)),
                ("provider", text(&site.provider)),
                ("dedicated", Expression::new_bool(site.dedicated)),
                ("tags", Expression::new_set(site.tags.iter().map(|tag| text(tag)))),
            ],
        )
        .expect("texts and truth values are values")
    });
    Entities::from_entities(labels.chain(sites), Some(VALIDATOR.schema())).expect("the setting names each once")
}

/// As policies write it.
pub(super) fn actor_name(actor: ActorKind) -> &'static str {
    match actor {
        ActorKind::StaticKey => "static-key",
        ActorKind::Operator => "operator",
        ActorKind::System => "system",
        ActorKind::Anonymous => "anonymous",
    }
}

fn finish(
    set: &PolicySet,
    act: Act,
    principal: EntityUid,
    resource: EntityUid,
    context: Vec<(String, Expression)>,
    entities: Vec<Entity>,
) -> World {
    let schema = Some(VALIDATOR.schema());
    let context = Context::from_pairs(context).map_err(|e| e.to_string())?;
    let action = uid("Action", act.as_str());
    let request = Request::new(principal, action, resource, context, schema).map_err(|e| e.to_string())?;
    let entities = set.base().clone().add_entities(entities, schema).map_err(|e| e.to_string())?;
    Ok((request, entities))
}

fn resource(ask: &Ask, with_key: bool, entities: &mut Vec<Entity>) -> Result<EntityUid, String> {
    match &ask.on {
        On::Installation => Ok(uid("Installation", "ringfence")),
        On::Tenant(tenant) => Ok(add_tenant(tenant, entities)),
        On::Role(tenant, role) => {
            let owner = add_tenant(tenant, entities);
            let this = uid("Role", &format!("{tenant}/{role}"));
            let facts = [("tenant", Expression::new_entity_uid(owner.clone())), ("name", text(role.as_str()))];
            entities.push(entity(&this, [owner], facts)?);
            Ok(this)
        }
        On::Bucket(bucket) => add_bucket(bucket, entities),
        On::Object(bucket, key) => {
            // What no policy looks at is left out, so that decisions about
            // objects of one bucket can share one memory.
            let key = if with_key { key.as_str() } else { "" };
            let parent = add_bucket(bucket, entities)?;
            let this = uid("Object", &format!("{}/{key}", bucket.name));
            let tenant = uid("Tenant", bucket.tenant.as_str());
            entities.push(entity(
                &this,
                [parent.clone()],
                [
                    ("tenant", Expression::new_entity_uid(tenant)),
                    ("bucket", Expression::new_entity_uid(parent)),
                    ("key", text(key)),
                ],
            )?);
            Ok(this)
        }
    }
}

fn add_tenant(tenant: &Tenant, entities: &mut Vec<Entity>) -> EntityUid {
    let this = uid("Tenant", tenant.as_str());
    // Who asks is often the owner; the same entity twice would be an error.
    if !entities.iter().any(|entity| entity.uid() == this) {
        entities.push(Entity::with_uid(this.clone()));
    }
    this
}

fn add_bucket(bucket: &InBucket, entities: &mut Vec<Entity>) -> Result<EntityUid, String> {
    let tenant = add_tenant(&bucket.tenant, entities);
    let this = uid("Bucket", bucket.name.as_str());
    let pin = bucket.pin.as_ref().map(|site| ("pin", Expression::new_entity_uid(uid("Site", site.as_str()))));
    let facts = [("tenant", Expression::new_entity_uid(tenant.clone()))].into_iter().chain(pin);
    entities.push(entity(&this, [tenant], facts)?);
    Ok(this)
}

fn entity(
    uid: &EntityUid,
    parents: impl IntoIterator<Item = EntityUid>,
    facts: impl IntoIterator<Item = (&'static str, Expression)>,
) -> Result<Entity, String> {
    let facts: HashMap<_, _> = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Entity::new(uid.clone(), facts, parents.into_iter().collect()).map_err(|e| e.to_string())
}

fn label_uid(label: &Label) -> EntityUid {
    uid("Label", label.as_str())
}

fn text(text: &str) -> Expression {
    Expression::new_string(text.to_owned())
}

fn uid(kind: &'static str, id: &str) -> EntityUid {
    static TYPES: LazyLock<HashMap<&'static str, EntityTypeName>> = LazyLock::new(|| {
        let kinds = ["Label", "Installation", "Tenant", "Principal", "Role", "Bucket", "Object", "Site", "Action"];
        kinds.map(|kind| (kind, kind.parse().expect("an identifier"))).into()
    });
    EntityUid::from_type_name_and_id(TYPES[kind].clone(), EntityId::new(id))
}
