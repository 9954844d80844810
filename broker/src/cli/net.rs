//! Networks: `-netdev`, and the older `-net` and `-nic`.

use super::device::{DeviceOption, Model, NIC_MODELS};
use super::id;
use super::keyval::KeyValues;

/// One `-netdev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netdev {
    /// Its name.
    pub id: String,
    /// What it is.
    pub kind: NetdevKind,
}

/// What a netdev is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetdevKind {
    /// Served by a device process, which is given this in the grammar of `-netdev`.
    Served(String),
    /// A vhost-user back-end on this socket.
    VhostUser {
        /// Name of the socket.
        chardev: String,
    },
}

/// Kinds of netdev that a device process serves, with the help about them.
pub const KINDS: &[(&str, &str)] = &[
    ("user", "user,id=ID[,net=][,hostfwd=][,restrict=]...  a network of its own behind the host"),
    ("tap", "tap,id=ID[,ifname=][,fd=]...                 a TAP interface of the host"),
    ("stream", "stream,id=ID,addr.type=...                   packets over a stream socket"),
    ("dgram", "dgram,id=ID,local.type=...                   packets over a datagram socket"),
    ("socket", "socket,id=ID[,listen=][,connect=]...         the older form of both"),
    ("none", "none,id=ID                                   nothing is connected"),
];

/// Text of `-netdev help`.
pub fn help() -> String {
    let lines = KINDS.iter().fold(String::new(), |text, (_, line)| format!("{text}  {line}\n"));
    format!(
        "Available netdev backend types:\n{lines}  vhost-user,id=ID,chardev=ID                  a vhost-user back-end\n"
    )
}

/// Reads the value of `-netdev`.
pub fn parse_netdev(text: &str) -> Result<Netdev, String> {
    let mut list = KeyValues::parse(text, Some("type"))?;
    let kind = list.take("type")?.ok_or("Parameter 'type' is missing")?;
    let id = list.take("id")?.ok_or("Parameter 'id' is missing")?;
    id::check("id", &id)?;
    make(&kind, id, list)
}

fn make(kind: &str, id: String, mut list: KeyValues) -> Result<Netdev, String> {
    let kind = match kind {
        "vhost-user" => {
            let chardev = list.take("chardev")?.ok_or("Parameter 'chardev' is missing")?;
            if list.take_number("queues")?.is_some_and(|queues| queues != 1) {
                return Err("queues= is not supported; there is one pair".to_owned());
            }
            list.take_bool("vhostforce")?;
            list.finish()?;
            NetdevKind::VhostUser { chardev }
        }
        known if KINDS.iter().any(|(name, _)| *name == known) => {
            NetdevKind::Served(spec(known, &id, list.into_pairs()))
        }
        other => return Err(format!("netdev type '{other}' is not supported (-netdev help lists them)")),
    };
    Ok(Netdev { id, kind })
}

/// A list in QEMU's grammar.
fn spec(kind: &str, id: &str, pairs: Vec<(String, String)>) -> String {
    let head = format!("{kind},id={id}");
    pairs.iter().fold(head, |text, (key, value)| format!("{text},{key}={}", value.replace(',', ",,")))
}

/// Driver of a card that `-net nic` made: without a netdev of its own it is on that of another `-net`.
pub const CARD_OF_NET: &str = "-net nic";

/// One `-net` or `-nic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetOption {
    /// No network.
    None,
    /// `-net nic`: a card, on the netdev that it names or on that of another `-net`.
    Card(DeviceOption),
    /// `-net user` and its like: what `-net nic` connects to.
    Host(Netdev),
    /// `-nic`: both.
    Both(Netdev, DeviceOption),
}

/// Reads the value of `-net`; `number` counts them. The second result are lines for the user.
pub fn parse_net(text: &str, number: usize) -> Result<(NetOption, Vec<String>), String> {
    let mut list = KeyValues::parse(text, Some("type"))?;
    let mut warnings = Vec::new();
    let option = match list.take("type")?.ok_or("Parameter 'type' is missing")?.as_str() {
        "none" => {
            list.finish()?;
            NetOption::None
        }
        "nic" => {
            let netdev = list.take("netdev")?;
            let card = take_card(&mut list, "macaddr", netdev, CARD_OF_NET, &mut warnings)?;
            list.finish()?;
            NetOption::Card(card)
        }
        kind => {
            let id = take_id(&mut list, "name", format!("net-host{number}"))?;
            NetOption::Host(make(kind, id, list)?)
        }
    };
    Ok((option, warnings))
}

/// Reads the value of `-nic`; `number` counts them. The second result are lines for the user.
pub fn parse_nic(text: &str, number: usize) -> Result<(NetOption, Vec<String>), String> {
    let mut list = KeyValues::parse(text, Some("type"))?;
    let mut warnings = Vec::new();
    let kind = list.take("type")?.ok_or("Parameter 'type' is missing")?;
    if kind == "none" {
        list.finish()?;
        return Ok((NetOption::None, warnings));
    }
    let id = take_id(&mut list, "id", format!("nic{number}"))?;
    let mut card = take_card(&mut list, "mac", Some(id.clone()), "-nic", &mut warnings)?;
    card.id = None;
    Ok((NetOption::Both(make(&kind, id, list)?, card), warnings))
}

