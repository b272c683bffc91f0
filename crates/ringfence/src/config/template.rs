//! The configuration that the first start writes.

/// Two sites, four labels, one tenant: public data to the cloud, everything
/// else home, one copy each.
pub const FIRST: &str = r#"# Ringfence configuration. `ringfence config check` checks it, `ringfence config
# schema` prints its JSON schema, docs/config.md describes every field.
# RINGFENCE__SECTION__KEY in the environment overrides a value, for example
# RINGFENCE__S3__ADDR=127.0.0.1:9400 or RINGFENCE__SITE__CLOUD__ENDPOINT=https://…

# The trust root of this installation. Do not change it once data exists.
realm = "home"

[s3]
addr = "127.0.0.1:9300"
# Base domains for virtual-host style requests (bucket.s3.example).
domains = ["localhost"]

[admin]
# /healthz, /readyz, /metrics and the public log under /log/.
addr = "127.0.0.1:9301"

[log]
# Space the log may take, in MiB.
budget_mib = 65536
# Days after which the fields of records go; that there was a record stays provable.
keep_access_days = 90
keep_control_days = 730

[keys]
provider = "file"
# Without one of these a development key file inside this directory unlocks the
# keyring: fine to try, no protection from who can read this directory.
# key_file = "/etc/ringfence/unlock.key"   # at least 32 unpredictable bytes
# passphrase = "env:RINGFENCE_PASSPHRASE"  # or "file:/run/secrets/ringfence"

# Sites store sealed chunks. `private` is home; `public` is somebody else's.
# jurisdiction: ISO 3166-1 code of the country whose law reaches it, ZZ = unknown.
[[site]]
id = "home"
kind = "private"
type = "directory"
path = "sites/home"
jurisdiction = "ZZ"
provider = "local"
dedicated = true

# A directory stands in until a real cloud is configured:
#   type = "s3"
#   provider = "aws"
#   endpoint = "https://s3.eu-central-1.amazonaws.com"
#   region = "eu-central-1"
#   bucket = "my-sealed-chunks"
#   access_key_id = "env:CLOUD_KEY_ID"
#   secret_access_key = "file:/etc/ringfence/cloud-secret"
[[site]]
id = "cloud"
kind = "public"
type = "directory"
path = "sites/cloud"
jurisdiction = "ZZ"
provider = "local"

[labels]
# From the least strict to the strictest. An object's label is its tag
# `ringfence-label`, else the strictest of its bucket's tag and the rules
# below, else its tenant's default, else the strictest of all.
order = ["public", "internal", "confidential", "restricted"]

# [[label_rule]]
# prefix = "hr/"
# label = "restricted"

[[tenant]]
name = "default"
default_label = "internal"

# Policy (policy.cedar) says which sites a label may lie at; these tables
# choose among the allowed ones, in order.
[placement.public]
prefer = ["cloud", "home"]
copies = 1

[placement.internal]
prefer = ["home"]
copies = 1

[placement.confidential]
prefer = ["home"]
copies = 1

[placement.restricted]
prefer = ["home"]
copies = 1

# Sessions: an identity provider's token is exchanged for short-lived keys
# (AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ENDPOINT_URL_STS in any AWS SDK);
# docs/operate/sessions.md goes through it.
# [[issuer]]
# name = "corp"
# url = "https://login.example.com/realms/corp"   # `iss`, exactly
# tenant = "default"
# audience = "ringfence"
# claims = ["groups"]
#
# [[role]]
# tenant = "default"
# name = "reader"                 # arn:ringfence:iam::default:role/reader
# issuers = ["corp"]
# subjects = ["*"]
# claims = { groups = "readers" }
# actions = ["s3:Get*", "s3:List*"]
# resources = ["*"]

[policy]
file = "policy.cedar"
# Edited, it takes effect at once, after its diff is recorded; false waits for
# `ringfence policy apply` or the next start.
watch = true

# Other services ask whether a request's session holds (docs/operate/forward-auth.md).
# [auth]
# addr = "127.0.0.1:9302"
# proxy = "nginx"

# Whom alarms are sent to until they are acknowledged (docs/operate/alarms.md).
# [alarm]
# webhook = "https://alarms.example/ringfence"
# secret = "env:RINGFENCE_ALARM_SECRET"   # whsec_ and base64 of 32 random bytes

[background]
sweep_every_s = 60
scrub_every_s = 604800
scrub_mib_per_s = 50
abort_uploads_days = 7
trim_every_s = 86400
"#;
