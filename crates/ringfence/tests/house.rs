//! The walls of the house, checked as the compiler and Cargo see them: which
//! crate may use which, and which sentences must not compile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

/// Every crate with all it may use of ours (ARCHITECTURE.md, "Who may use whom").
const ARROWS: &[(&str, &[&str])] = &[
    ("format", &[]),
    ("db", &[]),
    ("log", &["format", "db"]),
    ("access", &["format", "db", "log"]),
    ("vault", &["format", "db", "log", "access"]),
    ("store", &["format", "db", "log", "access"]),
    ("ringfence", &["format", "db", "log", "access", "vault", "store"]),
];

/// What a crate must never name, and why.
const NEVER: &[(&str, &[&str], &str)] = &[
    ("vault", &["opendal", "reqwest", "hyper", "aws-sdk-s3", "tokio"], "code that holds keys cannot name a cloud"),
    ("store", &["aws-lc-rs", "ring", "argon2", "ringfence-vault"], "code that talks to clouds cannot name a key"),
    ("format", &["tokio", "rusqlite", "opendal", "hyper"], "a verifier needs no I/O"),
    ("access", &["opendal", "hyper", "s3s"], "decisions do not depend on a wire"),
    ("log", &["opendal", "hyper", "s3s", "cedar-policy"], "evidence does not depend on a wire or a policy"),
];

fn dependencies(name: &str, sections: &[&str]) -> BTreeSet<String> {
    let file = root().join("crates").join(name).join("Cargo.toml");
    let manifest: toml::Table = fs::read_to_string(&file).expect("a manifest").parse().expect("TOML");
    sections
        .iter()
        .filter_map(|section| manifest.get(*section).and_then(toml::Value::as_table))
        .flat_map(|table| table.keys().cloned())
        .collect()
}

#[test]
fn every_arrow_between_crates_points_down() {
    let found: BTreeSet<String> = fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    let known: BTreeSet<String> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known, "a new crate is a new trust boundary: write a decision page and add it here");
    for (name, allowed) in ARROWS {
        for used in dependencies(name, &["dependencies", "build-dependencies"]) {
            if let Some(ours) = used.strip_prefix("ringfence-") {
                assert!(allowed.contains(&ours), "crate `{name}` must not use `{ours}`");
            }
        }
    }
}

#[test]
fn keys_and_clouds_do_not_know_each_other() {
    for (name, banned, why) in NEVER {
        let used = dependencies(name, &["dependencies", "build-dependencies"]);
        for banned in *banned {
            assert!(!used.contains(*banned), "crate `{name}` must not use `{banned}`: {why}");
        }
    }
}

#[test]
fn the_s3_library_stays_behind_the_wire() {
    let source = root().join("crates/ringfence/src");
    for file in rust_files(&source) {
        let inside = file.strip_prefix(&source).expect("inside");
        let text = fs::read_to_string(&file).expect("source");
        if text.contains("s3s::") && !inside.starts_with("s3") && inside != Path::new("s3.rs") {
            panic!("`{}` names s3s: only s3/ may", inside.display());
        }
    }
}

/// A ```` ```compile_fail,E0000 ```` example in a doc comment.
struct Example {
    place: String,
    code: String,
    source: String,
}

