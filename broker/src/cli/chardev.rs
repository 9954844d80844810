//! Character streams of the host: `-chardev BACKEND,…` and the short forms of `-serial` and `-monitor`.
//!
//! Each stream is served by a device process, which is told about it in the long form again (`spec`).

use super::keyval::KeyValues;
use std::fmt::Write as _;

/// One character stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chardev {
    /// Name shown to the user.
    pub id: String,
    /// Where bytes go to and come from.
    pub backend: Backend,
    /// A monitor may share the stream with a device.
    pub mux: bool,
    /// A copy of all output.
    pub logfile: Option<String>,
    /// Append to the copy instead of replacing it.
    pub logappend: bool,
}

/// Kinds of stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Nothing.
    Null,
    /// Our own standard input and output.
    Stdio {
        /// Control characters of the terminal make signals.
        signal: Option<bool>,
    },
    /// A file.
    File {
        /// Where output goes.
        path: String,
        /// Behind what is there.
        append: bool,
        /// Where input comes from.
        input_path: Option<String>,
    },
    /// FIFOs.
    Pipe {
        /// `path.in` and `path.out`, or `path` for both.
        path: String,
    },
    /// A new pseudo-terminal.
    Pty,
    /// A terminal device of the host.
    Serial {
        /// Its device file.
        path: String,
    },
    /// A socket.
    Socket(Socket),
}

/// A stream socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Where.
    pub address: Address,
    /// Listen instead of connecting.
    pub server: bool,
    /// A server starts the machine only when a client is there.
    pub wait: bool,
    /// Speak the telnet protocol.
    pub telnet: bool,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// Seconds between two attempts of a client to connect again.
    pub reconnect: Option<u64>,
}

/// Address of a stream socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Of the UNIX family.
    Unix {
        /// Its path.
        path: String,
        /// The path is a name in the abstract namespace.
        in_abstract: bool,
    },
    /// Of the Internet.
    Tcp {
        /// Name or address; empty for every address of a server.
        host: String,
        /// Port number.
        port: String,
    },
    /// An inherited socket.
    Fd(i32),
}

/// What `-serial`, `-monitor` and `-debugcon` point to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `none`: there is no such port.
    None,
    /// `chardev:ID`.
    Named(String),
    /// A stream made for this option.
    New {
        /// The stream.
        chardev: Chardev,
        /// It came with the prefix `mon:`.
        monitor: bool,
    },
}

impl Chardev {
    /// A plain stream.
    pub fn new(id: &str, backend: Backend) -> Chardev {
        Chardev { id: id.to_owned(), backend, mux: false, logfile: None, logappend: false }
    }

    /// The stream in the form of a `-chardev` value.
    pub fn spec(&self) -> String {
        let mut text = match &self.backend {
            Backend::Null => "null".to_owned(),
            Backend::Stdio { signal: None } => "stdio".to_owned(),
            Backend::Stdio { signal: Some(signal) } => format!("stdio,signal={}", on_off(*signal)),
            Backend::File { path, append, input_path } => {
                let mut text = format!("file,path={},append={}", double_commas(path), on_off(*append));
                if let Some(input) = input_path {
                    let _ = write!(text, ",input-path={}", double_commas(input));
                }
                text
            }
            Backend::Pipe { path } => format!("pipe,path={}", double_commas(path)),
            Backend::Pty => "pty".to_owned(),
            Backend::Serial { path } => format!("serial,path={}", double_commas(path)),
            Backend::Socket(socket) => socket.spec(),
        };
        let _ = write!(text, ",id={}", double_commas(&self.id));
        if let Some(file) = &self.logfile {
            let _ = write!(text, ",logfile={},logappend={}", double_commas(file), on_off(self.logappend));
        }
        text
    }

    /// The stream as `info chardev` names it.
    pub fn filename(&self) -> String {
        match &self.backend {
            Backend::Null => "null".to_owned(),
            Backend::Stdio { .. } => "stdio".to_owned(),
            Backend::File { .. } => "file".to_owned(),
            Backend::Pipe { path } => format!("pipe:{path}"),
            Backend::Pty => "pty".to_owned(),
            Backend::Serial { path } => format!("serial:{path}"),
            Backend::Socket(socket) => socket.filename(),
        }
    }

    /// Takes the part that all kinds share out of a `-chardev` list.
    fn take_common(&mut self, list: &mut KeyValues) -> Result<(), String> {
        self.mux = list.take_bool("mux")?.unwrap_or(self.mux);
        self.logfile = list.take("logfile")?;
        self.logappend = list.take_bool("logappend")?.unwrap_or(false);
        Ok(())
    }
}

