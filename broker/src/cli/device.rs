//! `-device`: what the guest sees on its PCI bus, and the ports of a virtio console.
//!
//! A driver is a row of [`DRIVERS`]; a property that is not listed for it is refused by name. Properties that say what
//! is the case anyway are accepted ([`check_fixed`]).

use super::drive::Place;
use super::keyval::KeyValues;
use super::net::parse_mac;
use super::{id, size};
use replay::device::PciAddress;

/// Largest `queue-size`.
pub const QUEUE_SIZE_MAX: u16 = 1024;
/// Most virtqueues of a device.
pub const QUEUES_MAX: u16 = 64;
/// Most MSI-X vectors of a function (PCI Local Bus Specification 3.0, 6.8.2.3).
const VECTORS_MAX: u16 = 2048;
/// Ports of a virtio console, as QEMU's.
pub const PORTS_MAX: u16 = 31;
/// Bytes of a physical block, as the block program tells the guest.
const PHYSICAL_BLOCK_BYTES: u32 = 4096;
/// Bytes of a disk's serial number (virtio 1.2, 5.2.6).
const SERIAL_BYTES_MAX: usize = 20;

/// One `-device`, or what another option stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOption {
    /// The driver as it was given.
    pub driver: String,
    /// `id=`.
    pub id: Option<String>,
    /// `addr=`.
    pub address: Option<PciAddress>,
    /// `queue-size=`.
    pub queue_size: Option<u16>,
    /// `vectors=`.
    pub vectors: Option<u16>,
    /// `window=`.
    pub window: bool,
    /// What it is.
    pub model: Model,
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// A disk.
    Block {
        /// Name of its block node.
        drive: String,
        /// `serial=`.
        serial: Option<String>,
        /// `num-queues=`.
        queues: Option<u16>,
        /// `logical_block_size=`.
        logical_block_size: Option<u32>,
        /// Of a `-drive` that brings its disk with it.
        place: Option<Place>,
    },
    /// A network interface.
    Net {
        /// Name of its netdev.
        netdev: Option<String>,
        /// `mac=`.
        mac: Option<[u8; 6]>,
    },
    /// A source of entropy.
    Entropy {
        /// Name of its object.
        rng: Option<String>,
        /// `max-bytes=` and `period=`.
        limit: Option<RateLimit>,
    },
    /// A console with ports.
    Serial {
        /// `max_ports=`.
        ports_max: u16,
    },
    /// A port of a console.
    Port {
        /// `virtconsole`, not `virtserialport`.
        console: bool,
        /// Name of its stream.
        chardev: Option<String>,
        /// `name=`.
        name: Option<String>,
        /// `nr=`.
        number: Option<u16>,
        /// `bus=`: the console, `ID.0`.
        bus: Option<String>,
    },
    /// A device whose back-end is somebody else's program.
    VhostUser {
        /// Name of the socket.
        chardev: String,
        /// What the guest sees.
        seen: Seen,
    },
}

/// What the guest sees of a vhost-user device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// virtio-blk with so many queues.
    Block(Option<u16>),
    /// virtio-net.
    Net(Option<[u8; 6]>),
    /// virtio-rng.
    Entropy,
    /// Another one.
    Other {
        /// virtio device type.
        device_type: u16,
        /// Number of virtqueues.
        queues: u16,
    },
}

/// How much entropy the guest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In a period.
    pub bytes_max: u64,
    /// Length of a period.
    pub period_ms: u64,
}

/// Reads the properties that are a driver's own.
type Reader = fn(&mut KeyValues) -> Result<Model, String>;

/// One driver.
struct Driver {
    names: &'static [&'static str],
    /// Its own properties, for the help.
    properties: &'static str,
    /// What it is in QEMU and here is not.
    stands_for: Option<&'static str>,
    read: Reader,
}

const fn driver(names: &'static [&'static str], properties: &'static str, read: Reader) -> Driver {
    Driver { names, properties, stands_for: None, read }
}

const fn stand_in(
    names: &'static [&'static str],
    stands_for: &'static str,
    properties: &'static str,
    read: Reader,
) -> Driver {
    Driver { names, properties, stands_for: Some(stands_for), read }
}

