//! Tables and sentences for people, one JSON document for programs.
//!
//! Everything a command prints goes through here, so that colour and drawings
//! appear on terminals only and `--json` prints nothing but its document.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use super::Failure;

/// Where a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// JSON or human; colour only on a terminal that wants it.
    pub fn new(json: bool) -> Self {
        let colour = !json && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colour }
    }

    /// Whether a program reads this.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints `value` as the document of `--json`, or lets `human` speak.
    pub fn answer(&self, value: &Value, human: impl FnOnce(&Self)) {
        if self.json {
            self.line(&serde_json::to_string_pretty(value).expect("a value made of strings and numbers"));
        } else {
            human(self);
        }
    }

    /// One line for people or programs.
    pub fn line(&self, text: &str) {
        // A closed pipe (`ringfence log show | head`) ends the printing, not the program.
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// One line for people only.
    pub fn say(&self, text: &str) {
        if !self.json {
            self.line(text);
        }
    }

    /// A heading.
    pub fn heading(&self, text: &str) {
        self.say(&format!("\n{}", self.bold(text)));
    }

    /// `label  value`, aligned.
    pub fn field(&self, label: &str, value: &str) {
        self.say(&format!("  {} {value}", self.dim(&format!("{label:<12}"))));
    }

    /// A warning, to standard error.
    pub fn warn(&self, text: &str) {
        let mark = self.paint("33", "warning:");
        let _ = writeln!(std::io::stderr(), "{mark} {text}");
    }

    /// A table of JSON objects: heading and field of each column.
    pub fn table(&self, rows: &Value, columns: &[(&str, &str)]) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.iter().map(|(heading, _)| *heading));
        for row in rows.as_array().into_iter().flatten() {
            table.add_row(columns.iter().map(|(_, field)| plain(&row[*field])));
        }
        for line in table.lines() {
            self.say(line.trim_end());
        }
    }

    /// How a command failed: one line, then the next step.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            let document = serde_json::json!({
                "error": { "kind": failure.kind, "message": failure.message, "next": failure.next }
            });
            let _ = writeln!(std::io::stderr(), "{document}");
            return;
        }
        let _ = writeln!(std::io::stderr(), "{} {}", self.paint("31", "error:"), failure.message);
        if let Some(drawn) = failure.drawn.as_deref().filter(|_| std::io::stderr().is_terminal()) {
            let mut text = String::new();
            let drawing = miette::GraphicalReportHandler::new().with_cause_chain().render_report(&mut text, drawn);
            if drawing.is_ok() {
                let _ = writeln!(std::io::stderr(), "{text}");
                return;
            }
        }
        if let Some(next) = &failure.next {
            let _ = writeln!(std::io::stderr(), "{} {next}", self.paint("36", "next:"));
        }
    }

    /// A progress bar on a terminal; silent elsewhere.
    pub fn progress(&self, what: &str, total: u64) -> ProgressBar {
        let target = match self.json {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template("  {msg:<16} [{bar:32}] {pos}/{len} {eta}");
        bar.set_style(style.expect("a literal template").progress_chars("=> "));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Bold on a terminal.
    pub fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }
    /// Dim on a terminal.
    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }
    /// Good news.
    pub fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }
    /// Bad news.
    pub fn bad(&self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A cell: text without quotes, lists with commas, nothing as `-`.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        // Names come from clients: a control character must not steer the terminal.
        Value::String(text) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// `1.5 MiB`
pub fn human_bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}
