//! Tests of `spec` and `spec_user`: what QEMU's grammar means here, and every refusal word for word.

use super::*;
use crate::net::spec_user::{HostForward, Protocol};
use std::net::Ipv6Addr;

fn host(text: &str) -> HostSpec {
    NetdevSpec::parse(text).unwrap_or_else(|message| panic!("{text}: {message}")).host
}

fn user(text: &str) -> UserSpec {
    match host(text) {
        HostSpec::User(user) => *user,
        other => panic!("{text}: {other:?}"),
    }
}

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

#[test]
fn the_user_network_is_qemus() {
    let spec = NetdevSpec::parse("user,id=n0").unwrap();
    assert_eq!(spec.id.as_deref(), Some("n0"));
    let user = user("user");
    assert_eq!((user.network, user.netmask), (v4("10.0.2.0"), v4("255.255.255.0")));
    assert_eq!((user.host, user.dns, user.dhcp_start), (v4("10.0.2.2"), v4("10.0.2.3"), v4("10.0.2.15")));
    assert_eq!((user.ipv4, user.ipv6, user.restrict), (true, true, false));
    assert_eq!(user.prefix6, "fec0::".parse::<Ipv6Addr>().unwrap());
    assert_eq!((user.prefix6_length, user.host6), (64, "fec0::2".parse().unwrap()));
    assert_eq!(user.dns6, "fec0::3".parse::<Ipv6Addr>().unwrap());
    assert!(user.hostfwd.is_empty() && user.dns_search.is_empty());
}

#[test]
fn networks_and_what_follows_from_them() {
    for (text, network, netmask, gateway) in [
        ("user,net=192.168.76.0/24", "192.168.76.0", "255.255.255.0", "192.168.76.2"),
        ("user,net=192.168.76.9/24", "192.168.76.0", "255.255.255.0", "192.168.76.2"),
        ("user,net=172.16.0.0/255.255.0.0", "172.16.0.0", "255.255.0.0", "172.16.2.2"),
        ("user,net=10.0.0.0", "10.0.0.0", "255.0.0.0", "10.0.2.2"),
        ("user,net=172.16.0.0", "172.16.0.0", "255.255.0.0", "172.16.2.2"),
        ("user,net=192.168.1.0", "192.168.1.0", "255.255.255.0", "192.168.1.2"),
        ("user,ip=192.168.1.0", "192.168.1.0", "255.255.255.0", "192.168.1.2"),
        ("user,net=10.1.0.0/16,host=10.1.9.9", "10.1.0.0", "255.255.0.0", "10.1.9.9"),
    ] {
        let user = user(text);
        let got = (user.network, user.netmask, user.host);
        assert_eq!(got, (v4(network), v4(netmask), v4(gateway)), "{text}");
    }
    for (text, ipv4, ipv6) in [
        ("user,ipv4=on", true, false),
        ("user,ipv6=on", false, true),
        ("user,ipv4=off", false, true),
        ("user,ipv6=off", true, false),
        ("user,ipv4=on,ipv6=on", true, true),
    ] {
        let user = user(text);
        assert_eq!((user.ipv4, user.ipv6), (ipv4, ipv6), "{text}");
    }
    let user = user("user,ipv6-net=fd00::/48,ipv6-dns=fd00::99");
    assert_eq!((user.prefix6_length, user.host6), (48, "fd00::2".parse().unwrap()));
    assert_eq!(user.dns6, "fd00::99".parse::<Ipv6Addr>().unwrap());
}

#[test]
fn names_and_lists() {
    let user = user(
        "user,hostname=guest,domainname=a.example,dnssearch=b.example,dnssearch=c.example,\
         tftp=/srv/a,,b,bootfile=pxe.0,tftp-server-name=t,restrict",
    );
    assert_eq!(user.hostname.as_deref(), Some("guest"));
    assert_eq!(user.domainname.as_deref(), Some("a.example"));
    assert_eq!(user.dns_search, ["b.example", "c.example"]);
    assert_eq!(user.tftp.as_deref(), Some("/srv/a,b"));
    assert_eq!(user.bootfile.as_deref(), Some("pxe.0"));
    assert_eq!(user.tftp_server_name.as_deref(), Some("t"));
    assert!(user.restrict);
}

#[test]
fn forwarded_ports() {
    let user = user("user,hostfwd=tcp:127.0.0.1:8080-10.0.2.16:80,hostfwd=udp::53-:5353,hostfwd=::1-:2");
    let forward = |text: &str, protocol, host: &str, host_port, guest: &str, guest_port| HostForward {
        text: text.into(),
        protocol,
        host: v4(host),
        host_port,
        guest: v4(guest),
        guest_port,
    };
    assert_eq!(
        user.hostfwd,
        [
            forward("tcp:127.0.0.1:8080-10.0.2.16:80", Protocol::Tcp, "127.0.0.1", 8080, "10.0.2.16", 80),
            forward("udp::53-:5353", Protocol::Udp, "0.0.0.0", 53, "0.0.0.0", 5353),
            forward("::1-:2", Protocol::Tcp, "0.0.0.0", 1, "0.0.0.0", 2),
        ]
    );
}

