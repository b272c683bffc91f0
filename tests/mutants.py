"""Takes the checks of the evidence verifier out, one at a time: each time a test
must fail. Run it by hand, in a clean tree: `python tests/mutants.py`. It puts
every file back, and ends with status 1 if a check can go without being missed.
"""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCE = ROOT / "crates/access/src"
TESTS = ["cargo", "test", "-p", "ringfence-access", "--lib", "--locked", "--ignore-rust-version", "--", "evidence", "strict"]

# File, what stands there, and what stands there without the check.
MUTANTS = [
    ('evidence/token.rs', 'if token.len() > TOKEN_BYTES_MAX {', 'if false {'),
    ('evidence/token.rs', 'if is_own_session(token) {', 'if false {'),
    ('evidence/token.rs', 'if self.header.get("crit").is_some() {', 'if false {'),
    ('evidence/token.rs', 'if FORBIDDEN.iter().any(|name| self.header.get(name).is_some()) {', 'if false {'),
    ('evidence/token.rs', 'algorithm.filter(|a| issuer.algorithms.contains(a))', 'algorithm'),
    ('evidence/token.rs', 'if !issuer.types.iter().any(|allowed| allowed.as_deref() == typ) {', 'if false {'),
    ('evidence/token.rs', 'Some(kid) if (1..=KID_BYTES_MAX).contains(&kid.len()) => Ok(algorithm),', 'Some(_) => Ok(algorithm),'),
    ('evidence/token.rs', 'if !key.signed(self.algorithm, signed.as_bytes(), signature) {', 'if false {'),
    ('evidence/token.rs', 'audience_is_us(claims, &self.issuer)?;', ''),
    ('evidence/token.rs', 'if !list.iter().any(us) || !list.iter().all(|one| one.text().is_some()) {', 'if false {'),
    ('evidence/token.rs', 'if us(party) { Ok(()) } else { Err(Reason::AuthorizedParty) }', 'Ok(())'),
    ('evidence/token.rs', 'if fits { Ok(subject.to_owned()) } else { Err(Reason::Subject) }', 'Ok(subject.to_owned())'),
    ('evidence/token.rs', 'if now_s >= expires_s {', 'if false {'),
    ('evidence/token.rs', 'if issued_at_s > latest {', 'if false {'),
    ('evidence/token.rs', 'if not_before_s.is_some_and(|from| from > latest) {', 'if false {'),
    ('evidence/token.rs', 'Some(1..) if expires_s - issued_at_s <= max_age_s =>', 'Some(1..) =>'),
    ('evidence/token.rs', '.filter(|number| *number <= TIME_S_MAX)', ''),
    ('evidence/token.rs', '.filter(|id| (1..=255).contains(&id.len()))', ''),
    ('evidence/jwks.rs', 'if !key.fits(algorithm) { Err(Reason::KeyUnfit) } else { key.strong() }', 'key.strong()'),
    ('evidence/jwks.rs', 'if self.weak { Err(Reason::KeyWeak) } else { Ok(self) }', 'Ok(self)'),
    ('evidence/jwks.rs', 'named && self.verifies && self.material.kind() == algorithm.kind()', 'self.verifies && self.material.kind() == algorithm.kind()'),
    ('evidence/jwks.rs', 'named && self.verifies && self.material.kind() == algorithm.kind()', 'named && self.material.kind() == algorithm.kind()'),
    ('evidence/jwks.rs', 'named && self.verifies && self.material.kind() == algorithm.kind()', 'named && self.verifies'),
    ('evidence/jwks.rs', 'if PRIVATE.iter().any(|member| json.get(member).is_some()) {', 'if false {'),
    ('evidence/jwks.rs', 'if kid.is_some_and(|kid| !kids.insert(kid)) {', 'if kid.is_some_and(|kid| { kids.insert(kid); false }) {'),
    ('evidence/jwks.rs', 'if list.len() > JWKS_KEYS_MAX {', 'if false {'),
    ('evidence/jwks.rs', 'if bytes.len() > JWKS_BYTES_MAX {', 'if false {'),
    ('evidence/issuers.rs', 'if self.shared(known, key) {', 'if false {'),
    ('evidence/issuers.rs', '!= Some(entry.url.as_str()) {', '.is_none() {'),
    ('evidence/issuers.rs', 'entry.same_origin(uri)', 'entry.may_fetch(uri)'),
    ('evidence/issuers.rs', '.filter(|_| known.is_usable(now_s))', ''),
    ('evidence/issuers.rs', 'if !flights.may_start(now_s) {', 'if false {'),
    ('evidence/issuers.rs', 'known.entry.url == iss)', "known.entry.url.trim_end_matches('/') == iss.trim_end_matches('/'))"),
    ('strict.rs', 'if !names.insert(name.clone()) {', 'names.insert(name.clone()); if false {'),
]


def survives(file, check, without):
    """Whether every test passes without the check."""
    text = file.read_text()
    assert text.count(check) >= 1, f"{file.name} has no `{check}` any more: this list is out of date"
    file.write_text(text.replace(check, without, 1))
    try:
        done = subprocess.run(TESTS, cwd=ROOT, capture_output=True, text=True)
    finally:
        file.write_text(text)
    assert "could not compile" not in done.stderr, f"`{without}` does not compile:\n{done.stderr[-2000:]}"
    return done.returncode == 0


def main():
    alive = []
    for name, check, without in MUTANTS:
        lives = survives(SOURCE / name, check, without)
        print("SURVIVED" if lives else "killed  ", name, check, flush=True)
        alive += [check] if lives else []
    print(f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)} killed")
    sys.exit(bool(alive))


if __name__ == "__main__":
    main()