#[rustfmt::skip]
const DRIVERS: &[Driver] = &[
    driver(&["virtio-blk-pci", "virtio-blk-pci-non-transitional", "virtio-blk"],
        "drive=NODE[,serial=][,num-queues=][,queue-size=][,logical_block_size=]", block),
    driver(&["virtio-net-pci", "virtio-net-pci-non-transitional", "virtio-net"], "netdev=ID[,mac=]", net),
    driver(&["virtio-rng-pci", "virtio-rng-pci-non-transitional", "virtio-rng"], "[rng=ID][,max-bytes=N][,period=MS]", entropy),
    driver(&["virtio-serial-pci", "virtio-serial-pci-non-transitional", "virtio-serial"], "[max_ports=N]", serial),
    driver(&["virtconsole"], "chardev=ID[,name=][,nr=][,bus=ID.0]", |list| port(list, true)),
    driver(&["virtserialport"], "chardev=ID[,name=][,nr=][,bus=ID.0]", |list| port(list, false)),
    driver(&["vhost-user-blk-pci", "vhost-user-blk-pci-non-transitional", "vhost-user-blk"],
        "chardev=ID[,num-queues=][,queue-size=]", vhost_user_block),
    driver(&["vhost-user-net-pci", "vhost-user-net"], "chardev=ID[,mac=]", |list| {
        let mac = take_mac(list)?;
        vhost_user_of(list, Seen::Net(mac))
    }),
    driver(&["vhost-user-rng-pci", "vhost-user-rng"], "chardev=ID", |list| vhost_user_of(list, Seen::Entropy)),
    driver(&["vhost-user-device-pci", "vhost-user-device"], "chardev=ID,virtio-id=N,num_vqs=N", generic),
    stand_in(&["ide-hd", "ide-cd"], "virtio-blk", "drive=NODE[,serial=]", ide),
    stand_in(NIC_MODELS, "virtio-net", "netdev=ID[,mac=]", net),
];

/// Network cards of QEMU in whose place a virtio-net stands.
pub const NIC_MODELS: &[&str] = &[
    "e1000",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82550",
    "i82551",
    "i82557b",
    "i82559er",
    "igb",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "tulip",
    "vmxnet3",
];

impl DeviceOption {
    /// A device with QEMU's defaults.
    pub fn new(driver: &str, model: Model) -> DeviceOption {
        let driver = driver.to_owned();
        DeviceOption { driver, id: None, address: None, queue_size: None, vectors: None, window: true, model }
    }
}

/// Text of `-device help`, without the debug devices.
pub fn help() -> String {
    DRIVERS.iter().filter(|row| row.stands_for.is_none()).fold(String::new(), |text, row| {
        text + &format!("{}\n    {}\n", row.names.join(", "), row.properties)
    })
}

/// Reads the properties of `driver`; the second result are lines for the user.
pub fn parse(driver: &str, mut list: KeyValues) -> Result<(DeviceOption, Vec<String>), String> {
    let Some(row) = DRIVERS.iter().find(|row| row.names.contains(&driver)) else {
        return Err(format!("'{driver}' is not supported (-device help lists what is)"));
    };
    let mut warnings = Vec::new();
    if let Some(other) = row.stands_for {
        warnings.push(format!("-device {driver}: attached as {other}"));
    }
    let id = list.take("id")?;
    if let Some(id) = &id {
        id::check("id", id)?;
    }
    let model = (row.read)(&mut list)?;
    if let Model::Block { .. } = model
        && let Some(bytes) = take_block_size(&mut list, "physical_block_size")?
        && bytes != PHYSICAL_BLOCK_BYTES
    {
        warnings.push(format!("physical_block_size={bytes}: the guest is told {PHYSICAL_BLOCK_BYTES}"));
    }
    let mut device = DeviceOption { id, ..DeviceOption::new(driver, model) };
    if !matches!(device.model, Model::Port { .. }) {
        take_pci(&mut device, &mut list)?;
    }
    if let Some((key, _)) = list.into_pairs().first() {
        return Err(format!("Property '{driver}.{key}' not found"));
    }
    Ok((device, warnings))
}

