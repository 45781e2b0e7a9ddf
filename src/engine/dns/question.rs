//! What a query asks, in the terms of the directory.

use std::net::IpAddr;

use hickory_proto::rr::Name;

/// Whom a question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The domain itself.
    Domain,
    /// A name in the domain, as records have it; none if it cannot be one.
    InDomain(Option<String>),
    /// A name of one label, which a client should have completed.
    Short(String),
    /// The name of an address.
    Address(IpAddr),
    /// Anything else.
    Other,
}

impl Question {
    /// Sorts a name; `domain` are the labels of our domain in lower case.
    pub fn of(name: &Name, domain: &[Box<[u8]>]) -> Self {
        let labels: Vec<&[u8]> = name.iter().collect();
        if let Some(inside) = labels.len().checked_sub(domain.len()) {
            let (own, above) = labels.split_at(inside);
            let mut pairs = above.iter().zip(domain);
            if pairs.all(|(a, b)| a.eq_ignore_ascii_case(b)) {
                return match own {
                    [] => Self::Domain,
                    own => Self::InDomain(canonical(own)),
                };
            }
        }
        if let Some(address) = address_of(&labels) {
            return Self::Address(address);
        }
        match canonical(&labels).filter(|_| labels.len() == 1) {
            Some(name) => Self::Short(name),
            None => Self::Other,
        }
    }
}

/// The labels as one name; none if a record could not have it.
fn canonical(labels: &[&[u8]]) -> Option<String> {
    let mut text = String::new();
    for label in labels {
        if label.contains(&b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(std::str::from_utf8(label).ok()?);
    }
    gossip::names::canonical(&text)
}

/// The address whose reverse name this is (RFC 1035, section 3.5; RFC 3596).
fn address_of(labels: &[&[u8]]) -> Option<IpAddr> {
    let is = |at: usize, text: &str| labels[at].eq_ignore_ascii_case(text.as_bytes());
    match labels.len() {
        6 if is(4, "in-addr") && is(5, "arpa") => {
            let mut octets = [0; 4];
            for (octet, label) in octets.iter_mut().zip(labels[..4].iter().rev()) {
                let text = std::str::from_utf8(label).ok()?;
                let plain = text.bytes().all(|b| b.is_ascii_digit());
                *octet = text.parse().ok().filter(|_| plain)?;
            }
            Some(octets.into())
        }
        34 if is(32, "ip6") && is(33, "arpa") => {
            let mut value = 0_u128;
            for label in labels[..32].iter().rev() {
                let [digit] = label else { return None };
                value = value << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(std::net::Ipv6Addr::from(value).into())
        }
        _ => None,
    }
}

/// The reverse name of an address.
pub fn reversed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa.")
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let nibbles = (0..32).map(|at| format!("{:x}.", bits >> (4 * at) & 0xf));
            nibbles.collect::<String>() + "ip6.arpa."
        }
    }
}
