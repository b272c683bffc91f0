//! A passphrase from the terminal, unseen, or from standard input for scripts.

use std::io::{BufRead, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::{Failure, Kind};
use crate::admin::call::Secret;

/// A new passphrase: asked for twice on a terminal.
pub fn choose() -> Result<Secret, Failure> {
    let first = read("new passphrase: ")?;
    if std::io::stdin().is_terminal() && *read("once more:      ")? != *first {
        return Err(Failure::new(Kind::Usage, "the two passphrases differ").next("try again"));
    }
    Ok(Secret(first))
}

/// One that exists.
pub fn give() -> Result<Secret, Failure> {
    Ok(Secret(read("passphrase: ")?))
}

fn read(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::new(Kind::Usage, format!("no passphrase could be read: {e}"));
    let stdin = std::io::stdin();
    let echo = stdin.is_terminal().then(|| Echo::off(&stdin)).transpose().map_err(|e| failed(&e))?;
    if echo.is_some() {
        let _ = write!(std::io::stderr(), "{prompt}").and_then(|()| std::io::stderr().flush());
    }
    let mut line = Zeroizing::new(String::new());
    stdin.lock().read_line(&mut line).map_err(|e| failed(&e))?;
    if echo.is_some() {
        let _ = writeln!(std::io::stderr());
    }
    drop(echo);
    let text = Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned());
    if text.is_empty() {
        return Err(failed(&"standard input is empty").next("type it, or give it on standard input"));
    }
    Ok(text)
}

/// Turns the terminal's echo off, and on again when dropped.
struct Echo(rustix::termios::Termios);

impl Echo {
    fn off(stdin: &std::io::Stdin) -> rustix::io::Result<Self> {
        let before = tcgetattr(stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(stdin, OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
