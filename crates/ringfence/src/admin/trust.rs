//! `trust export`: all that others need to judge our sessions without us.

use std::fmt::Write as _;

use ringfence_access::authority::UNRECORDED;
use ringfence_format::session::Trust;
use serde_json::{Value, json};

use crate::cli::{Failure, Kind};
use crate::installation::Installation;
use crate::retention::time;

/// The trust file as text: log, quorum, roots, manifests and revocations in
/// force. It is read again before anybody gets it.
///
/// # Errors
/// What is in force does not fit together, or does not fit one file.
pub(super) async fn export(installation: &Installation) -> Result<Value, Failure> {
    let authority = installation.authority();
    let (mut roots, mut manifests) = (vec![], vec![]);
    for realm in authority.realms() {
        let pinned = authority.roots(&realm);
        let manifest = authority.manifest(&realm);
        // After a hand-over, the manifest in force is still under the root before.
        let root = match &manifest {
            Some(signed) => pinned.of_seq(signed.manifest.seq).copied(),
            None => pinned.in_force().map(|root| root.public),
        };
        roots.extend(root.map(|root| (realm, root)));
        manifests.extend(manifest);
    }
    // One that is not on record may yet be withdrawn; whoever asked for it has
    // no answer either.
    let revocations = authority.revocations();
    let revocations: Vec<_> = revocations.iter().filter(|(by, _)| *by != UNRECORDED).collect();
    let text = Trust::text(
        &policy(installation),
        roots.iter().map(|(realm, root)| (realm, root)),
        &manifests,
        revocations.iter().map(|(by, revocation)| (*by, revocation)),
    );
    text.parse::<Trust>().map_err(|e| Failure::new(Kind::Unavailable, format!("it would not be believed: {e}")))?;
    let quorum = installation.log().quorum();
    Ok(json!({
        "log": installation.log().verifier_key().to_string(),
        "size": installation.log().published_size(),
        "realms": roots.iter().map(|(realm, _)| realm).collect::<Vec<_>>(),
        "manifests": manifests.len(),
        "revocations": revocations.len(),
        "required": quorum.as_ref().map_or(0, |quorum| quorum.k()),
        "witnesses": quorum.as_ref().map_or(0, |quorum| quorum.witnesses().len()),
        "text": text,
    }))
}

/// Which log is believed, and who must have cosigned, as C2SP tlog-policy.
fn policy(installation: &Installation) -> String {
    let log = installation.log();
    let mut text = format!("# of {}, {} records\n", time(installation.clock().now_us()), log.published_size());
    let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("into memory");
    line(format_args!("log {}", log.verifier_key()));
    let Some(quorum) = log.quorum() else {
        line(format_args!("quorum none"));
        return text;
    };
    // Names of our own: those in the keys may be any, such as that of the group.
    let names: Vec<String> = (1..=quorum.witnesses().len()).map(|n| format!("w{n}")).collect();
    for (name, key) in names.iter().zip(quorum.witnesses()) {
        line(format_args!("witness {name} {key}"));
    }
    line(format_args!("group witnesses {} {}", quorum.k(), names.join(" ")));
    line(format_args!("quorum witnesses"));
    text
}
