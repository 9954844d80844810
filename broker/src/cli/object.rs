//! `-object`: sources of entropy, and the filters that every network of a recorded machine has anyway.

use super::id;
use super::keyval::KeyValues;

/// Where QEMU's default source of entropy reads.
pub const ENTROPY_DEFAULT: &str = "/dev/urandom";

/// One `-object`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub id: String,
    /// What it is.
    pub kind: ObjectKind,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A source of entropy of the host.
    Entropy {
        /// Its device file.
        filename: String,
    },
    /// A filter that records and replays a network.
    FilterReplay {
        /// Name of the netdev.
        netdev: String,
    },
}

/// Text of `-object help`.
pub const HELP: &str = "List of user creatable objects:\n  filter-replay  id=ID,netdev=ID (every netdev of a recorded \
                        machine has it)\n  rng-builtin    id=ID\n  rng-random     id=ID[,filename=FILE]\n";

/// Reads the value of `-object`.
pub fn parse(text: &str) -> Result<Object, String> {
    let mut list = KeyValues::parse(text, Some("qom-type"))?;
    let kind = list.take("qom-type")?.ok_or("Parameter 'qom-type' is missing")?;
    let id = list.take("id")?.ok_or("Parameter 'id' is missing")?;
    id::check("id", &id)?;
    let kind = match kind.as_str() {
        "rng-random" => {
            let filename = list.take("filename")?.unwrap_or_else(|| ENTROPY_DEFAULT.to_owned());
            ObjectKind::Entropy { filename }
        }
        "rng-builtin" => ObjectKind::Entropy { filename: ENTROPY_DEFAULT.to_owned() },
        "filter-replay" => {
            let netdev = list.take("netdev")?.ok_or("Parameter 'netdev' is missing")?;
            for (key, only) in [("queue", "all"), ("status", "on")] {
                if let Some(value) = list.take(key)?
                    && value != only
                {
                    return Err(format!("{key}={value} is not supported; only {only}"));
                }
            }
            ObjectKind::FilterReplay { netdev }
        }
        other => return Err(format!("object type '{other}' is not supported (-object help lists them)")),
    };
    list.finish()?;
    Ok(Object { id, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects() {
        let entropy = |filename: &str| ObjectKind::Entropy { filename: filename.to_owned() };
        for (text, kind) in [
            ("rng-random,id=o,filename=/dev/hwrng", entropy("/dev/hwrng")),
            ("rng-random,id=o", entropy("/dev/urandom")),
            ("rng-builtin,id=o", entropy("/dev/urandom")),
            ("filter-replay,id=o,netdev=n", ObjectKind::FilterReplay { netdev: "n".to_owned() }),
        ] {
            assert_eq!(parse(text), Ok(Object { id: "o".to_owned(), kind }), "{text}");
        }
        for (text, message) in [
            ("rng-random", "Parameter 'id' is missing"),
            ("filter-replay,id=o", "Parameter 'netdev' is missing"),
            ("filter-replay,id=o,netdev=n,queue=rx", "queue=rx is not supported; only all"),
            (
                "filter-dump,id=o,netdev=n,file=f",
                "object type 'filter-dump' is not supported (-object help lists them)",
            ),
            (
                "memory-backend-memfd,id=o,size=1G",
                "object type 'memory-backend-memfd' is not supported (-object help lists them)",
            ),
            ("rng-builtin,id=o,x=1", "Invalid parameter 'x'"),
        ] {
            assert_eq!(parse(text).unwrap_err(), message, "{text}");
        }
    }
}
