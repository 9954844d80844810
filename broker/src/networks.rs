//! Which netdev a network card is on, and the addresses of cards that were given none.

use crate::cli::CliError;
use crate::cli::net::{NetOption, Netdev, NetdevKind};
use crate::cli::object::ObjectKind;
use crate::cli::options::Options;

/// The first MAC address that QEMU gives away.
const MAC_FIRST: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// What is behind a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// A device process, with this in the grammar of `-netdev`.
    Served(String),
    /// A vhost-user back-end on the socket of this name.
    VhostUser(String),
}

/// What the netdev `name` is. In a replay, where none is opened, it may be absent.
pub fn behind(options: &Options, name: &str, in_replay: bool) -> Result<Behind, CliError> {
    match options.netdevs.iter().find(|netdev| netdev.id == name) {
        Some(Netdev { kind: NetdevKind::Served(spec), .. }) => Ok(Behind::Served(spec.clone())),
        Some(Netdev { kind: NetdevKind::VhostUser { chardev }, .. }) => {
            Ok(Behind::VhostUser(chardev.clone()))
        }
        None if in_replay => Ok(nothing(name)),
        None => Err(CliError(format!("Property 'netdev' can't find value '{name}'"))),
    }
}

/// A card that is connected to nothing.
pub fn nothing(name: &str) -> Behind {
    Behind::Served(format!("none,id={name}"))
}

/// The netdev that a `-net nic` without one is on: that of the one other `-net`.
pub fn of_card(options: &Options) -> Result<Option<String>, CliError> {
    let hosts: Vec<&str> = options.nets.iter().filter_map(host).collect();
    let cards = options.nets.iter().filter(|net| matches!(net, NetOption::Card(_))).count();
    match (cards, &hosts[..]) {
        (0..=1, [host]) => Ok(Some((*host).to_owned())),
        (_, []) => Ok(None),
        _ => Err(CliError(
            "-net: one card and one host side can be joined this way; use -netdev and -device".to_owned(),
        )),
    }
}

fn host(net: &NetOption) -> Option<&str> {
    match net {
        NetOption::Host(netdev) => Some(&netdev.id),
        NetOption::None | NetOption::Card(_) | NetOption::Both(..) => None,
    }
}

/// Fails when a filter names a network that is not there.
pub fn check_filters(options: &Options) -> Result<(), CliError> {
    for object in &options.objects {
        if let ObjectKind::FilterReplay { netdev } = &object.kind
            && !options.netdevs.iter().any(|known| known.id == *netdev)
        {
            let id = &object.id;
            return Err(CliError(format!("-object filter-replay,id={id}: there is no netdev '{netdev}'")));
        }
    }
    Ok(())
}

/// The first MAC address that no card has.
pub fn free_mac(used: &[[u8; 6]]) -> [u8; 6] {
    let mut mac = MAC_FIRST;
    while used.contains(&mac) {
        mac[5] = mac[5].wrapping_add(1);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_count_up_over_those_that_are_taken() {
        let second = [0x52, 0x54, 0, 0x12, 0x34, 0x57];
        assert_eq!(free_mac(&[]), MAC_FIRST);
        assert_eq!(free_mac(&[MAC_FIRST]), second);
        assert_eq!(free_mac(&[MAC_FIRST, second])[5], 0x58);
    }
}