impl Socket {
    fn spec(&self) -> String {
        let mut text = match &self.address {
            Address::Unix { path, in_abstract } => {
                format!("socket,path={},abstract={}", double_commas(path), on_off(*in_abstract))
            }
            Address::Tcp { host, port } => {
                format!("socket,host={},port={}", double_commas(host), double_commas(port))
            }
            Address::Fd(fd) => format!("socket,fd={fd}"),
        };
        let _ = write!(text, ",server={}", on_off(self.server));
        if self.server {
            let _ = write!(text, ",wait={}", on_off(self.wait));
        }
        if self.telnet {
            text.push_str(",telnet=on");
        }
        if self.nodelay {
            text.push_str(",nodelay=on");
        }
        if let Some(seconds) = self.reconnect {
            let _ = write!(text, ",reconnect={seconds}");
        }
        text
    }

    fn filename(&self) -> String {
        let kind = if self.telnet { "telnet" } else { "tcp" };
        let place = match &self.address {
            Address::Unix { path, .. } => format!("unix:{path}"),
            Address::Tcp { host, port } => format!("{kind}:{host}:{port}"),
            Address::Fd(fd) => format!("fd:{fd}"),
        };
        if self.server { format!("disconnected:{place},server=on") } else { format!("disconnected:{place}") }
    }
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

fn double_commas(text: &str) -> String {
    text.replace(',', ",,")
}

/// Reads the value of `-chardev`.
pub fn parse_chardev(text: &str) -> Result<Chardev, String> {
    let mut list = KeyValues::parse(text, Some("backend"))?;
    let kind = list.take("backend")?.ok_or("chardev: \"backend\" is missing")?;
    let id = list.take("id")?.filter(|id| !id.is_empty()).ok_or("chardev: no id specified")?;
    let path = |list: &mut KeyValues| {
        list.take("path")?.ok_or_else(|| format!("chardev: {kind}: no filename given"))
    };
    let backend = match kind.as_str() {
        "null" => Backend::Null,
        "stdio" => Backend::Stdio { signal: list.take_bool("signal")? },
        "file" => Backend::File {
            path: path(&mut list)?,
            append: list.take_bool("append")?.unwrap_or(false),
            input_path: list.take("input-path")?,
        },
        "pipe" => Backend::Pipe { path: path(&mut list)? },
        "pty" => Backend::Pty,
        "serial" | "tty" => Backend::Serial { path: path(&mut list)? },
        "socket" => Backend::Socket(take_socket(&mut list)?),
        other => return Err(format!("chardev: backend '{other}' is not supported")),
    };
    let mut chardev = Chardev::new(&id, backend);
    chardev.take_common(&mut list)?;
    list.finish()?;
    Ok(chardev)
}

fn take_socket(list: &mut KeyValues) -> Result<Socket, String> {
    let (path, host, port) = (list.take("path")?, list.take("host")?, list.take("port")?);
    let in_abstract = list.take_bool("abstract")?.unwrap_or(false);
    let address = match (path, host, port, list.take_number("fd")?) {
        (Some(path), None, None, None) => Address::Unix { path, in_abstract },
        (None, host, Some(port), None) => Address::Tcp { host: host.unwrap_or_default(), port },
        (None, None, None, Some(fd)) => {
            Address::Fd(i32::try_from(fd).map_err(|_| format!("fd={fd} is no file descriptor"))?)
        }
        _ => return Err("chardev: socket: give one of path=, host= and port=, fd=".to_owned()),
    };
    take_socket_options(list, address, false)
}

fn take_socket_options(list: &mut KeyValues, address: Address, telnet: bool) -> Result<Socket, String> {
    let server = list.take_bool("server")?.unwrap_or(false);
    let wait = list.take_bool("wait")?;
    if wait.is_some() && !server {
        return Err("'wait' option is incompatible with socket in client connect mode".to_owned());
    }
    let reconnect = list.take_number("reconnect")?;
    if reconnect.is_some() && server {
        return Err("'reconnect' option is incompatible with socket in server listen mode".to_owned());
    }
    Ok(Socket {
        address,
        server,
        wait: wait.unwrap_or(server),
        telnet: list.take_bool("telnet")?.unwrap_or(telnet),
        nodelay: list.take_bool("nodelay")?.or(list.take_bool("delay")?.map(|delay| !delay)).unwrap_or(false),
        reconnect: reconnect.filter(|seconds| *seconds > 0),
    })
}

/// Reads a device in the form of `-serial` and `-monitor`; `id` is the name of a stream made for it.
pub fn parse_target(text: &str, id: &str) -> Result<Target, String> {
    let (monitor, device) = match text.strip_prefix("mon:") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if device == "none" && !monitor {
        return Ok(Target::None);
    }
    if let Some(name) = device.strip_prefix("chardev:") {
        if monitor {
            return Err("mon:chardev:ID: give the chardev mux=on and use -mon".to_owned());
        }
        return Ok(Target::Named(name.to_owned()));
    }
    let mut chardev = Chardev::new(id, Backend::Null);
    let (kind, rest) = device.split_once(':').unwrap_or((device, ""));
    chardev.backend = match kind {
        "null" if rest.is_empty() => Backend::Null,
        "pty" if rest.is_empty() => Backend::Pty,
        // A muxed terminal hands control characters to the guest.
        "stdio" if rest.is_empty() => Backend::Stdio { signal: monitor.then_some(false) },
        "file" if !rest.is_empty() => {
            Backend::File { path: rest.to_owned(), append: false, input_path: None }
        }
        "pipe" if !rest.is_empty() => Backend::Pipe { path: rest.to_owned() },
        "unix" | "tcp" | "telnet" if !rest.is_empty() => Backend::Socket(parse_socket(kind, rest)?),
        _ if device.starts_with("/dev/") => Backend::Serial { path: device.to_owned() },
        "vc" => return Err("vc: there is no display; use stdio, a socket or a file".to_owned()),
        _ => return Err(format!("'{device}' is not a supported character device")),
    };
    chardev.mux = monitor;
    Ok(Target::New { chardev, monitor })
}

/// `unix:PATH[,…]`, `tcp:[HOST]:PORT[,…]`, `telnet:[HOST]:PORT[,…]`, without the prefix.
fn parse_socket(kind: &str, text: &str) -> Result<Socket, String> {
    let mut list = KeyValues::parse(text, Some("address"))?;
    let place = list.take("address")?.ok_or("the address comes first")?;
    let address = if kind == "unix" {
        Address::Unix { path: place, in_abstract: list.take_bool("abstract")?.unwrap_or(false) }
    } else {
        let (host, port) =
            place.rsplit_once(':').ok_or_else(|| format!("{kind}:{place}: expected {kind}:HOST:PORT"))?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if port.parse::<u16>().is_err() {
            return Err(format!("{kind}:{place}: '{port}' is not a port number"));
        }
        Address::Tcp { host: host.to_owned(), port: port.to_owned() }
    };
    let socket = take_socket_options(&mut list, address, kind == "telnet")?;
    list.finish()?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Chardev {
        match parse_target(text, "serial0").unwrap() {
            Target::New { chardev, .. } => chardev,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn short_forms_become_long_forms() {
        for (short, long) in [
            ("stdio", "stdio,id=serial0"),
            ("mon:stdio", "stdio,signal=off,id=serial0"),
            ("null", "null,id=serial0"),
            ("pty", "pty,id=serial0"),
            ("file:a,b.txt", "file,path=a,,b.txt,append=off,id=serial0"),
            ("pipe:/tmp/p", "pipe,path=/tmp/p,id=serial0"),
            ("/dev/ttyS3", "serial,path=/dev/ttyS3,id=serial0"),
            ("unix:hmp,server,nowait", "socket,path=hmp,abstract=off,server=on,wait=off,id=serial0"),
            (
                "telnet:127.0.0.1:4444,server,nowait",
                "socket,host=127.0.0.1,port=4444,server=on,wait=off,telnet=on,id=serial0",
            ),
            (
                "tcp::4444,server=on,nodelay=on",
                "socket,host=,port=4444,server=on,wait=on,nodelay=on,id=serial0",
            ),
            ("tcp:[::1]:80", "socket,host=::1,port=80,server=off,id=serial0"),
        ] {
            assert_eq!(made(short).spec(), long, "{short}");
        }
    }

    #[test]
    fn a_long_form_reads_back_what_it_says() {
        for text in [
            "socket,id=m,path=a,,b,server=on,wait=off",
            "socket,id=m,fd=5",
            "file,id=m,path=x,append=on,input-path=y,logfile=l,logappend=on",
            "stdio,id=m,signal=off",
        ] {
            let chardev = parse_chardev(text).unwrap();
            assert_eq!(parse_chardev(&chardev.spec()), Ok(chardev), "{text}");
        }
    }

    #[test]
    fn wrong_ones_are_refused() {
        for text in ["vc", "vc:80x24", "udp::1", "tcp:localhost", "tcp:h:port", "unix:", "stdio:x", "none:"] {
            assert!(parse_target(text, "serial0").is_err(), "{text}");
        }
        for text in ["stdio", "socket,id=x", "socket,id=x,path=p,port=1", "spicevmc,id=x", "null,id=x,foo=1"]
        {
            assert!(parse_chardev(text).is_err(), "{text}");
        }
        assert_eq!(parse_target("none", "serial0"), Ok(Target::None));
        assert_eq!(parse_target("chardev:c", "serial0"), Ok(Target::Named("c".to_owned())));
    }
}