/// Takes what all virtio functions have.
fn take_pci(device: &mut DeviceOption, list: &mut KeyValues) -> Result<(), String> {
    match list.take("bus")?.as_deref() {
        None | Some("pci.0" | "pcie.0") => {}
        Some(other) => return Err(format!("Bus '{other}' not found; there is pci.0")),
    }
    device.address = list.take("addr")?.map(|text| parse_address(&text)).transpose()?;
    device.queue_size = take_u16(list, "queue-size", QUEUE_SIZE_MAX)?;
    if device.queue_size.is_some_and(|size| size < 2 || !size.is_power_of_two()) {
        let size = device.queue_size.unwrap_or_default();
        return Err(format!(
            "Invalid queue-size property ({size}), must be a power of 2 (max {QUEUE_SIZE_MAX})"
        ));
    }
    device.vectors = take_u16(list, "vectors", VECTORS_MAX)?;
    device.window = list.take_bool("window")?.unwrap_or(true);
    // There is no firmware that could boot from it.
    list.take_number("bootindex")?;
    list.take_bool("multifunction")?;
    check_fixed(list)
}

/// Properties that can only be what they are: key and value.
const FIXED: &[(&str, bool)] = &[
    ("disable-legacy", true),
    ("disable-modern", false),
    ("packed", false),
    ("iommu_platform", false),
    ("ats", false),
    ("event_idx", true),
    ("indirect_desc", true),
    ("scsi", false),
    ("share-rw", false),
    ("write-cache", true),
    ("mq", false),
];

/// Takes the properties that can only be what they are.
fn check_fixed(list: &mut KeyValues) -> Result<(), String> {
    for (key, value) in FIXED {
        let Some(text) = list.take(key)? else { continue };
        if text != "auto" && super::keyval::parse_bool(key, &text)? != *value {
            return Err(format!("{key}={text} is not supported"));
        }
    }
    if let Some(file) = list.take("romfile")?
        && !file.is_empty()
    {
        return Err(format!("romfile={file} is not supported: there is no firmware that would run it"));
    }
    Ok(())
}

fn take_u16(list: &mut KeyValues, key: &str, max: u16) -> Result<Option<u16>, String> {
    match list.take_number(key)? {
        None => Ok(None),
        Some(number) => match u16::try_from(number) {
            Ok(number) if number <= max => Ok(Some(number)),
            Ok(_) | Err(_) => Err(format!("{key}={number}: at most {max}")),
        },
    }
}

/// `addr=SLOT[.FUNCTION]`, hexadecimal.
fn parse_address(text: &str) -> Result<PciAddress, String> {
    let wrong =
        || format!("Property 'addr' doesn't take value '{text}': expected SLOT[.FUNCTION], hexadecimal");
    let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
    let hex = |digits: &str| {
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        // from_str_radix would take a sign.
        let plain = digits.chars().all(|c| c.is_ascii_hexdigit());
        plain.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
    };
    match (hex(slot), hex(function)) {
        (Some(device @ 0..32), Some(function @ 0..8)) => Ok(PciAddress { device, function }),
        _ => Err(wrong()),
    }
}

fn take_queues(list: &mut KeyValues, key: &str) -> Result<Option<u16>, String> {
    match take_u16(list, key, QUEUES_MAX)? {
        Some(0) => Err(format!("{key} property must be larger than 0")),
        other => Ok(other),
    }
}

fn take_mac(list: &mut KeyValues) -> Result<Option<[u8; 6]>, String> {
    list.take("mac")?.map(|text| parse_mac(&text)).transpose()
}

fn block(list: &mut KeyValues) -> Result<Model, String> {
    let drive = list.take("drive")?.ok_or("drive property not set")?;
    let serial = list.take("serial")?;
    check_serial(serial.as_deref())?;
    let queues = take_queues(list, "num-queues")?;
    let logical = take_block_size(list, "logical_block_size")?;
    Ok(Model::Block {
        drive,
        serial,
        queues,
        logical_block_size: logical.filter(|bytes| *bytes != 512),
        place: None,
    })
}

/// Checks the length of a serial number.
pub(super) fn check_serial(serial: Option<&str>) -> Result<(), String> {
    match serial {
        Some(text) if text.len() > SERIAL_BYTES_MAX => {
            Err(format!("serial={text}: at most {SERIAL_BYTES_MAX} bytes"))
        }
        _ => Ok(()),
    }
}