#[test]
fn interfaces() {
    let open = |ifname: Option<&str>, script, vnet_header| {
        HostSpec::Tap(TapSpec::Open { ifname: ifname.map(str::to_string), script, vnet_header })
    };
    assert_eq!(host("tap"), open(None, Script::Default, true));
    let all = "tap,ifname=tap0,script=no,downscript=no,vhost=off,queues=1,vnet_hdr=off";
    assert_eq!(host(all), open(Some("tap0"), Script::No, false));
    let file = open(None, Script::File("/etc/up".into()), true);
    assert_eq!(host("tap,script=/etc/up"), file);
    assert_eq!(host("tap,fd=7,vhost=off"), HostSpec::Tap(TapSpec::Inherited(7)));
    assert_eq!(host("none,id=x"), HostSpec::Nothing);
}

#[test]
fn streams() {
    let stream = |address, server, reconnect_ms: Option<u64>| {
        HostSpec::Stream(StreamSpec { address, server, reconnect: reconnect_ms.map(Duration::from_millis) })
    };
    let unix = |path: &str, in_abstract| Address::Unix { path: path.into(), in_abstract };
    let tcp =
        |host: &str, port, port_last, family| Address::Tcp { host: host.into(), port, port_last, family };
    for (text, expected) in [
        ("stream,addr.type=unix,addr.path=/s,server=on", stream(unix("/s", false), true, None)),
        ("stream,addr.type=unix,addr.path=s,addr.abstract=on", stream(unix("s", true), false, None)),
        ("stream,addr.type=unix,addr.path=/s,reconnect=2", stream(unix("/s", false), false, Some(2000))),
        ("stream,addr.type=unix,addr.path=/s,reconnect-ms=5", stream(unix("/s", false), false, Some(5))),
        ("stream,addr.type=unix,addr.path=/s,reconnect=0", stream(unix("/s", false), false, None)),
        (
            "stream,addr.type=inet,addr.host=::1,addr.port=4,addr.to=9,addr.ipv6=on,server=on",
            stream(tcp("::1", 4, 9, Family::V6), true, None),
        ),
        ("stream,addr.type=fd,addr.str=5", stream(Address::Inherited(5), false, None)),
        ("socket,listen=:1234", stream(tcp("", 1234, 1234, Family::Any), true, None)),
        ("socket,connect=h:80", stream(tcp("h", 80, 80, Family::Any), false, None)),
        ("socket,fd=9", stream(Address::Inherited(9), false, None)),
    ] {
        assert_eq!(host(text), expected, "{text}");
    }
}

#[test]
fn datagrams() {
    let pair = |host: &str, port| (host.to_string(), port);
    let group = |local: Option<&str>| DgramSpec::Multicast {
        group: v4("230.0.0.1"),
        port: 1234,
        local: local.map(v4),
    };
    let udp = DgramSpec::Udp { local: pair("127.0.0.1", 1), remote: pair("h", 2) };
    for (text, expected) in [
        (
            "dgram,local.type=unix,local.path=/a,remote.type=unix,remote.path=/b",
            DgramSpec::Unix { local: "/a".into(), remote: "/b".into() },
        ),
        (
            "dgram,local.type=inet,local.host=127.0.0.1,local.port=1,remote.type=inet,remote.host=h,remote.port=2",
            udp.clone(),
        ),
        ("dgram,remote.type=inet,remote.host=230.0.0.1,remote.port=1234", group(None)),
        (
            "dgram,local.type=inet,local.host=127.0.0.1,remote.type=inet,remote.host=230.0.0.1,remote.port=1234",
            group(Some("127.0.0.1")),
        ),
        ("dgram,local.type=fd,local.str=4", DgramSpec::Inherited(4)),
        ("socket,udp=h:2,localaddr=127.0.0.1:1", udp),
        ("socket,mcast=230.0.0.1:1234", group(None)),
        ("socket,mcast=230.0.0.1:1234,localaddr=127.0.0.1", group(Some("127.0.0.1"))),
    ] {
        assert_eq!(host(text), HostSpec::Dgram(expected), "{text}");
    }
}

