//! An address the dialer keeps trying, as text. Resolving it is the shell's work.

use std::{fmt, net::Ipv6Addr, sync::Arc};

use thiserror::Error;

/// `host:port`, `[v6]:port`, either with `tcp://` before it; normalised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target(Arc<str>);

/// Before the targets that are dialled by TCP.
const TCP: &str = "tcp://";

/// Why a text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    /// There is nothing before the port.
    #[error("'{0}' names no host; write host, host:port or [v6]:port")]
    Host(String),
    /// The port is not one.
    #[error("'{0}' has no valid port; write a number from 1 to 65535 after the colon")]
    Port(String),
}

impl Target {
    /// Reads `host`, `host:port`, `v6`, `[v6]`, `[v6]:port`, each also with `tcp://` before it.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, TargetError> {
        let trimmed = text.trim().to_ascii_lowercase();
        let (scheme, rest) = match trimmed.strip_prefix(TCP) {
            Some(rest) => (TCP, rest),
            None => ("", trimmed.as_str()),
        };
        let (host, port) = split(rest).ok_or_else(|| TargetError::Host(text.to_owned()))?;
        let port = match port {
            Some(port) => port.parse::<u16>().ok().filter(|port| *port != 0),
            None => Some(default_port),
        };
        let port = port.ok_or_else(|| TargetError::Port(text.to_owned()))?;
        let host = host.trim_end_matches('.');
        let legal = |c: char| c.is_ascii_graphic() && !"/[]@?#".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(legal) {
            return Err(TargetError::Host(text.to_owned()));
        }
        Ok(match host.contains(':').then(|| host.parse::<Ipv6Addr>()) {
            None => Self(format!("{scheme}{host}:{port}").into()),
            Some(Ok(v6)) => Self(format!("{scheme}[{v6}]:{port}").into()),
            Some(Err(_)) => return Err(TargetError::Host(text.to_owned())),
        })
    }

    /// The text, as people read it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is to be dialled by TCP alone.
    pub fn is_tcp(&self) -> bool {
        self.0.starts_with(TCP)
    }

    /// Host and port without the scheme, as a resolver reads them.
    pub fn authority(&self) -> &str {
        self.0.strip_prefix(TCP).unwrap_or(&self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Host and port, if a port is there.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    // More than one colon without brackets is a bare IPv6 address.
    if text.matches(':').count() > 1 {
        return Some((text, None));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_normalised() {
        for (text, expected) in [
            ("Host.Example.", "host.example:6783"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("fd00::1", "[fd00::1]:6783"),
            ("[FD00:0::1]:7", "[fd00::1]:7"),
            ("tcp://h:443", "tcp://h:443"),
        ] {
            assert_eq!(Target::parse(text, 6783).unwrap().as_str(), expected);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "", ":1", "h:0", "h:99999", "h:x", "[::1", "[::1]x", "a b", "1:2:3", "http://h",
            "[h]:1",
        ] {
            assert!(Target::parse(text, 6783).is_err(), "{text}");
        }
    }
}
