//! The ranges out of which addresses are given, IPv4 and IPv6 side by side. An
//! offset stands for one address of each, so there is one space of offsets to
//! be shared out, and who owns the one address owns the other.

use std::net::{IpAddr, Ipv4Addr};

use gossip::space::Span;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::space::Range6;

/// What stands for the whole of both ranges.
const DEFAULT: &str = "default";
/// The longest prefix of a subnet of IPv4 that has addresses to give.
const LONGEST: u8 = 30;
/// How much longer an IPv6 prefix is that leaves as many addresses.
const LONGER: u8 = 96;

/// The ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// The IPv4 range.
    pub v4: Ipv4Net,
    /// The IPv6 range beside it.
    pub v6: Option<Ipv6Net>,
}

/// Where an address is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The offsets among which one is to be.
    pub span: Span,
    /// The networks in which the offset becomes an address.
    pub nets: Vec<IpNet>,
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, net) in self.nets.iter().enumerate() {
            let before = if at == 0 { "" } else { " and " };
            write!(f, "{before}{net}")?;
        }
        Ok(())
    }
}

impl Wanted {
    /// Whether an address was given, or could have been, for this wish.
    pub fn fits(&self, address: &IpNet) -> bool {
        self.nets
            .iter()
            .any(|net| net.prefix_len() == address.prefix_len() && net.contains(&address.addr()))
    }
}

impl Ranges {
    /// Both ranges, if they go together.
    ///
    /// # Errors
    /// Why they do not.
    pub fn new(v4: Ipv4Net, v6: Option<Ipv6Net>) -> Result<Self, String> {
        let longest = v4.prefix_len() + LONGER;
        if let Some(v6) = v6.filter(|v6| v6.prefix_len() > longest) {
            return Err(format!(
                "{v6} has fewer addresses than {v4}: give an IPv6 range with a prefix of {longest} at most"
            ));
        }
        Ok(Self { v4, v6 })
    }

    /// The IPv6 range, as peers tell it.
    pub fn range6(&self) -> Option<Range6> {
        self.v6.map(|v6| Range6 {
            base: v6.network(),
            prefix: v6.prefix_len(),
        })
    }

    /// How many offsets there are.
    pub fn total(&self) -> u32 {
        1 << (32 - u32::from(self.v4.prefix_len().clamp(1, 32)))
    }

    /// The part of the IPv6 range that offsets stand for.
    fn given6(&self) -> Option<Ipv6Net> {
        Ipv6Net::new(self.v6?.network(), self.v4.prefix_len() + LONGER).ok()
    }

    /// What offset an address stands for; none outside the ranges.
    pub fn offset(&self, address: IpAddr) -> Option<u32> {
        let at = match address {
            IpAddr::V4(v4) => v4.to_bits().checked_sub(self.v4.network().to_bits()),
            IpAddr::V6(v6) => self.range6()?.offset(v6),
        };
        at.filter(|at| *at < self.total())
    }

    /// The addresses that an offset stands for in what was wanted.
    pub fn addresses(&self, at: u32, wanted: &Wanted) -> Vec<IpNet> {
        let address = |net: &IpNet| {
            let of_family = |ip: &IpAddr| ip.is_ipv4() == net.addr().is_ipv4();
            let ip = self.both(at).find(of_family)?;
            IpNet::new(ip, net.prefix_len()).ok()
        };
        wanted.nets.iter().filter_map(address).collect()
    }

    /// All addresses that an offset stands for.
    pub fn both(&self, at: u32) -> impl Iterator<Item = IpAddr> {
        let v4 = Ipv4Addr::from_bits(self.v4.network().to_bits().wrapping_add(at));
        let v6 = self.range6().map(|range| range.address(at));
        [IpAddr::V4(v4)].into_iter().chain(v6.map(IpAddr::V6))
    }

