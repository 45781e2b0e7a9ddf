//! Replies as text for people and JSON for scripts. It knows neither the socket
//! they came from nor the stream they go to.

use ipnet::IpNet;
use serde_json::{Value, json};
use wove::{
    engine::{Attachment, Reply, Status, TakenOver},
    shell::view::{self, Page, Table},
};

use crate::{args::Output, failure::Failure};

/// What a command prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// For standard output.
    pub out: String,
    /// For standard error, one line each: done, but.
    pub notes: Vec<String>,
}

impl Printed {
    fn text(out: impl Into<String>) -> Self {
        Self {
            out: out.into(),
            notes: Vec::new(),
        }
    }

    /// JSON as `-o json` prints it.
    pub fn json(value: &Value) -> Self {
        Self::text(format!("{value:#}\n"))
    }
}

/// A reply as it is printed; `page` selects the part of a status.
pub fn reply(reply: &Reply, output: Output, page: Option<Page>) -> Result<Printed, Failure> {
    match output {
        Output::Json => Ok(Printed::json(&as_json(reply, page))),
        Output::Text => as_text(reply, page),
    }
}

fn as_json(reply: &Reply, page: Option<Page>) -> Value {
    match reply {
        Reply::Done => json!({}),
        Reply::Warned { warnings } => json!({ "warnings": warnings }),
        Reply::Status(status) => {
            let mut whole = view::contract(status);
            match page {
                None => whole,
                Some(page) => whole[page.key()].take(),
            }
        }
        Reply::Report { report } => report.clone(),
        Reply::Attached(attachment) => json!(attachment),
        Reply::Addresses { addresses } => json!({ "addresses": addresses }),
        Reply::Names { name, found } => json!({ "name": name, "found": found }),
        Reply::Attachments { attachments } => json!(attachments),
        Reply::TakenOver { taken } => json!({ "taken": taken }),
        Reply::Token {
            token,
            join,
            accepted,
        } => json!({ "token": token, "join": join, "accepted": accepted }),
    }
}

fn as_text(reply: &Reply, page: Option<Page>) -> Result<Printed, Failure> {
    let printed = match reply {
        Reply::Done => Printed::default(),
        Reply::Warned { warnings } => Printed {
            out: String::new(),
            notes: warnings.clone(),
        },
        Reply::Status(status) => Printed::text(status_text(status, page)),
        Reply::Report { report } => Printed::json(report),
        Reply::Attached(attachment) => Printed::text(addresses_line(&attachment.addresses)),
        Reply::Addresses { addresses } => Printed::text(addresses_line(addresses)),
        Reply::Names { found, .. } => Printed::text(
            found
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        ),
        Reply::Attachments { attachments } => {
            Printed::text(attachments_table(attachments).to_string())
        }
        Reply::TakenOver { taken } => {
            let line = |one: &TakenOver| {
                format!("{} addresses taken over from {}\n", one.addresses, one.peer)
            };
            Printed::text(taken.iter().map(line).collect::<String>())
        }
        Reply::Token {
            token: Some(token), ..
        } => Printed::text(format!("{token}\n")),
        Reply::Token { token: None, .. } => {
            return Err(Failure::failed(
                "this network has a password and no token: join with the password, or make a token with `wove token add`",
            ));
        }
    };
    Ok(printed)
}

fn status_text(status: &Status, page: Option<Page>) -> String {
    match page {
        None => view::summary_text(status),
        Some(Page::Ipam) => view::ipam_text(status),
        Some(page) => view::table(status, page).to_string(),
    }
}

/// One line for a shell to split; nothing when there are none.
fn addresses_line(addresses: &[IpNet]) -> String {
    match addresses.is_empty() {
        true => String::new(),
        false => join(addresses, " ") + "\n",
    }
}

fn attachments_table(attachments: &[Attachment]) -> Table {
    let row = |a: &Attachment| {
        vec![
            a.netns.clone(),
            a.ifname.clone(),
            a.mac.to_string(),
            join(&a.addresses, ","),
            a.naming.names.join(","),
        ]
    };
    Table {
        title: "attachments",
        header: &["NETNS", "IFNAME", "MAC", "ADDRESSES", "NAMES"],
        rows: attachments.iter().map(row).collect(),
    }
}

fn join(addresses: &[IpNet], separator: &str) -> String {
    addresses
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        serde_json::from_value(json!({
            "netns": "/run/netns/c1", "ifname": "wove0", "mac": "02:00:00:00:00:05",
            "addresses": ["10.32.1.5/24", "fd00:32::5/64"], "names": ["web"],
        }))
        .unwrap()
    }

    fn text(of: &Reply) -> Printed {
        reply(of, Output::Text, None).unwrap()
    }

    fn json_of(of: &Reply) -> Value {
        serde_json::from_str(&reply(of, Output::Json, None).unwrap().out).unwrap()
    }

    #[test]
    fn addresses_are_one_line() {
        let attached = Reply::Attached(attachment());
        assert_eq!(text(&attached).out, "10.32.1.5/24 fd00:32::5/64\n");
        assert_eq!(json_of(&attached)["addresses"][0], "10.32.1.5/24");
        assert_eq!(
            text(&Reply::Addresses {
                addresses: Vec::new()
            })
            .out,
            ""
        );
    }

    #[test]
    fn what_is_attached_is_a_table() {
        let reply = Reply::Attachments {
            attachments: vec![attachment()],
        };
        let text = text(&reply).out;
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["NETNS", "IFNAME", "MAC", "ADDRESSES", "NAMES"]);
        assert_eq!(
            rows[1][..3],
            ["/run/netns/c1", "wove0", "02:00:00:00:00:05"]
        );
        assert_eq!(json_of(&reply)[0]["ifname"], "wove0");
    }

    #[test]
    fn warnings_are_notes_and_done_is_silent() {
        let warned = Reply::Warned {
            warnings: vec!["c does not resolve".into()],
        };
        assert_eq!(
            text(&warned),
            Printed {
                out: String::new(),
                notes: vec!["c does not resolve".into()]
            }
        );
        assert_eq!(text(&Reply::Done), Printed::default());
        assert_eq!(json_of(&Reply::Done), json!({}));
    }

    #[test]
    fn a_token_is_alone_on_its_line() {
        let token = |token: Option<&str>| Reply::Token {
            token: token.map(Into::into),
            join: "wove launch".into(),
            accepted: 2,
        };
        assert_eq!(text(&token(Some("abc"))).out, "abc\n");
        assert_eq!(
            json_of(&token(None)),
            json!({"token": null, "join": "wove launch", "accepted": 2})
        );
        assert!(reply(&token(None), Output::Text, None).is_err());
    }
}
