//! What a chardev is connected to, parsed from QEMU's `-chardev` syntax.

use crate::options::Options;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

/// A parsed `-chardev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChardevSpec {
    /// `id=`.
    pub id: Option<String>,
    /// The host side.
    pub stream: StreamSpec,
    /// `logfile=` and `logappend=`.
    pub log: Option<FileSpec>,
    /// `mux=on`: shared with the monitor.
    pub mux: bool,
}

/// The host side of a chardev.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are QEMU's properties")]
pub enum StreamSpec {
    /// Standard input and output; `signals`: ^C reaches the host.
    Stdio { signals: bool },
    /// Output to a file, input from another or none.
    File { output: FileSpec, input: Option<PathBuf> },
    /// FIFOs `path.in` and `path.out`, or `path` for both.
    Pipe { path: PathBuf },
    /// A new pseudo-terminal.
    Pty,
    /// A terminal device of the host.
    Serial { path: PathBuf },
    /// Neither input nor output.
    Null,
    /// A stream socket.
    Socket(SocketSpec),
}

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Where.
    pub path: PathBuf,
    /// Keep what is in it.
    pub append: bool,
}

/// A socket and who connects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketSpec {
    /// Where.
    pub address: Address,
    /// We listen.
    pub server: bool,
    /// The device is ready only when a client is there.
    pub wait: bool,
    /// Speak the telnet protocol.
    pub telnet: bool,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// A client connects again after this.
    pub reconnect: Option<Duration>,
}

/// A socket's address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are QEMU's properties")]
pub enum Address {
    /// A path, or a name in Linux's abstract namespace.
    Unix { path: String, in_abstract: bool },
    /// A host name or address, and a port or the first of a range.
    Tcp { host: String, port: u16, port_last: u16, family: Family },
    /// An inherited descriptor, connected or listening.
    Inherited(RawFd),
}

/// Which versions of IP may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Either.
    Any,
    /// Only version 4.
    V4,
    /// Only version 6.
    V6,
}

impl ChardevSpec {
    /// Parses the value of `-chardev`.
    pub fn parse(text: &str) -> Result<ChardevSpec, String> {
        let context = format!("-chardev {text}");
        let mut options = Options::parse(&context, text, "backend")?;
        let backend = options.take_required("backend")?;
        let id = options.take("id");
        let mux = options.take_bool("mux", false)?;
        let append = options.take_bool("logappend", false)?;
        let log = options.take("logfile").map(|path| FileSpec { path: path.into(), append });
        let stream = parse_stream(&context, &backend, &mut options)?;
        options.finish()?;
        Ok(ChardevSpec { id, stream, log, mux })
    }
}

fn parse_stream(context: &str, backend: &str, options: &mut Options) -> Result<StreamSpec, String> {
    let path = |options: &mut Options| options.take_required("path").map(PathBuf::from);
    Ok(match backend {
        "stdio" => StreamSpec::Stdio { signals: options.take_bool("signal", true)? },
        "file" => StreamSpec::File {
            output: FileSpec { path: path(options)?, append: options.take_bool("append", false)? },
            input: options.take("input-path").map(PathBuf::from),
        },
        "pipe" => StreamSpec::Pipe { path: path(options)? },
        "pty" => StreamSpec::Pty,
        "serial" | "tty" => StreamSpec::Serial { path: path(options)? },
        "null" => StreamSpec::Null,
        "socket" => StreamSpec::Socket(parse_socket(context, options)?),
        other => return Err(format!("{context}: the backend '{other}' is not supported")),
    })
}

fn parse_socket(context: &str, options: &mut Options) -> Result<SocketSpec, String> {
    let address = parse_address(context, options)?;
    let server = options.take_bool("server", false)?;
    let wait = options.take_bool("wait", server)?;
    let reconnect = options.take_number::<u64>("reconnect")?.filter(|&seconds| seconds > 0);
    let spec = SocketSpec {
        address,
        server,
        wait,
        telnet: options.take_bool("telnet", false)?,
        nodelay: options.take_bool("nodelay", false)? || !options.take_bool("delay", true)?,
        reconnect: reconnect.map(Duration::from_secs),
    };
    if wait && !server && !matches!(spec.address, Address::Inherited(_)) {
        return Err(format!("{context}: 'wait' is for a server"));
    }
    if server && spec.reconnect.is_some() {
        return Err(format!("{context}: 'reconnect' is for a client"));
    }
    Ok(spec)
}