fn take_block_size(list: &mut KeyValues, key: &str) -> Result<Option<u32>, String> {
    let Some(text) = list.take(key)? else { return Ok(None) };
    match size::parse_size(&text, 1) {
        Some(bytes @ 512..=4096) if bytes.is_power_of_two() => Ok(Some(bytes as u32)),
        _ => Err(format!("Property '{key}' doesn't take value '{text}': 512, 1024, 2048 or 4096")),
    }
}

fn ide(list: &mut KeyValues) -> Result<Model, String> {
    // The place on IDE buses that are not there; a PCI bus is checked as for all.
    if list.clone().take("bus")?.is_some_and(|bus| bus.starts_with("ide.")) {
        list.take("bus")?;
    }
    list.take_number("unit")?;
    block(list)
}

fn net(list: &mut KeyValues) -> Result<Model, String> {
    Ok(Model::Net { netdev: list.take("netdev")?, mac: take_mac(list)? })
}

fn entropy(list: &mut KeyValues) -> Result<Model, String> {
    let rng = list.take("rng")?;
    let (bytes_max, period_ms) = (list.take_number("max-bytes")?, list.take_number("period")?);
    if bytes_max == Some(0) {
        return Err("max-bytes=0: at least 1".to_owned());
    }
    if period_ms == Some(0) {
        return Err("'period' parameter expects a positive integer".to_owned());
    }
    // QEMU's defaults: 2^63-1 bytes, that is no limit, in 65536 ms.
    let limit = bytes_max.map(|bytes_max| RateLimit { bytes_max, period_ms: period_ms.unwrap_or(1 << 16) });
    Ok(Model::Entropy { rng, limit })
}

fn serial(list: &mut KeyValues) -> Result<Model, String> {
    match take_u16(list, "max_ports", PORTS_MAX)? {
        Some(0) => Err("max_ports=0: at least one port".to_owned()),
        ports => Ok(Model::Serial { ports_max: ports.unwrap_or(PORTS_MAX) }),
    }
}

fn port(list: &mut KeyValues, console: bool) -> Result<Model, String> {
    let number = take_u16(list, "nr", PORTS_MAX - 1)?;
    if number == Some(0) && !console {
        return Err("Port number 0 on virtio-serial devices reserved for virtconsole devices".to_owned());
    }
    let (chardev, name, bus) = (list.take("chardev")?, list.take("name")?, list.take("bus")?);
    Ok(Model::Port { console, chardev, name, number, bus })
}

fn vhost_user_of(list: &mut KeyValues, seen: Seen) -> Result<Model, String> {
    let chardev = list.take("chardev")?.ok_or("Property 'chardev' is missing")?;
    Ok(Model::VhostUser { chardev, seen })
}

fn vhost_user_block(list: &mut KeyValues) -> Result<Model, String> {
    let queues = take_queues(list, "num-queues")?;
    vhost_user_of(list, Seen::Block(queues))
}