#[test]
fn every_forbidden_sentence_fails_for_its_own_reason() {
    let examples: Vec<Example> = ARROWS
        .iter()
        .flat_map(|(name, _)| rust_files(&root().join("crates").join(name).join("src")))
        .flat_map(|file| examples_in(&file))
        .collect();
    assert!(examples.len() >= 2, "the examples of `Recorded` and `Placement` at least");
    let libraries = libraries();
    let scratch = tempfile::tempdir().expect("a directory");
    check(
        &libraries,
        scratch.path(),
        "pub fn control(n: ringfence_format::record::Seq) -> u64 { n }",
        &BTreeSet::new(),
    )
    .expect("a sentence that is allowed compiles");
    let wrong: Vec<String> = examples
        .iter()
        .filter_map(|example| {
            let expected = BTreeSet::from([example.code.clone()]);
            check(&libraries, scratch.path(), &example.source, &expected)
                .err()
                .map(|got| format!("{}: expected {}, got {got}", example.place, example.code))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn examples_in(file: &Path) -> Vec<Example> {
    let text = fs::read_to_string(file).expect("source");
    let mut found = vec![];
    let mut open: Option<Example> = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let Some(doc) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            open = None;
            continue;
        };
        let doc = doc.strip_prefix(' ').unwrap_or(doc);
        match &mut open {
            None => {
                if let Some(code) = doc.strip_prefix("```compile_fail") {
                    let place = format!("{}:{}", file.display(), number + 1);
                    let code = code.trim_start_matches(',').trim().to_owned();
                    assert!(code.starts_with('E'), "{place}: name the error code, as in `compile_fail,E0451`");
                    open = Some(Example { place, code, source: String::new() });
                }
            }
            Some(_) if doc.starts_with("```") => found.extend(open.take()),
            Some(example) => {
                // `# ` hides a line from readers, not from the compiler.
                example.source.push_str(doc.strip_prefix("# ").unwrap_or(doc));
                example.source.push('\n');
            }
        }
    }
    found
}

/// Libraries of others that an example may name.
const NAMED_BESIDE_OURS: &[&str] = &["bytes"];

/// One consistent build of what an example may name: the folder that rustc
/// searches, and the metadata of each library by name. Cargo itself says which
/// files belong together, for a target folder may hold several builds of one
/// crate (with other features, of other selections) that do not fit each other.
struct Libraries {
    deps: PathBuf,
    named: BTreeMap<String, PathBuf>,
}

fn libraries() -> Libraries {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).args(["check", "--workspace", "--lib", "--message-format", "json"]);
    // What this test was built from is all here already. The Rust that could
    // build this test will do for the libraries, whatever s3s declares.
    cargo.args(["--locked", "--offline", "--ignore-rust-version"]);
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "the libraries do not build: {}", String::from_utf8_lossy(&output.stderr));
    let mut named = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).expect("a message of cargo");
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let ours = name.starts_with("ringfence_") || NAMED_BESIDE_OURS.contains(&name);
        if message["reason"] != "compiler-artifact" || !ours {
            continue;
        }
        let files = message["filenames"].as_array().expect("the files of an artifact");
        // What build scripts and macros link is built to the end; it is not what we compile against.
        if let [file] = files.as_slice() {
            let path = PathBuf::from(file.as_str().expect("a path"));
            let twice = named.insert(name.to_owned(), path);
            assert_eq!(twice, None, "cargo built `{name}` twice");
        }
    }
    let deps = named["ringfence_format"].parent().expect("a folder").to_owned();
    Libraries { deps, named }
}

/// Compiles `source`; `Err` says which error codes came instead of `expected`.
fn check(libraries: &Libraries, scratch: &Path, source: &str, expected: &BTreeSet<String>) -> Result<(), String> {
    let file = scratch.join("example.rs");
    fs::write(&file, format!("#![allow(unused)]\n{source}")).expect("written");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "lib", "--emit", "metadata", "--error-format", "json"]);
    rustc.arg("-L").arg(format!("dependency={}", libraries.deps.display())).arg("--out-dir").arg(scratch).arg(&file);
    for (name, path) in &libraries.named {
        rustc.arg("--extern").arg(format!("{name}={}", path.display()));
    }
    let output = rustc.output().expect("rustc runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<serde_json::Value> = stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|message: &serde_json::Value| message["level"] == "error")
        .collect();
    let got: BTreeSet<String> =
        errors.iter().filter_map(|message| message["code"]["code"].as_str().map(str::to_owned)).collect();
    if got == *expected && output.status.success() == expected.is_empty() {
        return Ok(());
    }
    let rendered: String = errors.iter().filter_map(|message| message["rendered"].as_str()).collect();
    Err(format!("{got:?}\n{rendered}"))
}

#[test]
fn every_test_that_architecture_names_exists() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rows: Vec<&str> = architecture
        .lines()
        .filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert_eq!(rows.len(), 8, "one row for each invariant");
    let sources: String = ["crates", "sim", "tests"]
        .iter()
        .flat_map(|folder| files(&root().join(folder)))
        .filter(|file| file.extension().is_some_and(|e| e == "rs" || e == "py"))
        .map(|file| fs::read_to_string(file).unwrap_or_default())
        .collect();
    for row in rows {
        let attackers = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap_or_default();
        let named: Vec<&str> = attackers.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nobody attacks {row}");
        for name in named {
            let exists = sources.contains(&format!("fn {name}(")) || sources.contains(&format!("def {name}("));
            assert!(exists, "ARCHITECTURE.md names `{name}`, which no test is");
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder).into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs")).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut found = vec![];
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | "node_modules" | "__pycache__") {
                found.extend(files(&path));
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