    /// What `default`, or a subnet of either range, asks for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(&self, text: &str) -> Result<Wanted, String> {
        let text = text.strip_prefix("net:").unwrap_or(text);
        if text == DEFAULT {
            let v6 = self.v6.map(IpNet::V6);
            return Ok(Wanted {
                span: Span::new(0, self.total()),
                nets: [IpNet::V4(self.v4)].into_iter().chain(v6).collect(),
            });
        }
        let subnet: IpNet = text
            .parse()
            .map_err(|_| format!("net:{text} is no subnet: write net:CIDR or net:default"))?;
        if subnet.addr() != subnet.network() {
            return Err(format!(
                "{subnet} is an address and no subnet: write net:{}",
                subnet.trunc()
            ));
        }
        let span = match subnet {
            IpNet::V4(v4) => self.span4(v4)?,
            IpNet::V6(v6) => self.span6(v6)?,
        };
        Ok(Wanted {
            span,
            nets: vec![subnet],
        })
    }

    fn span4(&self, subnet: Ipv4Net) -> Result<Span, String> {
        if subnet.prefix_len() > LONGEST {
            return Err(format!(
                "{subnet} has no address to give: a subnet has a prefix of {LONGEST} at most"
            ));
        }
        let start = self.offset(subnet.network().into());
        match start.filter(|_| self.v4.contains(&subnet)) {
            Some(start) => Ok(Span::new(start, 1 << (32 - subnet.prefix_len()))),
            None => Err(format!(
                "{subnet} is not within {}, the range of --ipalloc-range",
                self.v4
            )),
        }
    }

    fn span6(&self, subnet: Ipv6Net) -> Result<Span, String> {
        let Some((range, given)) = self.v6.zip(self.given6()) else {
            return Err(format!(
                "{subnet} is IPv6, and this peer was launched without an IPv6 range: see --ipalloc-range6"
            ));
        };
        if subnet.prefix_len() > LONGEST + LONGER {
            return Err(format!(
                "{subnet} has no address to give: an IPv6 subnet has a prefix of {} at most",
                LONGEST + LONGER
            ));
        }
        if !range.contains(&subnet) {
            return Err(format!(
                "{subnet} is not within {range}, the range of --ipalloc-range6"
            ));
        }
        if subnet.contains(&given) {
            return Ok(Span::new(0, self.total()));
        }
        match self.offset(subnet.network().into()) {
            Some(start) => Ok(Span::new(start, 1 << (128 - subnet.prefix_len()))),
            None => Err(format!(
                "{subnet} has no address to give: of {range} only {given} is shared out, as many as {} has",
                self.v4
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges() -> Ranges {
        let v6 = Some("fd00:1::/64".parse().unwrap());
        Ranges::new("10.32.0.0/12".parse().unwrap(), v6).unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_offset_stands_for_an_address_of_each() {
        let ranges = ranges();
        let wanted = ranges.parse("net:default").unwrap();
        assert_eq!(
            ranges.addresses(0x8_0001, &wanted),
            nets(&["10.40.0.1/12", "fd00:1::8:1/64"])
        );
        for (text, at) in [
            ("10.40.0.1", Some(0x8_0001)),
            ("fd00:1::8:1", Some(0x8_0001)),
            ("10.31.255.255", None),
            ("10.48.0.0", None),
            ("fd00:1::10:0", None),
            ("fd00:1::1:0:0:1", None),
            ("fd00::1", None),
        ] {
            assert_eq!(ranges.offset(text.parse().unwrap()), at, "{text}");
        }
        assert!(wanted.fits(&"10.33.0.1/12".parse().unwrap()));
        assert!(!wanted.fits(&"10.33.0.1/24".parse().unwrap()));
    }

    #[test]
    fn a_subnet_of_either_is_an_aligned_span() {
        let ranges = ranges();
        let four = ranges.parse("net:10.32.7.0/24").unwrap();
        let six = ranges.parse("fd00:1::700/120").unwrap();
        assert_eq!(four.span, Span::new(0x700, 256));
        assert_eq!(six.span, four.span);
        assert_eq!(
            [
                ranges.addresses(0x705, &four),
                ranges.addresses(0x705, &six)
            ]
            .concat(),
            nets(&["10.32.7.5/24", "fd00:1::705/120"])
        );
        // More than there are offsets: all of them.
        let all = ranges.parse("net:fd00:1::/80").unwrap();
        assert_eq!(all.span, Span::new(0, 1 << 20));
        assert_eq!(all.span, ranges.parse("net:fd00:1::/108").unwrap().span);
    }

    #[test]
    fn what_has_no_address_is_refused_with_a_reason() {
        let ranges = ranges();
        for (text, why) in [
            ("net:10.32.0.0/31", "prefix of 30"),
            ("net:10.32.0.1/24", "write net:10.32.0.0/24"),
            ("net:10.48.0.0/24", "not within 10.32.0.0/12"),
            ("net:10.0.0.0/8", "not within 10.32.0.0/12"),
            ("net:fd00:1::/127", "prefix of 126"),
            ("net:fd00:2::/64", "not within fd00:1::/64"),
            ("net:fd00:1::/48", "not within fd00:1::/64"),
            ("net:fd00:1::10:0/120", "only fd00:1::/108"),
            ("net:x", "write net:CIDR"),
        ] {
            let error = ranges.parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        let alone = Ranges::new(ranges.v4, None).unwrap();
        let error = alone.parse("net:fd00:1::/64").unwrap_err();
        assert!(error.contains("--ipalloc-range6"), "{error}");
        assert_eq!(alone.parse("default").unwrap().nets.len(), 1);
        let tight = Ranges::new(ranges.v4, Some("fd00:1::/109".parse().unwrap()));
        assert!(tight.unwrap_err().contains("prefix of 108"));
    }
}
