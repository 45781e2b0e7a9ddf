//! What is said to nftables, as bytes (`include/uapi/linux/netfilter/nf_tables.h`).
//! Pure: no socket.

use std::net::IpAddr;

use zeroize::Zeroizing;

use super::{
    super::netlink::wire::{Message, NESTED, Request, attributes},
    DEVICE_PRIORITY,
};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(super) const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWELEMENT: u16 = SUBSYSTEM | 12;
const GETELEMENT: u16 = SUBSYSTEM | 13;
const DELELEMENT: u16 = SUBSYSTEM | 14;

const ACK: u16 = libc::NLM_F_ACK as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const DUMP: u16 = libc::NLM_F_DUMP as u16;

/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const UDP: u8 = 17;

const LIST_ELEM: u16 = 1;
const TABLE_USERDATA: u16 = 6;
const ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;

const META_PRIORITY: u32 = 2;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_SECPATH: u32 = 25;
const RT_XFRM: u32 = 4;
const REGISTER: u32 = 1;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
const NF_DROP: u32 = 0;

/// Addresses in one message: an attribute has at most 64 KiB.
const AT_ONCE: usize = 1000;
/// After what other programs have: nobody sends it elsewhere after this.
const PRIORITY: i32 = 300;

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chain {
    /// What comes to this host.
    In,
    /// What this host sends.
    Out,
}

impl Chain {
    const ALL: [Self; 2] = [Self::In, Self::Out];

    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }

    /// `NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`.
    fn hook(self) -> u32 {
        match self {
            Self::In => 1,
            Self::Out => 3,
        }
    }
}

/// Several messages that are carried out all or none.
pub(super) struct Batch<'a> {
    bytes: Vec<u8>,
    table: &'a str,
    next: &'a mut dyn FnMut() -> u32,
}

