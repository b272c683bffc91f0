#!/usr/bin/env python3
"""Takes each check of the session verifier away, one at a time, and sees that a
test fails. `make mutants` runs it; it is no part of `make test`.

Works on a scratch copy of the sources with a target folder of its own. A
snippet that is not there exactly once stops the run: the list cannot rot
unseen. Exit status 1 if anything survives.

    tests/mutate.py [--only WORD] [--list] [--scratch DIR]
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SESSION = "crates/format/src/session/"
FORMAT = ["-p", "ringfence-format", "--test", "session", "--test", "trust", "--lib"]


def mutant(what, file, old, new, tests=FORMAT):
    return {"what": what, "file": file, "old": old, "new": new, "tests": tests}


def gone(what, file, old, new="", tests=FORMAT):
    """A check that is taken away whole."""
    return mutant(what, file, old, new, tests)


VERIFY, TOKEN, CLAIMS = SESSION + "verify.rs", SESSION + "token.rs", SESSION + "claims.rs"
PASETO, SCOPE, LEAVES = SESSION + "paseto.rs", SESSION + "scope.rs", SESSION + "issuance.rs"
MANIFEST, REVOKE, TRUST = SESSION + "manifest.rs", SESSION + "revocation.rs", SESSION + "trust.rs"

MUTANTS = [
    # check_signature
    gone("purpose asked for", VERIFY, "claims.purpose != purpose || ", ""),
    gone("admission signs no session", VERIFY, " || purpose == Purpose::Admission", ""),
    mutant("key found in its scope", VERIFY, "let Some(key) = keys.find(&scope, self.kid) else",
           "let Some(key) = keys.anywhere(self.kid).map(|it| it.1) else"),
    gone("version is the key's", VERIFY, "if self.version != key.public.version() {", "if false {"),
    gone("signature", VERIFY, "if !self.is_signed_by(key, &scope) {", "if false {"),
    gone("key's time", VERIFY, "        self.check_key_time(key, now_s)?;\n"),
    gone("signed outside the key's time", VERIFY, "if signed_outside || counts_outside {", "if counts_outside {"),
    gone("signed before the key's time", VERIFY, "!(key.from_s..key.until_s).contains(&issued_s)", "issued_s >= key.until_s"),
    gone("signed after the key's time", VERIFY, "!(key.from_s..key.until_s).contains(&issued_s)", "issued_s < key.from_s"),
    gone("counts after the key's time", VERIFY, "if signed_outside || counts_outside {", "if signed_outside {"),
    gone("a stale token is no alarm", VERIFY, "now_s >= key.until_s && now_s < until_s", "now_s >= key.until_s"),
    gone("key's sites", VERIFY, "if !claims.sites.within(&key.sites) {", "if false {"),
    gone("token's time", VERIFY, "        check_time(claims, now_s)?;\n"),
    gone("gateway", VERIFY, "if !claims.sites.has(gateway) {", "if false {"),
    gone("session policy", VERIFY, "if self.policy_sha256() != claims.session_policy {", "if false {"),
    gone("one form of a signature", VERIFY, "if !paseto::is_canonical(self.version, &self.signature) {", "if false {"),
    mutant("implicit assertion", VERIFY, "let implicit = scope.assertion(&self.claimed.sites);", "let implicit = []; let _ = scope;"),
    gone("a misused key did sign", VERIFY, "keys.anywhere(kid).filter(signed)", "keys.anywhere(kid)"),
    gone("a retired key did sign", VERIFY, "keys.retired(kid).filter(signed)", "keys.retired(kid)"),
    gone("a retired key is noticed", VERIFY, "if now_s < self.claimed.until_s => retired", "if now_s > self.claimed.until_s => retired"),
    # check_time
    gone("ends after it begins", VERIFY, "until_s <= from_s || ", ""),
    gone("begins when it was issued", VERIFY, "from_s < issued_s || ", ""),
    gone("longest life", VERIFY, " || until_s - issued_s > LIFETIME_S_MAX", ""),
    gone("not before", VERIFY, "if now_s < from_s {", "if false {"),
    mutant("expired", VERIFY, "if now_s >= until_s { Err(", "if false { Err("),
    mutant("expired to the second", VERIFY, "if now_s >= until_s { Err(", "if now_s > until_s { Err("),
    # check_issued
    mutant("receipt", VERIFY, "if !verify_inclusion(&leaf, index, size, root, &receipt.hashes()) {", "if leaf[0] == 0 && size == 0 && root[0] == 0 {"),
    gone("leaf is of this token", VERIFY, "        self.is_of(&issuance)?;\n"),
    gone("leaf is admitted", VERIFY, "        self.is_admitted(&issuance, keys)?;\n"),
    mutant("revocations", VERIFY, "revocations.of(&claims, self.token.kid, index)", "revocations.of(&claims, self.token.kid, index).filter(|_| false)"),
    # is_of
    gone("leaf: version", VERIFY, "draft.version == 0\n            && ", ""),
    gone("leaf: token", VERIFY, "            && draft.token_sha256 == self.token.sha256()\n"),
    gone("leaf: realm", VERIFY, "            && draft.realm == claims.realm\n"),
    gone("leaf: key", VERIFY, "            && draft.kid == self.token.kid\n"),
    gone("leaf: purpose", VERIFY, "            && draft.purpose == claims.purpose\n"),
    mutant("leaf: beginning", VERIFY, "(draft.from_s, draft.until_s) == (claims.from_s, claims.until_s)", "draft.until_s == claims.until_s"),
    mutant("leaf: end", VERIFY, "(draft.from_s, draft.until_s) == (claims.from_s, claims.until_s)", "draft.from_s == claims.from_s"),
    gone("leaf: parent", VERIFY, "\n            && draft.parent == claims.parent.as_ref().map(|parent| parent.index)", ""),
    # is_admitted
    mutant("admission: scope", VERIFY, "let key = keys.find(&scope, issuance.admitted_by);", "let key = keys.anywhere(issuance.admitted_by).map(|it| it.1); let _ = scope;"),
    gone("admission: key's time", VERIFY, "        let key = key.filter(|key| (key.from_s..key.until_s).contains(&issued_s));\n", "        let _ = issued_s;\n"),
    mutant("admission: signature", VERIFY, "key.is_some_and(|key| key.public.signed(&message, &issuance.admission))", "key.is_some_and(|_| !message.is_empty())"),
    # parse
    gone("token's length", TOKEN, "if text.len() > SESSION_TOKEN_BYTES_MAX {\n            return Err(BadSession::TooLong);\n        }\n        let (paseto", "let (paseto"),
    mutant("path's length", TOKEN, "if receipt.path.len() > PATH_MAX {", "if false {"),
    mutant("receipt in one form", TOKEN, "let receipt: Receipt = super::issuance::decode_all(&bytes)?;", "let receipt: Receipt = minicbor::decode(&bytes).map_err(|_| BadSession::TooLong)?;"),
    gone("payload in one form", CLAIMS, "match claims.to_bytes().as_deref() == Ok(bytes) {", "match true {"),
    gone("no unknown fields (beside the one form)", CLAIMS, "#[serde(deny_unknown_fields)]\npub struct Claims", "pub struct Claims"),
    gone("confirmation", CLAIMS, "if !is_confirmation(&claims.confirmation) {", "if false {"),
    # trust files
    gone("trust: root signed the manifest", TRUST, " || !manifest.is_signed_by(root)", ""),
    gone("trust: a realm's root once", TRUST, "match self.roots.insert(realm, key) {\n            None => Ok(()),", "match self.roots.insert(realm, key) {\n            _ if true => Ok(()),\n            None => Ok(()),"),
    mutant("trust: checkpoint", TRUST, "let cosigned = self.believe(signed.receipt().ok_or_else(none)?)?;",
           """let receipt = signed.receipt().ok_or_else(none)?;
        let _ = self.believe(receipt);
        let (text, _) = receipt.checkpoint.split_once("\\n\\n").expect("a note");
        let checkpoint = crate::checkpoint::Checkpoint::from_text(&format!("{text}\\n")).expect("a checkpoint");
        let cosigned = Cosigned { checkpoint, by: vec![] };"""),
    gone("trust: header", TRUST, "if text.lines().next() != Some(HEADER) {", "if false {"),
    # names
    gone("kid in lower case", PASETO, "if kid.to_string() == text { Ok(kid) }", "if true { Ok(kid) }"),
    gone("sites in order", SCOPE, "match ascending && (1..=SITES_MAX)", "match (ascending || true) && (1..=SITES_MAX)"),
    gone("at least one site", SCOPE, "(1..=SITES_MAX)", "(0..=SITES_MAX)"),
    gone("leaves in one form", LEAVES, "if again == bytes { Ok(value) }", "if true { Ok(value) }"),
    gone("kind of the entry", LEAVES, "if head[0] == ISSUANCE ", "if head.len() == PUBLIC_PREFIX "),
    # manifests and revocations
    gone("a key listed twice", MANIFEST, "if times[&kid] == 1 {", "if times[&kid] > 0 {"),
    gone("root's signature", MANIFEST, "root.signed(&self.manifest.to_be_signed(), &self.signature)", "root.signed(&self.manifest.to_be_signed(), &self.signature) || true"),
    gone("revocation: index", REVOKE, "let itself = index >= self.from_index && ", "let itself = "),
    gone("revocation: parent's index", REVOKE, "parent.index >= self.from_index && self.names", "self.names"),
    gone("revocation: realm", REVOKE, "self.realm == claims.realm && (itself", "(itself"),
    gone("revocation: of the parent", REVOKE, "(itself || its_parent)", "itself"),
    gone("lift: what stays dead", REVOKE, "*at != index || stays || ", "*at != index || "),
    gone("lift: realm", REVOKE, " || old.realm != revocation.realm", ""),
]


def sources(to):
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file() and not source.is_symlink() and not name.startswith("tests/services/"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            # Newer than what an earlier run built of a mutant.
            shutil.copyfile(source, to / name)


def cargo(at, tests):
    old = int(subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split(".")[1]) < 96
    flags = ["--locked", *(["--ignore-rust-version"] if old else [])]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(at / "target"), "PROPTEST_CASES": "64",
                   "CARGO_PROFILE_DEV_DEBUG": "0", "CARGO_PROFILE_TEST_DEBUG": "0"}
    return subprocess.run(["cargo", "test", "--quiet", *flags, *tests], cwd=at, env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def outcome(done):
    if done.returncode == 0:
        return "SURVIVED", ""
    if "error[E" in done.stdout or "could not compile" in done.stdout:
        return "DID NOT COMPILE", done.stdout
    failed = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ") and line.strip().replace("::", "").isidentifier()]
    return "killed", next(iter(dict.fromkeys(failed)), "")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--only", default="")
    arguments.add_argument("--list", action="store_true")
    arguments.add_argument("--scratch", type=pathlib.Path)
    asked = arguments.parse_args()
    chosen = [it for it in MUTANTS if asked.only in it["what"]]
    for it in chosen:
        count = (ROOT / it["file"]).read_text().count(it["old"])
        if count != 1:
            sys.exit(f"{it['what']}: its snippet is {count} times in {it['file']}: mend the list")
    if asked.list:
        print("\n".join(it["what"] for it in chosen))
        return
    with tempfile.TemporaryDirectory(prefix="ringfence-mutants-") as scratch:
        sys.exit(run(chosen, asked.scratch or pathlib.Path(scratch)))


def run(chosen, scratch):
    sources(scratch)
    untouched = cargo(scratch, FORMAT)
    if untouched.returncode != 0:
        sys.exit(f"the tests fail as they are:\n{untouched.stdout}")
    bad, began = 0, time.monotonic()
    for it in chosen:
        file = scratch / it["file"]
        text = file.read_text()
        file.write_text(text.replace(it["old"], it["new"]))
        verdict, why = outcome(cargo(scratch, it["tests"]))
        file.write_text(text)
        bad += verdict != "killed"
        print(f"{verdict:<9} {it['what']:<42} {why}", flush=True)
    print(f"{len(chosen) - bad} of {len(chosen)} killed in {time.monotonic() - began:.0f} s")
    return bad > 0


main()
