//! What a start prints: where things are and lines that can be pasted.

use crate::cli::Output;
use crate::installation::{Installation, NewKey};

/// Prints it; once more than usual at the first start.
pub fn announce(installation: &Installation, first_start: bool, output: &Output) {
    let config = installation.config();
    let dir = installation.dir().display().to_string();
    let endpoint = format!("http://{}", config.s3.addr);
    if output.is_json() {
        output.line(
            &serde_json::json!({
                "endpoint": endpoint,
                "admin": format!("http://{}", config.admin.addr),
                "auth": config.auth.addr.map(|addr| format!("http://{addr}")),
                "data": dir,
                "credentials": format!("{dir}/credentials"),
                "log_origin": installation.log().verifier_key().name(),
            })
            .to_string(),
        );
        return;
    }
    output.heading("Ringfence is ready");
    output.field("S3 endpoint", &endpoint);
    output.field("admin", &format!("http://{}  (healthz, readyz, metrics, log/)", config.admin.addr));
    if let Some(addr) = config.auth.addr {
        output.field("sessions of other services", &format!("http://{addr}  (auth, token)"));
    }
    output.field("data", &dir);
    output.field("config", &format!("{dir}/{}", crate::config::FILE));
    output.field("credentials", &format!("{dir}/credentials  (profile `default`)"));
    for site in &config.site {
        let kind = format!("{:?}", site.kind).to_lowercase();
        let place = site
            .path
            .as_ref()
            .map(|path| installation.dir().join(path).display().to_string())
            .or_else(|| Some(format!("{} {}", site.provider, site.bucket.as_deref()?)))
            .unwrap_or_default();
        output.field(&format!("site {}", site.id), &format!("{kind}, {place}"));
    }
    if first_start && let Some(NewKey { id, secret }) = installation.first_credentials() {
        output.heading("Credentials of tenant `default` (shown once; they stay in the credentials file)");
        output.field("key id", id.as_str());
        output.field("secret", &secret);
    }
    paste(output, &dir, &endpoint, &config.s3.addr.to_string());
    if installation.vault().is_development() {
        output.say("");
        output.warn(
            "the keyring is unlocked by the development key file inside the data directory: \
             who can read the directory can open everything. See `[keys]` in ringfence.toml",
        );
    }
    for warning in installation.session_key_warnings() {
        output.warn(&warning);
    }
    for warning in installation.key_warnings() {
        output.warn(&warning);
    }
    if first_start {
        output.warn(
            "lost keys are lost data. Back them up now, and keep the file elsewhere: \
             ringfence keys backup FILE",
        );
    }
    output.say("\nCtrl-C drains and stops.");
}

fn paste(output: &Output, dir: &str, endpoint: &str, addr: &str) {
    output.heading("aws-cli");
    output.say(&format!("  export AWS_SHARED_CREDENTIALS_FILE={dir}/credentials AWS_DEFAULT_REGION=us-east-1"));
    output.say(&format!("  aws --endpoint-url {endpoint} s3 mb s3://first"));
    output.say(&format!("  aws --endpoint-url {endpoint} s3 cp README.md s3://first/"));
    output.heading("rclone");
    output.say(&format!(
        "  AWS_SHARED_CREDENTIALS_FILE={dir}/credentials rclone ls \
         \":s3,provider=Other,env_auth,endpoint='http://{addr}',region=us-east-1:first\""
    ));
    output.heading("boto3");
    output.say(&format!(
        "  AWS_SHARED_CREDENTIALS_FILE={dir}/credentials python3 -c \"import boto3; \
         print(boto3.client('s3', endpoint_url='{endpoint}', region_name='us-east-1').list_buckets()['Buckets'])\""
    ));
}