fn take_id(list: &mut KeyValues, other_key: &str, default: String) -> Result<String, String> {
    let given = match list.take("id")? {
        Some(id) => Some(id),
        None => list.take(other_key)?,
    };
    let id = given.unwrap_or(default);
    id::check("id", &id)?;
    Ok(id)
}

/// Takes what belongs to the card.
fn take_card(
    list: &mut KeyValues,
    mac_key: &str,
    netdev: Option<String>,
    option: &str,
    warnings: &mut Vec<String>,
) -> Result<DeviceOption, String> {
    match list.take("model")?.as_deref() {
        None | Some("virtio" | "virtio-net" | "virtio-net-pci" | "virtio-net-pci-non-transitional") => {}
        Some(model) if NIC_MODELS.contains(&model) => {
            warnings.push(format!("{option} model={model}: attached as virtio-net"));
        }
        Some(model) => return Err(format!("Unsupported NIC model: {model}")),
    }
    let mac = list.take(mac_key)?.map(|text| parse_mac(&text)).transpose()?;
    let mut card = DeviceOption::new("virtio-net-pci", Model::Net { netdev, mac });
    if option == CARD_OF_NET {
        CARD_OF_NET.clone_into(&mut card.driver);
        card.id = list.take("name")?;
        if let Some(id) = &card.id {
            id::check("name", id)?;
        }
    }
    Ok(card)
}

/// A MAC address: six bytes, hexadecimal, with `:` or `-` between them.
pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || format!("invalid MAC address '{text}'");
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| matches!(part.len(), 1 | 2)).ok_or_else(wrong)?;
        let plain = part.chars().all(|c| c.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| plain).ok_or_else(wrong)?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if mac[0] & 1 != 0 {
        return Err(format!("'{text}': a card cannot have a multicast address (odd first byte)"));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netdevs() {
        for (text, kind) in [
            ("user,id=n", NetdevKind::Served("user,id=n".to_owned())),
            (
                "user,id=n,hostfwd=tcp::5555-:22,restrict",
                NetdevKind::Served("user,id=n,hostfwd=tcp::5555-:22,restrict=on".to_owned()),
            ),
            ("type=tap,ifname=a,,b,id=n", NetdevKind::Served("tap,id=n,ifname=a,,b".to_owned())),
            ("vhost-user,id=n,chardev=c", NetdevKind::VhostUser { chardev: "c".to_owned() }),
        ] {
            assert_eq!(parse_netdev(text), Ok(Netdev { id: "n".to_owned(), kind }), "{text}");
        }
        for (text, message) in [
            ("user", "Parameter 'id' is missing"),
            ("", "Parameter 'id' is missing"),
            ("bridge,id=n", "netdev type 'bridge' is not supported (-netdev help lists them)"),
            ("vhost-user,id=n", "Parameter 'chardev' is missing"),
            ("vhost-user,id=n,chardev=c,queues=2", "queues= is not supported; there is one pair"),
            ("user,id=0", "Parameter 'id' expects an identifier, not '0'"),
        ] {
            assert_eq!(parse_netdev(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn older_forms() {
        let net = |text| parse_net(text, 0);
        assert_eq!(net("none"), Ok((NetOption::None, vec![])));
        let (NetOption::Card(card), warnings) = net("nic,model=e1000,macaddr=52:54:0:1:2:3").unwrap() else {
            panic!()
        };
        assert_eq!(warnings, ["-net nic model=e1000: attached as virtio-net"]);
        assert_eq!(card.model, Model::Net { netdev: None, mac: Some([0x52, 0x54, 0, 1, 2, 3]) });
        let (NetOption::Host(host), _) = net("user,restrict=on").unwrap() else { panic!() };
        assert_eq!(host.kind, NetdevKind::Served("user,id=net-host0,restrict=on".to_owned()));
        let (NetOption::Both(host, card), _) =
            parse_nic("user,model=virtio-net-pci,mac=52:54:00:12:34:60,restrict=on", 1).unwrap()
        else {
            panic!()
        };
        assert_eq!(host.kind, NetdevKind::Served("user,id=nic1,restrict=on".to_owned()));
        let mac = Some([0x52, 0x54, 0, 0x12, 0x34, 0x60]);
        assert_eq!(card.model, Model::Net { netdev: Some("nic1".to_owned()), mac });
        assert_eq!(parse_nic("none", 0), Ok((NetOption::None, vec![])));
        assert_eq!(net("nic,model=x").unwrap_err(), "Unsupported NIC model: x");
        assert_eq!(net("nic,frob=1").unwrap_err(), "Invalid parameter 'frob'");
        assert!(net("l2tpv3").is_err() && parse_nic("frob", 0).is_err());
    }

    #[test]
    fn mac_addresses() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Ok([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        for text in
            ["", "1:2:3:4:5", "2:2:3:4:5:6:7", "2:2:3:4:5:g", "2:2:3:4:5:", "2:2:3:4:5:123", "+2:2:3:4:5:6"]
        {
            assert_eq!(parse_mac(text).unwrap_err(), format!("invalid MAC address '{text}'"));
        }
        assert!(parse_mac("53:54:00:12:34:56").unwrap_err().contains("multicast"));
    }
}