fn generic(list: &mut KeyValues) -> Result<Model, String> {
    let device_type =
        take_u16(list, "virtio-id", 63)?.filter(|id| *id != 0).ok_or("virtio-id= is missing")?;
    let queues = take_queues(list, "num_vqs")?.ok_or("num_vqs= is missing")?;
    vhost_user_of(list, Seen::Other { device_type, queues })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> Result<DeviceOption, String> {
        let mut list = KeyValues::parse(text, Some("driver")).unwrap();
        let driver = list.take("driver").unwrap().unwrap();
        parse(&driver, list).map(|(device, _)| device)
    }

    #[test]
    fn properties_are_taken() {
        let disk = device(
            "virtio-blk-pci,drive=d,id=x,serial=S,num-queues=4,queue-size=128,vectors=0,addr=0x1e.3,bus=pcie.0,\
             logical_block_size=4k,physical_block_size=4096,bootindex=1,disable-legacy=on,packed=off,window=off",
        )
        .unwrap();
        let model = Model::Block {
            drive: "d".to_owned(),
            serial: Some("S".to_owned()),
            queues: Some(4),
            logical_block_size: Some(4096),
            place: None,
        };
        let wanted = DeviceOption {
            id: Some("x".to_owned()),
            address: Some(PciAddress { device: 30, function: 3 }),
            queue_size: Some(128),
            vectors: Some(0),
            window: false,
            ..DeviceOption::new("virtio-blk-pci", model)
        };
        assert_eq!(disk, wanted);
        let card = device("virtio-net-pci,netdev=n,mac=52-54-00-aa-BB-cc").unwrap();
        let mac = Some([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc]);
        assert_eq!(card.model, Model::Net { netdev: Some("n".to_owned()), mac });
        let limit = Some(RateLimit { bytes_max: 1024, period_ms: 1000 });
        let rng = device("virtio-rng-pci,max-bytes=1024,period=1000").unwrap();
        assert_eq!(rng.model, Model::Entropy { rng: None, limit });
        let generic = device("vhost-user-device-pci,chardev=c,virtio-id=26,num_vqs=2").unwrap();
        let seen = Seen::Other { device_type: 26, queues: 2 };
        assert_eq!(generic.model, Model::VhostUser { chardev: "c".to_owned(), seen });
    }

    #[test]
    fn stand_ins_say_so() {
        for (text, line) in [
            ("ide-hd,drive=d,bus=ide.0,unit=1", "-device ide-hd: attached as virtio-blk"),
            ("e1000,netdev=n", "-device e1000: attached as virtio-net"),
            ("virtio-blk,drive=d,physical_block_size=512", "physical_block_size=512: the guest is told 4096"),
        ] {
            let mut list = KeyValues::parse(text, Some("driver")).unwrap();
            let driver = list.take("driver").unwrap().unwrap();
            assert_eq!(parse(&driver, list).unwrap().1, [line]);
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (text, message) in [
            ("virtio-gpu-pci", "'virtio-gpu-pci' is not supported (-device help lists what is)"),
            ("virtio-blk-pci", "drive property not set"),
            ("virtio-blk-pci,drive=d,frob=1", "Property 'virtio-blk-pci.frob' not found"),
            ("virtio-blk-pci,drive=d,packed=on", "packed=on is not supported"),
            ("virtio-blk-pci,drive=d,disable-legacy=off", "disable-legacy=off is not supported"),
            (
                "virtio-blk-pci,drive=d,queue-size=100",
                "Invalid queue-size property (100), must be a power of 2 (max 1024)",
            ),
            ("virtio-blk-pci,drive=d,queue-size=2048", "queue-size=2048: at most 1024"),
            ("virtio-blk-pci,drive=d,num-queues=0", "num-queues property must be larger than 0"),
            ("virtio-blk-pci,drive=d,num-queues=65", "num-queues=65: at most 64"),
            ("virtio-blk-pci,drive=d,bus=pci.1", "Bus 'pci.1' not found; there is pci.0"),
            (
                "virtio-blk-pci,drive=d,addr=20",
                "Property 'addr' doesn't take value '20': expected SLOT[.FUNCTION], hexadecimal",
            ),
            (
                "virtio-blk-pci,drive=d,addr=3.8",
                "Property 'addr' doesn't take value '3.8': expected SLOT[.FUNCTION], hexadecimal",
            ),
            (
                "virtio-blk-pci,drive=d,addr=+3",
                "Property 'addr' doesn't take value '+3': expected SLOT[.FUNCTION], hexadecimal",
            ),
            (
                "virtio-blk-pci,drive=d,logical_block_size=1000",
                "Property 'logical_block_size' doesn't take value '1000': 512, 1024, 2048 or 4096",
            ),
            (
                "virtio-blk-pci,drive=d,serial=123456789012345678901",
                "serial=123456789012345678901: at most 20 bytes",
            ),
            ("virtio-net-pci,mac=1:2", "invalid MAC address '1:2'"),
            (
                "virtio-net-pci,romfile=x",
                "romfile=x is not supported: there is no firmware that would run it",
            ),
            (
                "virtserialport,nr=0",
                "Port number 0 on virtio-serial devices reserved for virtconsole devices",
            ),
            ("vhost-user-blk-pci", "Property 'chardev' is missing"),
            ("vhost-user-device-pci,chardev=c,num_vqs=1", "virtio-id= is missing"),
            ("virtconsole,window=off", "Property 'virtconsole.window' not found"),
        ] {
            assert_eq!(device(text).unwrap_err(), message, "{text}");
        }
    }
}
