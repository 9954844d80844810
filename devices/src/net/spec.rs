//! What a network device is connected to, parsed from QEMU's `-netdev` syntax.

use super::spec_user::UserSpec;
use crate::chardev::spec::{Address, Family};
use crate::options::Options;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// A parsed `-netdev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetdevSpec {
    /// `id=`.
    pub id: Option<String>,
    /// The host side.
    pub host: HostSpec,
}

/// The host side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostSpec {
    /// A network of its own behind the host's sockets.
    User(Box<UserSpec>),
    /// A network interface of the host.
    Tap(TapSpec),
    /// A peer at the other end of a stream socket.
    Stream(StreamSpec),
    /// A peer, or several, reached by datagrams.
    Dgram(DgramSpec),
    /// Nobody.
    Nothing,
}

/// A network interface of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapSpec {
    /// One that we open.
    Open {
        /// Its name, or a name the kernel chooses.
        ifname: Option<String>,
        /// What sets it up.
        script: Script,
        /// Frames carry the header that offloads need.
        vnet_header: bool,
    },
    /// An open one that was inherited.
    Inherited(RawFd),
}

/// The program that sets an interface up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    /// None.
    No,
    /// QEMU's default, where the host has one.
    Default,
    /// This one.
    File(PathBuf),
}

/// A stream socket and who connects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Where.
    pub address: Address,
    /// We listen.
    pub server: bool,
    /// A client connects again after this.
    pub reconnect: Option<Duration>,
}

/// A datagram socket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are QEMU's properties")]
pub enum DgramSpec {
    /// Between two UNIX sockets.
    Unix { local: String, remote: String },
    /// Between two UDP ports.
    Udp { local: (String, u16), remote: (String, u16) },
    /// A multicast group that everyone hears; `local`: the interface's address.
    Multicast { group: Ipv4Addr, port: u16, local: Option<Ipv4Addr> },
    /// An inherited socket, connected.
    Inherited(RawFd),
}

impl NetdevSpec {
    /// Parses the value of `-netdev`.
    pub fn parse(text: &str) -> Result<NetdevSpec, String> {
        let context = format!("-netdev {text}");
        let mut options = Options::parse(&context, text, "type")?;
        let kind = options.take_required("type")?;
        let id = options.take("id");
        let host = match kind.as_str() {
            "user" => HostSpec::User(Box::new(UserSpec::parse(&context, &mut options)?)),
            "tap" => HostSpec::Tap(TapSpec::parse(&context, &mut options)?),
            "stream" => HostSpec::Stream(StreamSpec::parse(&context, &mut options)?),
            "dgram" => HostSpec::Dgram(DgramSpec::parse(&context, &mut options)?),
            "socket" => parse_socket(&context, &mut options)?,
            "none" => HostSpec::Nothing,
            other => return Err(format!("{context}: the netdev '{other}' is not supported")),
        };
        options.finish()?;
        Ok(NetdevSpec { id, host })
    }
}

impl TapSpec {
    fn parse(context: &str, options: &mut Options) -> Result<TapSpec, String> {
        options.refuse(
            &["fds", "vhostfd", "vhostfds", "vhostforce", "helper", "br", "sndbuf", "poll-us"],
            "is not supported",
        )?;
        if options.take_bool("vhost", false)? {
            return Err(format!("{context}: vhost=on is not supported: use vhost=off"));
        }
        if options.take_number::<u32>("queues")?.is_some_and(|queues| queues != 1) {
            return Err(format!("{context}: only queues=1 is supported"));
        }
        let fd = options.take_number::<RawFd>("fd")?;
        if let Some(fd) = fd {
            options.refuse(&["ifname", "script", "downscript", "vnet_hdr"], "cannot be given with 'fd'")?;
            return Ok(TapSpec::Inherited(fd));
        }
        if options.take("downscript").is_some_and(|script| script != "no") {
            let why = "a device process starts no programs at its end: use downscript=no";
            return Err(format!("{context}: {why}"));
        }
        let ifname = options.take("ifname");
        if ifname.as_ref().is_some_and(|name| name.is_empty() || name.len() >= nix::libc::IFNAMSIZ) {
            return Err(format!("{context}: 'ifname' has 1 to {} bytes", nix::libc::IFNAMSIZ - 1));
        }
        let script = match options.take("script").as_deref() {
            None => Script::Default,
            Some("no" | "") => Script::No,
            Some(path) => Script::File(path.into()),
        };
        Ok(TapSpec::Open { ifname, script, vnet_header: options.take_bool("vnet_hdr", true)? })
    }
}

impl StreamSpec {
    fn parse(context: &str, options: &mut Options) -> Result<StreamSpec, String> {
        let server = options.take_bool("server", false)?;
        let seconds = options.take_number::<u64>("reconnect")?.map(Duration::from_secs);
        let milliseconds = options.take_number::<u64>("reconnect-ms")?.map(Duration::from_millis);
        let reconnect = seconds.or(milliseconds).filter(|interval| !interval.is_zero());
        let address = match options.take_required("addr.type")?.as_str() {
            "unix" => {
                // Whether the zero bytes behind an abstract name count; here they never do.
                if !options.take_bool("addr.tight", true)? {
                    return Err(format!("{context}: addr.tight=off is not supported"));
                }
                let in_abstract = options.take_bool("addr.abstract", false)?;
                Address::Unix { path: options.take_required("addr.path")?, in_abstract }
            }
            "inet" => parse_inet(context, options)?,
            "fd" => Address::Inherited(parse_fd(context, options, "addr.str")?),
            other => return Err(format!("{context}: addr.type is unix, inet or fd, not '{other}'")),
        };
        if server && reconnect.is_some() {
            return Err(format!("{context}: 'reconnect' is for a client"));
        }
        if reconnect.is_some() && matches!(address, Address::Inherited(_)) {
            return Err(format!("{context}: an inherited socket cannot be connected again"));
        }
        Ok(StreamSpec { address, server, reconnect })
    }
}