impl<'a> Batch<'a> {
    /// Begins; `next` numbers each message.
    pub(super) fn new(table: &'a str, next: &'a mut dyn FnMut() -> u32) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            table,
            next,
        };
        batch.border(BATCH_BEGIN);
        batch
    }

    /// Makes the table anew, whatever there was under its name.
    pub(super) fn replace(&mut self, port: u16) {
        self.add_table();
        self.delete();
        self.add_table();
        for (family, id) in [(IPV4, 1), (IPV6, 2)] {
            self.add_set(family, id);
        }
        for chain in Chain::ALL {
            self.add_chain(chain);
        }
        self.forbid_users(port);
        for family in [IPV4, IPV6] {
            self.forbid_clear(Chain::Out, family, port);
            self.forbid_clear(Chain::In, family, port);
        }
    }

    /// A table that bears no mark, as another program would make it.
    #[cfg(test)]
    pub(super) fn foreign_table(&mut self) {
        self.push(NEWTABLE, CREATE, |_| {});
    }

    /// Removes the table.
    pub(super) fn delete(&mut self) {
        self.push(DELTABLE, 0, |_| {});
    }

    /// Lets addresses pass in clear, or not any more.
    pub(super) fn change(&mut self, addresses: &[IpAddr], add: bool) {
        let (kind, flags) = if add {
            (NEWELEMENT, CREATE)
        } else {
            (DELELEMENT, 0)
        };
        for is_v4 in [true, false] {
            let of: Vec<IpAddr> = addresses
                .iter()
                .copied()
                .filter(|address| address.is_ipv4() == is_v4)
                .collect();
            let set = set_name(if is_v4 { IPV4 } else { IPV6 });
            for part in of.chunks(AT_ONCE) {
                self.push(kind, flags, |request| {
                    text(request, 2, set);
                    request.attribute(ELEMENTS | NESTED, |request| elements(request, part));
                });
            }
        }
    }

    /// The whole.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.border(BATCH_END);
        self.bytes
    }

    fn border(&mut self, kind: u16) {
        // Borders are not answered, so they bear no number of their own.
        let mut request = Request::new(kind, 0, 0);
        generic(&mut request, 0, 10);
        self.bytes.extend_from_slice(&request.finish());
    }

    /// A message about the table; all of them name it in their first attribute.
    fn push(&mut self, kind: u16, flags: u16, content: impl FnOnce(&mut Request)) {
        let mut request = Request::new(kind, flags | ACK, (self.next)());
        generic(&mut request, INET, 0);
        text(&mut request, 1, self.table);
        content(&mut request);
        self.bytes.extend_from_slice(&request.finish());
    }

    fn add_table(&mut self) {
        self.push(NEWTABLE, CREATE, |request| {
            let comment = stamp();
            request.attribute(TABLE_USERDATA, |request| request.bytes(&comment));
        });
    }

    fn add_set(&mut self, family: u8, id: u32) {
        let (kind, length) = match family {
            IPV4 => (7, 4), // as nft names types of keys
            _ => (8, 16),
        };
        self.push(NEWSET, CREATE, |request| {
            text(request, 2, set_name(family));
            number(request, 3, 0);
            number(request, 4, kind);
            number(request, 5, length);
            number(request, 10, id);
        });
    }

    fn add_chain(&mut self, chain: Chain) {
        self.push(NEWCHAIN, CREATE, |request| {
            text(request, 3, chain.name());
            request.attribute(4 | NESTED, |request| {
                number(request, 1, chain.hook());
                number(request, 2, PRIORITY.cast_unsigned());
            });
            text(request, 7, "filter");
        });
    }

    /// What is VXLAN, and not of the VXLAN device: dropped.
    fn forbid_users(&mut self, port: u16) {
        self.add_rule(Chain::Out, port, |request| {
            meta(request, META_PRIORITY);
            differs(request, &DEVICE_PRIORITY.to_ne_bytes());
        });
    }

    /// What is VXLAN, in clear, and not to or from an address of the set: dropped.
    fn forbid_clear(&mut self, chain: Chain, family: u8, port: u16) {
        let is_source = chain == Chain::In;
        // Offsets in the IP header.
        let (offset, length) = match (is_source, family) {
            (false, IPV4) => (16, 4),
            (true, IPV4) => (12, 4),
            (false, _) => (24, 16),
            (true, _) => (8, 16),
        };
        self.add_rule(chain, port, |request| {
            if is_source {
                meta(request, META_SECPATH);
            } else {
                load(request, "rt", RT_XFRM);
            }
            equals(request, &[0]);
            meta(request, META_NFPROTO);
            equals(request, &[family]);
            payload(request, NETWORK, offset, length);
            is_not_in(request, set_name(family));
        });
    }

    /// VXLAN of which this holds, too, is dropped.
    fn add_rule(&mut self, chain: Chain, port: u16, condition: impl FnOnce(&mut Request)) {
        self.push(NEWRULE, CREATE | APPEND, |request| {
            text(request, 2, chain.name());
            request.attribute(4 | NESTED, |request| {
                meta(request, META_L4PROTO);
                equals(request, &[UDP]);
                payload(request, TRANSPORT, 2, 2);
                equals(request, &port.to_be_bytes());
                condition(request);
                drop_it(request);
            });
        });
    }
}

/// Asks for the table.
pub(super) fn get_table(table: &str, sequence: u32) -> Zeroizing<Vec<u8>> {
    question(GETTABLE, ACK, sequence, |request| text(request, 1, table))
}

/// What the table has but for the addresses, each a question of
/// its own, and whether it is a list.
pub(super) fn get_parts(table: &str) -> [(u16, u16, [Option<&str>; 3]); 4] {
    let chain = |chain: Chain| (GETCHAIN, ACK, [Some(table), None, Some(chain.name())]);
    [
        (GETTABLE, ACK, [Some(table), None, None]),
        chain(Chain::In),
        chain(Chain::Out),
        (GETRULE, DUMP, [Some(table), None, None]),
    ]
}

/// One of those.
pub(super) fn get_part(
    (kind, flags, names): (u16, u16, [Option<&str>; 3]),
    sequence: u32,
) -> Zeroizing<Vec<u8>> {
    question(kind, flags, sequence, |request| {
        for (at, name) in (1..).zip(names) {
            if let Some(name) = name {
                text(request, at, name);
            }
        }
    })
}

/// Asks for the addresses of one family.
pub(super) fn get_addresses(table: &str, is_v4: bool, sequence: u32) -> Zeroizing<Vec<u8>> {
    question(GETELEMENT, DUMP, sequence, |request| {
        text(request, 1, table);
        text(request, 2, set_name(if is_v4 { IPV4 } else { IPV6 }));
    })
}

/// Whether a table in an answer is ours.
pub(super) fn is_ours(message: &Message<'_>) -> bool {
    let Some(rest) = message.payload.get(4..) else {
        return false;
    };
    let mut userdata = attributes(rest).filter(|(kind, _)| *kind == TABLE_USERDATA);
    userdata.any(|(_, bytes)| bytes == stamp())
}

