//! What is wrong with a configuration: file, line, what, and what would be right.

use std::ops::Range;
use std::path::Path;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// One thing that is wrong. Its one-line form names the file and the line;
/// on a terminal `miette` draws the place.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// `FILE:LINE`, or the environment variable.
    place: String,
    message: String,
    help: Option<String>,
    /// Boxed, since errors travel by value.
    source_text: Option<Box<NamedSource<String>>>,
    span: Option<Range<usize>>,
}

impl ConfigError {
    pub(super) fn unreadable(file: &Path, error: &std::io::Error) -> Self {
        Self {
            place: file.display().to_string(),
            message: format!("cannot be read: {error}"),
            help: Some("`ringfence serve` writes a commented configuration at its first start".to_owned()),
            source_text: None,
            span: None,
        }
    }

    pub(super) fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> Self {
        let (message, help) = explain(error.message());
        Self::in_file(file, text, error.span(), message, help)
    }

    pub(super) fn in_file(
        file: &Path,
        text: &str,
        span: Option<Range<usize>>,
        message: String,
        help: Option<String>,
    ) -> Self {
        let place = match &span {
            Some(span) => format!("{}:{}", file.display(), line_of(text, span.start)),
            None => file.display().to_string(),
        };
        let source_text =
            span.is_some().then(|| Box::new(NamedSource::new(file.display().to_string(), text.to_owned())));
        Self { place, message, help, source_text, span }
    }

    pub(super) fn in_environment(variable: &str, message: &str) -> Self {
        let (message, help) = explain(message);
        let place = format!("environment variable `{variable}`");
        Self { place, message, help, source_text: None, span: None }
    }

    /// What would be right, where that can be said.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl Diagnostic for ConfigError {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn std::fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source_text.as_deref().map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some("here".to_owned()), span))))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// Adds the nearest known name to an unknown one. The parser's message lists
/// the known names in backticks after the unknown one.
fn explain(message: &str) -> (String, Option<String>) {
    let message = message.trim().replace('\n', " ");
    if !message.starts_with("unknown ") {
        return (message, None);
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let Some(given) = names.next() else { return (message.clone(), None) };
    let known: Vec<&str> = names.collect();
    let help = match nearest(given, known.iter().copied()) {
        Some(best) => format!("did you mean `{best}`?"),
        None => format!("one of: {}", known.join(", ")),
    };
    let what = message.split(',').next().unwrap_or(&message).to_owned();
    (what, Some(help))
}

/// The known name that was most likely meant.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro_winkler(given, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
