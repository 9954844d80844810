//! `user`: QEMU's network behind the host's own sockets, parsed and checked.

use crate::options::Options;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Longest of the names that DHCP carries (its options have one byte for the length).
const NAME_MAX: usize = 255;
/// Longest file name that BOOTP carries, without the zero byte.
const BOOTFILE_MAX: usize = 127;
/// Options of QEMU that need programs of the host, which a confined device does not start.
const NOT_SUPPORTED: &[&str] = &["guestfwd", "smb", "smbserver"];

/// The network that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are QEMU's properties")]
pub struct UserSpec {
    pub restrict: bool,
    pub ipv4: bool,
    pub network: Ipv4Addr,
    pub netmask: Ipv4Addr,
    pub host: Ipv4Addr,
    pub dns: Ipv4Addr,
    pub dhcp_start: Ipv4Addr,
    pub ipv6: bool,
    pub prefix6: Ipv6Addr,
    pub prefix6_length: u8,
    pub host6: Ipv6Addr,
    pub dns6: Ipv6Addr,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub dns_search: Vec<String>,
    pub tftp: Option<String>,
    pub tftp_server_name: Option<String>,
    pub bootfile: Option<String>,
    pub hostfwd: Vec<HostForward>,
}

/// Transport protocol of a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to one of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostForward {
    /// As it was given, for messages.
    pub text: String,
    /// Which protocol's port.
    pub protocol: Protocol,
    /// Where to listen; 0.0.0.0: on every address of the host.
    pub host: Ipv4Addr,
    /// Port of the host.
    pub host_port: u16,
    /// The guest's address; 0.0.0.0: the one DHCP gives out first.
    pub guest: Ipv4Addr,
    /// Port of the guest.
    pub guest_port: u16,
}

impl UserSpec {
    /// Takes the options of `user`.
    pub fn parse(context: &str, options: &mut Options) -> Result<UserSpec, String> {
        options.refuse(NOT_SUPPORTED, "is not supported: a device process starts no programs")?;
        let restrict = options.take_bool("restrict", false)?;
        let (ipv4, ipv6) = parse_versions(context, options)?;
        let (network, netmask) = parse_network(context, options)?;
        let in_network = |number: u32| Ipv4Addr::from_bits(network.to_bits() | number & !netmask.to_bits());
        let ip = |options: &mut Options, key: &str, default: u32| {
            parse_or(context, options, key, "an IPv4 address", in_network(default))
        };
        let ip6 = |options: &mut Options, key: &str, default: Ipv6Addr| {
            parse_or(context, options, key, "an IPv6 address", default)
        };
        let (prefix6, prefix6_length) = parse_prefix6(context, options)?;
        let in_prefix = |number: u128| Ipv6Addr::from_bits(prefix6.to_bits() | number);
        let forwards = options.take_all("hostfwd");
        let spec = UserSpec {
            restrict,
            ipv4,
            network,
            netmask,
            host: ip(options, "host", 0x0202)?,
            dns: ip(options, "dns", 0x0203)?,
            dhcp_start: ip(options, "dhcpstart", 0x020f)?,
            ipv6,
            prefix6,
            prefix6_length,
            host6: ip6(options, "ipv6-host", in_prefix(2))?,
            dns6: ip6(options, "ipv6-dns", in_prefix(3))?,
            hostname: take_name(context, options, "hostname", NAME_MAX)?,
            domainname: take_name(context, options, "domainname", NAME_MAX)?,
            dns_search: options.take_all("dnssearch"),
            tftp: options.take("tftp"),
            tftp_server_name: take_name(context, options, "tftp-server-name", NAME_MAX)?,
            bootfile: take_name(context, options, "bootfile", BOOTFILE_MAX)?,
            hostfwd: forwards
                .iter()
                .map(|text| HostForward::parse(context, text))
                .collect::<Result<_, _>>()?,
        };
        spec.check(context)?;
        Ok(spec)
    }

    /// The rules that QEMU has for the addresses.
    fn check(&self, context: &str) -> Result<(), String> {
        let refused = |why: &str| Err(format!("{context}: {why}"));
        let outside = |address: Ipv4Addr| address & self.netmask != self.network;
        if outside(self.host) {
            return refused("'host' is not in the network");
        }
        if self.restrict && outside(self.dns) {
            return refused("'dns' is not in the network, as restrict=on demands");
        }
        if outside(self.dhcp_start) {
            return refused("'dhcpstart' is not in the network");
        }
        if self.dns == self.host {
            return refused("'dns' and 'host' are the same address");
        }
        if self.dhcp_start == self.host || self.dhcp_start == self.dns {
            return refused("'dhcpstart' is the address of 'host' or 'dns'");
        }
        if self.host6 == self.dns6 {
            return refused("'ipv6-dns' and 'ipv6-host' are the same address");
        }
        match self.dns_search.iter().find(|name| name.is_empty() || name.len() > NAME_MAX) {
            Some(name) => refused(&format!("'dnssearch' is a domain of 1 to {NAME_MAX} bytes, not '{name}'")),
            None => Ok(()),
        }
    }
}

fn parse_or<T: std::str::FromStr>(
    context: &str,
    options: &mut Options,
    key: &str,
    what: &str,
    default: T,
) -> Result<T, String> {
    let Some(text) = options.take(key) else { return Ok(default) };
    text.parse().map_err(|_| format!("{context}: '{key}' is {what}, not '{text}'"))
}

