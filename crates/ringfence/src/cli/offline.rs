//! Commands that need no server and make no administrative call.

use std::path::{Path, PathBuf};

use serde_json::json;

use ringfence_vault::{Passphrase, Vault};

use super::{Common, Failure, Kind, Output, passphrase};
use crate::config::{self, Config};
use crate::installation::{DataDir, Installation, unlock};

/// `ringfence config check`
pub fn config_check(common: &Common, file: Option<PathBuf>, output: &Output) -> Result<(), Failure> {
    let file = file.unwrap_or_else(|| common.data.join(config::FILE));
    let config = Config::load(&file)?;
    let checked = json!({
        "file": file.display().to_string(),
        "valid": true,
        "sites": config.site.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
    });
    output.answer(&checked, |o| {
        o.say(&format!("{}: valid, {} sites, {} labels", file.display(), config.site.len(), config.labels.order.len()));
    });
    Ok(())
}

/// `ringfence config schema`
pub fn config_schema(output: &Output) -> Result<(), Failure> {
    let schema = serde_json::to_string_pretty(&Config::schema()).map_err(Failure::internal)?;
    output.line(&schema);
    Ok(())
}

/// `ringfence keys restore`: into a data directory whose keyring is lost.
/// Nothing is read but the backup, so there is nothing to record: the first
/// start with these keys continues the log they sign.
pub fn keys_restore(common: &Common, file: &Path, output: &Output) -> Result<(), Failure> {
    let dir = DataDir::take(&common.data)?;
    let config = Installation::configure(&dir)?;
    let passphrase = Passphrase::new(passphrase::give()?.0);
    let unlock = unlock(dir.path(), &config)?;
    let vault = Vault::restore(file, passphrase, dir.path(), &unlock);
    let vault = vault.map_err(|e| Failure::new(Kind::Usage, e))?;
    let restored = json!({ "data": dir.path().display().to_string(), "development": vault.is_development() });
    output.answer(&restored, |o| {
        o.say(&format!("the keyring of `{}` is restored", dir.path().display()));
        o.say("next: `ringfence serve`, or `ringfence recover` first if the catalogue is lost too");
    });
    Ok(())
}