/// The addresses in an answer.
pub(super) fn read_addresses(message: &Message<'_>) -> Vec<IpAddr> {
    let rest = message.payload.get(4..).unwrap_or_default();
    let within = |bytes, wanted| attributes(bytes).filter(move |(kind, _)| *kind == wanted);
    within(rest, ELEMENTS)
        .flat_map(|(_, list)| within(list, LIST_ELEM))
        .flat_map(|(_, element)| within(element, ELEMENT_KEY))
        .flat_map(|(_, key)| within(key, DATA_VALUE))
        .filter_map(|(_, bytes)| address(bytes))
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

/// What marks the table as ours: a comment, as nft writes and shows it.
fn stamp() -> Vec<u8> {
    let comment = b"wove: VXLAN in clear\0";
    let length = u8::try_from(comment.len()).expect("it is short");
    [&[0, length], &comment[..]].concat()
}

fn set_name(family: u8) -> &'static str {
    match family {
        IPV4 => "clear4",
        _ => "clear6",
    }
}

fn question(
    kind: u16,
    flags: u16,
    sequence: u32,
    content: impl FnOnce(&mut Request),
) -> Zeroizing<Vec<u8>> {
    let mut request = Request::new(kind, flags, sequence);
    generic(&mut request, INET, 0);
    content(&mut request);
    request.finish()
}

/// `struct nfgenmsg`.
fn generic(request: &mut Request, family: u8, resource: u16) {
    request.u8(family);
    request.u8(0); // version
    request.bytes(&resource.to_be_bytes());
}

fn text(request: &mut Request, kind: u16, text: &str) {
    request.attribute(kind, |request| {
        request.bytes(text.as_bytes());
        request.u8(0);
    });
}

fn number(request: &mut Request, kind: u16, value: u32) {
    request.attribute(kind, |request| request.bytes(&value.to_be_bytes()));
}

fn elements(request: &mut Request, addresses: &[IpAddr]) {
    for address in addresses {
        request.attribute(LIST_ELEM | NESTED, |request| {
            request.attribute(ELEMENT_KEY | NESTED, |request| {
                request.attribute(DATA_VALUE, |request| match address {
                    IpAddr::V4(ip) => request.bytes(&ip.octets()),
                    IpAddr::V6(ip) => request.bytes(&ip.octets()),
                });
            });
        });
    }
}

/// One step of a rule.
fn step(request: &mut Request, name: &str, content: impl FnOnce(&mut Request)) {
    request.attribute(LIST_ELEM | NESTED, |request| {
        text(request, 1, name);
        request.attribute(2 | NESTED, content);
    });
}

fn load(request: &mut Request, name: &str, key: u32) {
    step(request, name, |request| {
        number(request, 1, REGISTER);
        number(request, 2, key);
    });
}

fn meta(request: &mut Request, key: u32) {
    load(request, "meta", key);
}

fn payload(request: &mut Request, base: u32, offset: u32, length: u32) {
    step(request, "payload", |request| {
        number(request, 1, REGISTER);
        number(request, 2, base);
        number(request, 3, offset);
        number(request, 4, length);
    });
}

fn equals(request: &mut Request, value: &[u8]) {
    compare(request, 0, value); // NFT_CMP_EQ
}

fn differs(request: &mut Request, value: &[u8]) {
    compare(request, 1, value); // NFT_CMP_NEQ
}

fn compare(request: &mut Request, how: u32, value: &[u8]) {
    step(request, "cmp", |request| {
        number(request, 1, REGISTER);
        number(request, 2, how);
        request.attribute(3 | NESTED, |request| {
            request.attribute(DATA_VALUE, |request| request.bytes(value));
        });
    });
}

fn is_not_in(request: &mut Request, set: &str) {
    step(request, "lookup", |request| {
        text(request, 1, set);
        number(request, 2, REGISTER);
        number(request, 5, 1); // NFT_LOOKUP_F_INV
    });
}

fn drop_it(request: &mut Request) {
    step(request, "immediate", |request| {
        number(request, 1, 0); // NFT_REG_VERDICT
        request.attribute(2 | NESTED, |request| {
            request.attribute(2 | NESTED, |request| number(request, 1, NF_DROP));
        });
    });
}
