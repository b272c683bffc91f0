//! Trust files: C2SP tlog-policy (draft). Which logs are believed, and which
//! witnesses must have cosigned a checkpoint.
//!
//! What is not understood refuses the whole file: a rule that was skipped
//! would be a weaker rule.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::{Cosigned, NotMet, WitnessKey};
use crate::checkpoint::{BadCheckpoint, VerifierKey, verify};

/// A trust file is a few keys; longer ones are not read.
const POLICY_BYTES_MAX: usize = 64 * 1024;
/// Logs, witnesses and groups; the draft asks for 32 of each at least.
const NAMES_MAX: usize = 256;

/// A trust file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Logs that are believed, with their URLs.
    pub logs: Vec<(VerifierKey, Option<String>)>,
    /// Witnesses, in the order of their lines.
    pub witnesses: Vec<Witness>,
    /// The name in the `quorum` line, and what it stands for.
    pub quorum: (String, Rule),
}

/// A `witness` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Its name within the file.
    pub name: String,
    /// Its key.
    pub key: WitnessKey,
    /// Where it is asked.
    pub url: Option<String>,
}

/// Who must have cosigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nobody: `quorum none`.
    None,
    /// The witness with this place in [`Policy::witnesses`].
    Witness(usize),
    /// At least `k` of these.
    Group {
        /// How many.
        k: usize,
        /// Of which.
        members: Vec<Rule>,
    },
}

impl Rule {
    fn met(&self, cosigned: &[bool]) -> bool {
        match self {
            Self::None => true,
            Self::Witness(at) => cosigned[*at],
            Self::Group { k, members } => members.iter().filter(|member| member.met(cosigned)).count() >= *k,
        }
    }
}

impl Policy {
    /// Whether one of the logs signed this note and its witnesses meet the rule.
    pub fn met_by(&self, note: &str) -> Result<Cosigned, NotMet> {
        let log = self.logs.iter().find_map(|(key, _)| match verify(note, key) {
            Err(BadCheckpoint::Unsigned(_) | BadCheckpoint::Origin { .. }) => None,
            judged => Some(judged.map(|_| key)),
        });
        let log = log.ok_or(NotMet::UnknownLog)??;
        let keys: Vec<WitnessKey> = self.witnesses.iter().map(|w| w.key.clone()).collect();
        let cosigned = Cosigned::of(note, log, &keys)?;
        let did: Vec<bool> = keys.iter().map(|key| cosigned.by.iter().any(|(name, _)| name == key.name())).collect();
        match self.quorum.1.met(&did) {
            true => Ok(cosigned),
            false => {
                let by = cosigned.by.into_iter().map(|(name, _)| name).collect();
                Err(NotMet::Policy { quorum: self.quorum.0.clone(), by })
            }
        }
    }
}

/// Why a trust file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the trust file: {what}")]
pub struct BadPolicy {
    /// Counted from 1; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl FromStr for Policy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let whole = |what: &str| BadPolicy { line: 0, what: what.to_owned() };
        if text.len() > POLICY_BYTES_MAX {
            return Err(whole("longer than 64 KiB"));
        }
        if text.chars().any(|c| c.is_ascii_control() && c != '\n' && c != '\t') {
            return Err(whole("holds control characters"));
        }
        let mut reader = Reader::default();
        for (number, line) in (1..).zip(text.lines()) {
            let words: Vec<&str> = line.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
            if words.first().is_some_and(|word| !word.starts_with('#')) {
                reader.line(&words).map_err(|what| BadPolicy { line: number, what })?;
            }
        }
        let quorum = reader.quorum.ok_or_else(|| whole("there is no `quorum` line"))?;
        Ok(Self { logs: reader.logs, witnesses: reader.witnesses, quorum })
    }
}

#[derive(Default)]
struct Reader<'a> {
    logs: Vec<(VerifierKey, Option<String>)>,
    witnesses: Vec<Witness>,
    /// What each name stands for, and whether it is a group's member: it may be
    /// one only once.
    names: BTreeMap<&'a str, (Rule, bool)>,
    quorum: Option<(String, Rule)>,
}

impl<'a> Reader<'a> {
    fn line(&mut self, words: &[&'a str]) -> Result<(), String> {
        if self.logs.len() + self.names.len() > NAMES_MAX {
            return Err("too many logs, witnesses and groups".to_owned());
        }
        match words {
            ["log", key] => self.log(key, None),
            ["log", key, url] => self.log(key, Some((*url).to_owned())),
            ["witness", name, key] => self.witness(name, key, None),
            ["witness", name, key, url] => self.witness(name, key, Some((*url).to_owned())),
            ["group", name, threshold, members @ ..] => self.group(name, threshold, members),
            ["quorum", name] => self.decide(name),
            [word, ..] => Err(format!("`{word}` is not understood here")),
            [] => Ok(()),
        }
    }

    fn log(&mut self, key: &str, url: Option<String>) -> Result<(), String> {
        let key: VerifierKey = key.parse().map_err(|e: BadCheckpoint| e.to_string())?;
        if self.logs.iter().any(|(known, _)| known.public() == key.public()) {
            return Err(format!("the key of `{}` is there twice", key.name()));
        }
        self.logs.push((key, url));
        Ok(())
    }

    fn witness(&mut self, name: &'a str, key: &str, url: Option<String>) -> Result<(), String> {
        let key: WitnessKey = key.parse().map_err(|_| format!("`{key}` is not a witness's verifier key"))?;
        if self.witnesses.iter().any(|known| known.key.public() == key.public()) {
            return Err(format!("the key of `{name}` is there twice"));
        }
        self.define(name, Rule::Witness(self.witnesses.len()))?;
        self.witnesses.push(Witness { name: name.to_owned(), key, url });
        Ok(())
    }

    fn group(&mut self, name: &'a str, threshold: &str, members: &[&'a str]) -> Result<(), String> {
        let n = members.len();
        let k = match threshold {
            "all" => n,
            "any" => 1,
            digits => digits
                .parse()
                .ok()
                .filter(|k: &usize| k.to_string() == digits)
                .ok_or_else(|| format!("`{digits}` is no threshold: expected `all`, `any` or a number"))?,
        };
        if k == 0 || k > n {
            return Err(format!("{k} of {n} members can never be, or always are: between 1 and all of them"));
        }
        let members = members.iter().map(|member| self.take(member)).collect::<Result<_, _>>()?;
        self.define(name, Rule::Group { k, members })
    }

    fn define(&mut self, name: &'a str, rule: Rule) -> Result<(), String> {
        if name == "none" || self.names.contains_key(name) {
            return Err(format!("the name `{name}` is taken"));
        }
        self.names.insert(name, (rule, false));
        Ok(())
    }

    fn take(&mut self, name: &str) -> Result<Rule, String> {
        let (rule, taken) = self.names.get_mut(name).ok_or_else(|| format!("`{name}` is not defined above"))?;
        match std::mem::replace(taken, true) {
            true => Err(format!("`{name}` is a member of two groups")),
            false => Ok(rule.clone()),
        }
    }

    fn decide(&mut self, name: &str) -> Result<(), String> {
        if self.quorum.is_some() {
            return Err("a second `quorum` line".to_owned());
        }
        let rule = match (name, self.names.get(name)) {
            ("none", _) => Rule::None,
            (_, Some((rule, _))) => rule.clone(),
            (_, None) => return Err(format!("`{name}` is not defined above")),
        };
        self.quorum = Some((name.to_owned(), rule));
        Ok(())
    }
}