fn take_name(
    context: &str,
    options: &mut Options,
    key: &str,
    bytes_max: usize,
) -> Result<Option<String>, String> {
    match options.take(key) {
        Some(name) if name.is_empty() || name.len() > bytes_max => {
            Err(format!("{context}: '{key}' has 1 to {bytes_max} bytes"))
        }
        name => Ok(name),
    }
}

/// Which versions of IP there are: naming one alone switches the other off.
fn parse_versions(context: &str, options: &mut Options) -> Result<(bool, bool), String> {
    let mut take = |key: &str| -> Result<Option<bool>, String> {
        let (if_unset_on, if_unset_off) =
            (options.clone().take_bool(key, true)?, options.take_bool(key, false)?);
        Ok((if_unset_on == if_unset_off).then_some(if_unset_on))
    };
    match (take("ipv4")?, take("ipv6")?) {
        (Some(false), Some(false)) => Err(format!("{context}: neither IPv4 nor IPv6")),
        (v4, v6) => Ok((v4.unwrap_or(v6 != Some(true)), v6.unwrap_or(v4 != Some(true)))),
    }
}

/// `net=ADDRESS[/LENGTH or /MASK]`; `ip=` is its old name. Without a mask the address class decides, as in QEMU.
fn parse_network(context: &str, options: &mut Options) -> Result<(Ipv4Addr, Ipv4Addr), String> {
    let old = options.take("ip");
    let Some(text) = options.take("net").or(old) else {
        return Ok((Ipv4Addr::new(10, 0, 2, 0), Ipv4Addr::new(255, 255, 255, 0)));
    };
    let refused = |what: &str| format!("{context}: 'net' is {what}, not '{text}'");
    let (address, mask) = match text.split_once('/') {
        Some((address, mask)) => (address, Some(mask)),
        None => (text.as_str(), None),
    };
    let address: Ipv4Addr = address.parse().map_err(|_| refused("ADDRESS[/LENGTH or /MASK]"))?;
    let mask = match mask {
        None => match address.octets()[0] {
            0..128 => Ipv4Addr::new(255, 0, 0, 0),
            128..192 => Ipv4Addr::new(255, 255, 0, 0),
            192.. => Ipv4Addr::new(255, 255, 255, 0),
        },
        Some(mask) => match mask.parse::<u32>() {
            Ok(length @ 4..=32) => Ipv4Addr::from_bits(u32::MAX << (32 - length)),
            Ok(_) => return Err(refused("a network whose length is 4 to 32")),
            Err(_) => mask.parse().map_err(|_| refused("ADDRESS[/LENGTH or /MASK]"))?,
        },
    };
    Ok((address & mask, mask))
}

/// `ipv6-net=PREFIX[/LENGTH]`, or QEMU's two options in its place.
fn parse_prefix6(context: &str, options: &mut Options) -> Result<(Ipv6Addr, u8), String> {
    let together = options.take("ipv6-net");
    let (prefix, length) = match together.as_deref().map(|text| text.split_once('/').unwrap_or((text, "64")))
    {
        Some((prefix, length)) => (Some(prefix.to_string()), Some(length.to_string())),
        None => (options.take("ipv6-prefix"), options.take("ipv6-prefixlen")),
    };
    let prefix = prefix.unwrap_or_else(|| "fec0::".into());
    let length = length.unwrap_or_else(|| "64".into());
    let parsed: Ipv6Addr = prefix
        .parse()
        .map_err(|_| format!("{context}: the IPv6 prefix is an IPv6 address, not '{prefix}'"))?;
    match length.parse() {
        Ok(bits @ 0..=126) => Ok((parsed, bits)),
        _ => Err(format!("{context}: the length of the IPv6 prefix is 0 to 126, not '{length}'")),
    }
}

impl HostForward {
    /// Parses `[tcp|udp]:[hostaddr]:hostport-[guestaddr]:guestport`.
    fn parse(context: &str, text: &str) -> Result<HostForward, String> {
        let refused = |what: &str| format!("{context}: hostfwd '{text}': {what}");
        let shape = || refused("it is tcp|udp:[hostaddr]:hostport-[guestaddr]:guestport");
        let (protocol, rest) = text.split_once(':').ok_or_else(shape)?;
        let protocol = match protocol {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            other => return Err(refused(&format!("the protocol is tcp or udp, not '{other}'"))),
        };
        let (host, guest) = rest.split_once('-').ok_or_else(shape)?;
        let end = |text: &str| -> Result<(Ipv4Addr, u16), String> {
            let (address, port) = text.rsplit_once(':').ok_or_else(shape)?;
            let address = match address {
                "" => Ipv4Addr::UNSPECIFIED,
                address => {
                    address.parse().map_err(|_| refused(&format!("'{address}' is no IPv4 address")))?
                }
            };
            match port.parse() {
                Ok(port @ 1..) => Ok((address, port)),
                _ => Err(refused(&format!("a port is 1 to 65535, not '{port}'"))),
            }
        };
        let ((host, host_port), (guest, guest_port)) = (end(host)?, end(guest)?);
        Ok(HostForward { text: text.to_string(), protocol, host, host_port, guest, guest_port })
    }
}
