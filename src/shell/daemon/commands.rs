//! Carrying out what clients ask.

use std::time::Instant;

use gossip::Target;

use super::{
    Daemon, Ending,
    work::{Answer, HOST},
};
use crate::{
    engine::{Command, Failure, Reply, Status},
    shell::{api::Request, config::DEFAULT_PORT},
};

impl Daemon {
    pub(super) fn handle_request(&mut self, request: Request) {
        let Request { command, reply } = request;
        let answer = match command {
            Command::Attach {
                netns,
                ifname,
                addresses,
                subnets,
                naming,
            } => return self.attach_with((netns, ifname), addresses, &subnets, naming, reply),
            Command::Detach {
                netns,
                ifname,
                mut addresses,
                subnets,
            } => {
                let place = netns.to_string_lossy();
                match self.in_subnets(&place, Some(&ifname), &subnets) {
                    Ok(more) if more.is_empty() && addresses.is_empty() && !subnets.is_empty() => {
                        Err(Failure {
                            message: format!(
                                "{ifname} of {place} has no address of {}",
                                subnets.join(" ")
                            ),
                        })
                    }
                    Ok(more) => {
                        addresses.extend(more);
                        return self.detach(netns, ifname, addresses, reply);
                    }
                    Err(message) => Err(Failure { message }),
                }
            }
            Command::Expose { addresses, subnets } => {
                return self.expose_with(addresses, &subnets, reply);
            }
            Command::Hide {
                mut addresses,
                subnets,
            } => match self.in_subnets(HOST, None, &subnets) {
                Ok(more) if more.is_empty() && addresses.is_empty() && !subnets.is_empty() => {
                    Err(Failure {
                        message: format!("this host has no address of {}", subnets.join(" ")),
                    })
                }
                Ok(more) => {
                    addresses.extend(more);
                    return self.hide(addresses, reply);
                }
                Err(message) => Err(Failure { message }),
            },
            Command::Prime => return self.prime(reply),
            Command::Rmpeer { peers, force } => return self.take_over(peers, force, reply),
            Command::Stop => return self.ending = Some((Ending::Stop, Some(reply))),
            Command::Reset => return self.leave_for_good(reply),
            Command::Dns(command) => return self.dns(command, reply),
            Command::Token(command) => return self.token(&command, reply),
            Command::Connect { peers, replace } => self.connect(&peers, replace),
            Command::Forget { peers } => self.forget(&peers),
            Command::Status => Ok(Reply::Status(Box::new(self.status()))),
            Command::Report => self.report(),
            Command::Ps => Ok(Reply::Attachments {
                attachments: self.attachments.clone(),
            }),
            Command::LogLevel { filter } => match self.log.set(&filter) {
                Ok(()) => Ok(Reply::Done),
                Err(error) => Err(Failure {
                    message: error.to_string(),
                }),
            },
        };
        // A client that went away needs no answer.
        let _ = reply.send(answer);
    }

    /// The good ones of `peers`, and a line about each bad one.
    pub(super) fn parse_targets(&self, peers: &[String]) -> (Vec<Target>, Vec<String>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for peer in peers {
            match Target::parse(peer, DEFAULT_PORT) {
                Ok(target) => good.push(target),
                Err(error) => bad.push(error.to_string()),
            }
        }
        (good, bad)
    }

    fn connect(&mut self, peers: &[String], replace: bool) -> Answer {
        let (targets, warnings) = self.parse_targets(peers);
        self.router.connect(&targets, replace, Instant::now());
        Ok(if warnings.is_empty() {
            Reply::Done
        } else {
            Reply::Warned { warnings }
        })
    }

    fn forget(&mut self, peers: &[String]) -> Answer {
        let (targets, mut warnings) = self.parse_targets(peers);
        let known = self.router.targets();
        let unknown = targets.iter().filter(|t| !known.contains(&t.to_string()));
        warnings.extend(
            unknown.map(|t| format!("{t} is not a target: `wove status targets` lists them")),
        );
        self.router.forget(&targets, Instant::now());
        Ok(if warnings.is_empty() {
            Reply::Done
        } else {
            Reply::Warned { warnings }
        })
    }

    fn status(&self) -> Status {
        let mut status = self.router.status(Instant::now());
        status.router.ready = self.plane.is_running();
        status.counters.resident_bytes = resident_bytes();
        self.dns_status(&mut status.dns);
        self.trim_claims(&mut status);
        status
    }

    fn report(&self) -> Answer {
        let status = serde_json::to_value(self.status()).map_err(|e| Failure {
            message: e.to_string(),
        })?;
        let report = serde_json::json!({
            "status": status,
            "attachments": self.attachments,
            "gossip": format!("{:?}", self.router.gossip_counters()),
            "config": {
                "state_dir": self.config.state_dir,
                "socket": self.config.socket,
                "bridge": self.config.bridge,
                "mtu": self.host_config.mtu,
                "discovery": self.config.discovery,
                "secrets": self.network.secrets().iter().map(crypto::Secret::id).collect::<Vec<_>>(),
            },
        });
        Ok(Reply::Report { report })
    }
}

/// Resident memory of this process in bytes; 0 if the kernel does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|p| p.parse().ok())
        .unwrap_or(0);
    pages * 4096
}