#[test]
fn refusals() {
    for (text, message) in [
        ("", "the netdev '' is not supported"),
        ("vde,sock=/x", "the netdev 'vde' is not supported"),
        ("bridge,br=b", "the netdev 'bridge' is not supported"),
        ("user,frob=1", "unknown option 'frob'"),
        ("none,frob=1", "unknown option 'frob'"),
        (
            "user,guestfwd=tcp:10.0.2.4:1-cmd:x",
            "'guestfwd' is not supported: a device process starts no programs",
        ),
        ("user,smb=/srv", "'smb' is not supported: a device process starts no programs"),
        ("user,restrict=maybe", "'restrict' is on or off, not 'maybe'"),
        ("user,ipv4=off,ipv6=off", "neither IPv4 nor IPv6"),
        ("user,net=x", "'net' is ADDRESS[/LENGTH or /MASK], not 'x'"),
        ("user,net=10.0.2.0/x", "'net' is ADDRESS[/LENGTH or /MASK], not '10.0.2.0/x'"),
        ("user,net=10.0.2.0/33", "'net' is a network whose length is 4 to 32, not '10.0.2.0/33'"),
        ("user,host=10.0.3.2", "'host' is not in the network"),
        ("user,host=x", "'host' is an IPv4 address, not 'x'"),
        ("user,dns=10.0.2.2", "'dns' and 'host' are the same address"),
        ("user,restrict=on,dns=8.8.8.8", "'dns' is not in the network, as restrict=on demands"),
        ("user,dhcpstart=10.0.3.1", "'dhcpstart' is not in the network"),
        ("user,dhcpstart=10.0.2.3", "'dhcpstart' is the address of 'host' or 'dns'"),
        ("user,ipv6-prefix=x", "the IPv6 prefix is an IPv6 address, not 'x'"),
        ("user,ipv6-net=fd00::/127", "the length of the IPv6 prefix is 0 to 126, not '127'"),
        ("user,ipv6-host=x", "'ipv6-host' is an IPv6 address, not 'x'"),
        ("user,hostname=", "'hostname' has 1 to 255 bytes"),
        ("user,dnssearch=", "'dnssearch' is a domain of 1 to 255 bytes, not ''"),
        ("user,hostfwd=tcp", "hostfwd 'tcp': it is tcp|udp:[hostaddr]:hostport-[guestaddr]:guestport"),
        (
            "user,hostfwd=tcp::80",
            "hostfwd 'tcp::80': it is tcp|udp:[hostaddr]:hostport-[guestaddr]:guestport",
        ),
        ("user,hostfwd=sctp::1-:2", "hostfwd 'sctp::1-:2': the protocol is tcp or udp, not 'sctp'"),
        ("user,hostfwd=tcp::0-:2", "hostfwd 'tcp::0-:2': a port is 1 to 65535, not '0'"),
        ("user,hostfwd=tcp::1-:65536", "hostfwd 'tcp::1-:65536': a port is 1 to 65535, not '65536'"),
        ("user,hostfwd=tcp:h:1-:2", "hostfwd 'tcp:h:1-:2': 'h' is no IPv4 address"),
        ("tap,vhost=on", "vhost=on is not supported: use vhost=off"),
        ("tap,queues=4", "only queues=1 is supported"),
        ("tap,sndbuf=0", "'sndbuf' is not supported"),
        ("tap,fd=3,ifname=x", "'ifname' cannot be given with 'fd'"),
        ("tap,ifname=0123456789abcdef", "'ifname' has 1 to 15 bytes"),
        ("tap,downscript=/x", "a device process starts no programs at its end: use downscript=no"),
        ("stream", "'addr.type' is missing"),
        ("stream,addr.type=vsock", "addr.type is unix, inet or fd, not 'vsock'"),
        ("stream,addr.type=unix", "'addr.path' is missing"),
        ("stream,addr.type=unix,addr.path=/s,addr.tight=off", "addr.tight=off is not supported"),
        ("stream,addr.type=inet,addr.host=h", "'addr.port' is missing"),
        ("stream,addr.type=fd,addr.str=x", "'addr.str' is a number, not 'x'"),
        ("stream,addr.type=unix,addr.path=/s,server=on,reconnect=1", "'reconnect' is for a client"),
        ("stream,addr.type=fd,addr.str=1,reconnect=1", "an inherited socket cannot be connected again"),
        ("dgram", "'local.type' and 'remote.type' are missing"),
        (
            "dgram,local.type=unix,remote.type=inet",
            "local.type and remote.type are both unix or both inet, or local.type is fd alone",
        ),
        ("dgram,remote.type=inet,remote.host=1.2.3.4,remote.port=5", "'local.type' is missing"),
        ("dgram,remote.type=inet,remote.host=230.0.0.1", "'remote.port' is missing"),
        ("socket", "exactly one of 'fd', 'listen', 'connect', 'mcast' and 'udp' is needed"),
        ("socket,fd=1,udp=a:1", "exactly one of 'fd', 'listen', 'connect', 'mcast' and 'udp' is needed"),
        ("socket,fd=x", "'fd' is a number, not 'x'"),
        ("socket,listen=1234", "'1234' is not [host]:port"),
        ("socket,mcast=1.2.3.4:5", "'1.2.3.4' is no IPv4 multicast address"),
        ("socket,udp=a:1", "'localaddr' is missing"),
        ("socket,connect=a:1,localaddr=b:2", "'localaddr' is for 'mcast' and 'udp'"),
    ] {
        let expected = format!("-netdev {text}: {message}");
        assert_eq!(NetdevSpec::parse(text), Err(expected), "{text}");
    }
}
