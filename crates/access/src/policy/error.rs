//! What is wrong with a policy text, and where.

use std::sync::Arc;

use miette::{Diagnostic, NamedSource, SourceSpan};

/// One thing wrong in one policy text. Its `Diagnostic` points into the text.
#[derive(Debug, Clone, thiserror::Error, Diagnostic)]
#[error("{file}:{line}:{column}: {message}")]
pub struct PolicyError {
    file: String,
    line: usize,
    column: usize,
    message: String,
    #[help]
    help: Option<String>,
    #[source_code]
    text: NamedSource<Arc<str>>,
    #[label("here")]
    span: SourceSpan,
}

impl PolicyError {
    /// The file it is in.
    pub fn file(&self) -> &str {
        &self.file
    }
    /// Line, from 1.
    pub fn line(&self) -> usize {
        self.line
    }
    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        self.column
    }
    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// What would be right, where that is known.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

/// Everything wrong with a policy set; the set in force stays.
#[derive(Debug, Clone, thiserror::Error, Diagnostic)]
#[error("the policies are not valid, those in force stay: {}", .errors.first().map(ToString::to_string).unwrap_or_default())]
pub struct PolicyErrors {
    #[related]
    errors: Vec<PolicyError>,
}

impl PolicyErrors {
    /// Each of them; at least one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &PolicyError> {
        self.errors.iter()
    }
}

/// Collects errors over one text.
pub(super) struct Faults<'a> {
    file: &'a str,
    text: Arc<str>,
    found: &'a mut Vec<PolicyError>,
}

impl<'a> Faults<'a> {
    pub(super) fn in_text(file: &'a str, text: &str, found: &'a mut Vec<PolicyError>) -> Self {
        Self { file, text: Arc::from(text), found }
    }

    pub(super) fn at(&mut self, offset: usize, len: usize, message: String, help: Option<String>) {
        let offset = (0..=offset.min(self.text.len())).rev().find(|o| self.text.is_char_boundary(*o)).unwrap_or(0);
        let before = &self.text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let len = len.min(self.text.len() - offset);
        self.found.push(PolicyError {
            file: self.file.to_owned(),
            line,
            column,
            message: one_line(&message),
            help: help.as_deref().map(one_line),
            text: NamedSource::new(self.file, self.text.clone()),
            span: (offset, len).into(),
        });
    }

    /// Something Cedar's parser or validator says; it knows where, mostly.
    pub(super) fn said_by_cedar(&mut self, found: &dyn Diagnostic, otherwise_at: usize) {
        let label = found.labels().and_then(|mut labels| labels.next());
        let (offset, len) = label.as_ref().map_or((otherwise_at, 1), |l| (l.offset(), l.len()));
        let note = label.as_ref().and_then(|l| l.label()).map(str::to_owned);
        let help = found.help().map(|help| help.to_string()).or(note);
        self.at(offset, len, found.to_string(), help);
    }
}

/// `Ok` if nothing was found.
pub(super) fn none_of(errors: Vec<PolicyError>) -> Result<(), PolicyErrors> {
    if errors.is_empty() { Ok(()) } else { Err(PolicyErrors { errors }) }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
