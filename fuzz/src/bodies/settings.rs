//! The configuration and the environment that overrides it.

use ringfence::fuzz::{Complaint, Settings, settings as read};

use super::Came;

/// What separates the file from its overrides, `NAME=value` each on a line.
const ENVIRONMENT: &str = "\n--- environment\n";

/// What is accepted says the same when it is written and read again, listens
/// on loopback only, and has tables that fit; what is refused is one line with
/// a place inside the file.
pub fn settings(bytes: &[u8]) -> Came {
    let Ok(input) = std::str::from_utf8(bytes) else { return 0 };
    let (text, environment) = input.split_once(ENVIRONMENT).unwrap_or((input, ""));
    let variable = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Vec<_> = environment.lines().filter_map(variable).collect();
    match read(text, &environment) {
        Ok(accepted) => {
            holds(&accepted);
            1
        }
        Err(complaint) => {
            is_one_line(&complaint, text);
            0
        }
    }
}

fn holds(accepted: &Settings) {
    for address in &accepted.listens {
        assert!(address.ip().is_loopback(), "`{address}` has no TLS and can be reached from outside");
    }
    assert_eq!(accepted.fits, Ok(()), "a start would refuse it");
    match read(&accepted.toml, &[]) {
        Ok(again) => assert_eq!(again.toml, accepted.toml),
        Err(complaint) => panic!("what we wrote is refused: {}\n{}", complaint.line, accepted.toml),
    }
}

fn is_one_line(complaint: &Complaint, text: &str) {
    assert_eq!(complaint.line.lines().count(), 1, "{:?}", complaint.line);
    assert!(!complaint.drawn.is_empty());
    let place = complaint.line.strip_prefix("ringfence.toml:").and_then(|rest| rest.split(':').next());
    if let Some(line) = place.and_then(|number| number.trim().parse::<usize>().ok()) {
        assert!((1..=text.split('\n').count()).contains(&line), "{:?} names a line that is not there", complaint.line);
    }
}