fn parse_address(context: &str, options: &mut Options) -> Result<Address, String> {
    let in_abstract = options.take_bool("abstract", false)?;
    let port = options.take_number::<u16>("port")?;
    let to = options.take_number::<u16>("to")?;
    let host = options.take("host");
    let (v4, v6) = (take_family(options, "ipv4")?, take_family(options, "ipv6")?);
    match (options.take("path"), options.take_number::<RawFd>("fd")?, port) {
        (Some(path), None, None) => Ok(Address::Unix { path, in_abstract }),
        (None, Some(number), None) => Ok(Address::Inherited(number)),
        (None, None, Some(port)) => Ok(Address::Tcp {
            host: host.unwrap_or_default(),
            port,
            port_last: to.unwrap_or(port),
            family: match (v4, v6) {
                (Some(true), None | Some(false)) | (None, Some(false)) => Family::V4,
                (None | Some(false), Some(true)) | (Some(false), None) => Family::V6,
                (None, None) | (Some(true), Some(true)) => Family::Any,
                (Some(false), Some(false)) => return Err(format!("{context}: neither IPv4 nor IPv6")),
            },
        }),
        (None, None, None) => Err(format!("{context}: one of 'path', 'port' and 'fd' is missing")),
        _ => Err(format!("{context}: only one of 'path', 'port' and 'fd' can be given")),
    }
}

fn take_family(options: &mut Options, key: &str) -> Result<Option<bool>, String> {
    let (if_unset_on, if_unset_off) = (options.clone().take_bool(key, true)?, options.take_bool(key, false)?);
    Ok((if_unset_on == if_unset_off).then_some(if_unset_on))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(text: &str) -> StreamSpec {
        ChardevSpec::parse(text).unwrap().stream
    }

    #[test]
    fn streams() {
        assert_eq!(stream("stdio"), StreamSpec::Stdio { signals: true });
        assert_eq!(stream("stdio,signal=off"), StreamSpec::Stdio { signals: false });
        assert_eq!(stream("null"), StreamSpec::Null);
        assert_eq!(stream("pipe,path=/x,,y"), StreamSpec::Pipe { path: "/x,y".into() });
        let spec = ChardevSpec::parse("file,id=c0,path=/o,append=on,logfile=/l,mux=on").unwrap();
        assert_eq!(spec.id.as_deref(), Some("c0"));
        assert!(spec.mux);
        assert_eq!(spec.log, Some(FileSpec { path: "/l".into(), append: false }));
        let output = FileSpec { path: "/o".into(), append: true };
        assert_eq!(spec.stream, StreamSpec::File { output, input: None });
    }

    #[test]
    fn sockets() {
        let StreamSpec::Socket(spec) = stream("socket,host=::1,port=4444,server,nowait,telnet,ipv6=on")
        else {
            panic!("not a socket")
        };
        let host = "::1".to_string();
        assert_eq!(spec.address, Address::Tcp { host, port: 4444, port_last: 4444, family: Family::V6 });
        assert!(spec.server && !spec.wait && spec.telnet && !spec.nodelay);
        let StreamSpec::Socket(spec) = stream("socket,path=/s,server=on") else { panic!("not a socket") };
        assert!(spec.wait, "a server waits unless told otherwise");
        let StreamSpec::Socket(spec) = stream("socket,fd=7,reconnect=2") else { panic!("not a socket") };
        assert_eq!((spec.address, spec.reconnect), (Address::Inherited(7), Some(Duration::from_secs(2))));
    }

    #[test]
    fn refusals() {
        for (text, message) in [
            ("spicevmc", "-chardev spicevmc: the backend 'spicevmc' is not supported"),
            ("socket", "-chardev socket: one of 'path', 'port' and 'fd' is missing"),
            ("socket,path=/a,wait=on", "-chardev socket,path=/a,wait=on: 'wait' is for a server"),
            ("pty,width=3", "-chardev pty,width=3: unknown option 'width'"),
        ] {
            assert_eq!(ChardevSpec::parse(text).unwrap_err(), message);
        }
    }
}
