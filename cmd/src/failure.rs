//! How a command ends: exit status 0, 1 or 2 and at most one line on standard
//! error. It knows nothing of commands.

use std::{io, process::ExitCode};

use wove::shell::view;

/// Why a command was not done.
#[derive(Debug)]
pub enum Failure {
    /// It failed: what, why, what to do. Exit status 1.
    Failed(String),
    /// It was not asked for in a way that can be understood. Exit status 2.
    Usage(String),
    /// Whoever read the output has seen enough, as in `wove status | head`. Exit status 0.
    Unread,
}

impl Failure {
    /// A failure of which this is the line.
    pub fn failed(line: impl Into<String>) -> Self {
        Self::Failed(line.into())
    }

    /// The line for standard error, if there is something to say.
    pub fn line(&self) -> Option<String> {
        let one_line = |text: &str| view::printable(&text.trim().replace('\n', "; "));
        match self {
            Self::Failed(line) => Some(format!("wove: {}", one_line(line))),
            Self::Usage(line) => Some(format!("wove: {} (see --help)", one_line(line))),
            Self::Unread => None,
        }
    }

    /// The exit status.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Unread => ExitCode::SUCCESS,
            Self::Failed(_) => ExitCode::from(1),
            Self::Usage(_) => ExitCode::from(2),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

impl From<io::Error> for Failure {
    /// For what goes wrong while writing the output.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Failed(format!("the output cannot be written: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let line = Failure::failed("a\nb\u{1b}[0m\n").line();
        assert_eq!(line.as_deref(), Some("wove: a; b\u{fffd}[0m"));
        assert!(
            Failure::from(io::Error::from(io::ErrorKind::BrokenPipe))
                .line()
                .is_none()
        );
    }
}