fn parse_inet(context: &str, options: &mut Options) -> Result<Address, String> {
    let host = options.take_required("addr.host")?;
    let missing = || format!("{context}: 'addr.port' is missing");
    let port = options.take_number::<u16>("addr.port")?.ok_or_else(missing)?;
    let port_last = options.take_number::<u16>("addr.to")?.unwrap_or(port);
    let (v4, v6) = (options.take_bool("addr.ipv4", false)?, options.take_bool("addr.ipv6", false)?);
    let family = match (v4, v6) {
        (true, false) => Family::V4,
        (false, true) => Family::V6,
        _ => Family::Any,
    };
    Ok(Address::Tcp { host, port, port_last, family })
}

fn parse_fd(context: &str, options: &mut Options, key: &str) -> Result<RawFd, String> {
    let missing = || format!("{context}: '{key}' is missing");
    options.take_number(key)?.ok_or_else(missing)
}

impl DgramSpec {
    fn parse(context: &str, options: &mut Options) -> Result<DgramSpec, String> {
        let (local, remote) = (options.take("local.type"), options.take("remote.type"));
        match (local.as_deref(), remote.as_deref()) {
            (Some("fd"), None) => Ok(DgramSpec::Inherited(parse_fd(context, options, "local.str")?)),
            (Some("unix"), Some("unix")) => Ok(DgramSpec::Unix {
                local: options.take_required("local.path")?,
                remote: options.take_required("remote.path")?,
            }),
            (local @ (None | Some("inet")), Some("inet")) => {
                let remote = take_host_and_port(context, options, "remote")?;
                match remote.0.parse::<Ipv4Addr>() {
                    Ok(group) if group.is_multicast() => {
                        options.refuse(&["local.port"], "has no meaning for a multicast group")?;
                        let local = options.take("local.host");
                        let local = local.map(|text| parse_local(context, &text)).transpose()?;
                        Ok(DgramSpec::Multicast { group, port: remote.1, local })
                    }
                    _ if local.is_none() => Err(format!("{context}: 'local.type' is missing")),
                    _ => Ok(DgramSpec::Udp { local: take_host_and_port(context, options, "local")?, remote }),
                }
            }
            (None, None) => Err(format!("{context}: 'local.type' and 'remote.type' are missing")),
            _ => Err(format!(
                "{context}: local.type and remote.type are both unix or both inet, or local.type is fd alone"
            )),
        }
    }
}

fn take_host_and_port(context: &str, options: &mut Options, side: &str) -> Result<(String, u16), String> {
    let host = options.take_required(&format!("{side}.host"))?;
    let missing = || format!("{context}: '{side}.port' is missing");
    Ok((host, options.take_number(&format!("{side}.port"))?.ok_or_else(missing)?))
}

fn parse_local(context: &str, text: &str) -> Result<Ipv4Addr, String> {
    text.parse().map_err(|_| format!("{context}: the local address is an IPv4 address, not '{text}'"))
}

/// The older `socket`, with one option for each kind.
fn parse_socket(context: &str, options: &mut Options) -> Result<HostSpec, String> {
    let local = options.take("localaddr");
    let kinds = ["fd", "listen", "connect", "mcast", "udp"].map(|key| options.take(key));
    if kinds.iter().flatten().count() != 1 {
        return Err(format!(
            "{context}: exactly one of 'fd', 'listen', 'connect', 'mcast' and 'udp' is needed"
        ));
    }
    let [fd, listen, connect, mcast, udp] = kinds;
    if local.is_some() && mcast.is_none() && udp.is_none() {
        return Err(format!("{context}: 'localaddr' is for 'mcast' and 'udp'"));
    }
    let stream = |address, server| HostSpec::Stream(StreamSpec { address, server, reconnect: None });
    let tcp = |text: &str| -> Result<Address, String> {
        let (host, port) = split_port(context, text)?;
        Ok(Address::Tcp { host, port, port_last: port, family: Family::Any })
    };
    match (fd, listen, connect, mcast, udp) {
        (Some(fd), ..) => match fd.parse() {
            Ok(fd) => Ok(stream(Address::Inherited(fd), false)),
            Err(_) => Err(format!("{context}: 'fd' is a number, not '{fd}'")),
        },
        (_, Some(listen), ..) => Ok(stream(tcp(&listen)?, true)),
        (_, _, Some(connect), ..) => Ok(stream(tcp(&connect)?, false)),
        (_, _, _, Some(mcast), _) => {
            let (group, port) = split_port(context, &mcast)?;
            let local = local.map(|text| parse_local(context, &text)).transpose()?;
            match group.parse::<Ipv4Addr>() {
                Ok(group) if group.is_multicast() => {
                    Ok(HostSpec::Dgram(DgramSpec::Multicast { group, port, local }))
                }
                _ => Err(format!("{context}: '{group}' is no IPv4 multicast address")),
            }
        }
        (.., Some(udp)) => {
            let local = local.ok_or_else(|| format!("{context}: 'localaddr' is missing"))?;
            let (local, remote) = (split_port(context, &local)?, split_port(context, &udp)?);
            Ok(HostSpec::Dgram(DgramSpec::Udp { local, remote }))
        }
        (None, None, None, None, None) => unreachable!("exactly one is there"),
    }
}

/// `[host]:port`.
fn split_port(context: &str, text: &str) -> Result<(String, u16), String> {
    let split = text.rsplit_once(':').and_then(|(host, port)| Some((host.to_string(), port.parse().ok()?)));
    split.ok_or_else(|| format!("{context}: '{text}' is not [host]:port"))
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
