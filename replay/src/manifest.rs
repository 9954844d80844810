//! The manifest: what a recording says about itself, `manifest.json`.
//!
//! JSON, so that people and scripts can read it, with a checksum over every byte of the file, so that a changed one is
//! found. The rule: take the text with the checksum's 16 hexadecimal digits replaced by zeros; their value is the XXH3-64
//! of that. `checksum` is the first member and `recording.format` is always there, in every version.

use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Version that this release writes, and the newest that it reads.
pub const FORMAT: u32 = 2;
/// Number of what a guest can see. Whoever changes that (a device, a table, an instruction's result, what an instruction
/// counts) raises it: a recording of another revision may not replay.
pub const REVISION: u32 = 3;
/// A longer manifest is refused unread.
pub const MANIFEST_BYTES_MAX: u64 = 4 << 20;

const PREFIX: &str = "{\n  \"checksum\": \"";
const NO_CHECKSUM: &str = "0000000000000000";

/// What was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the recording's format: [`FORMAT`].
    pub format: u32,
    /// The reprise that recorded: its [`build`].
    pub build: String,
    /// Identity of the recording, hyphenated; the log carries it too.
    pub uuid: String,
    /// Host time of the recording's start: seconds since 1970-01-01 UTC.
    pub created_unix_s: i64,
    /// The machine, options resolved.
    pub machine: Machine,
    /// The command line as it was given.
    pub command_line: Vec<String>,
    /// The kernel image.
    pub kernel: Option<FileIdentity>,
    /// The initial RAM disk.
    pub initrd: Option<FileIdentity>,
    /// Images under the disks.
    #[serde(default)]
    pub disks: Vec<DiskIdentity>,
    /// Name of the state at the start, from `rrsnapshot=`.
    pub snapshot_tag: Option<String>,
    /// The snapshot in the recording from which it starts; none: it starts at power-on.
    #[serde(default)]
    pub start_snapshot: Option<String>,
    /// Recordings whose first events this one shares, because a snapshot of theirs was loaded while it was recorded.
    #[serde(default)]
    pub ancestors: Vec<LogPlace>,
    /// Vendor string of the host CPU, e.g. `GenuineIntel`.
    pub host_cpu_vendor: String,
    /// Instructions between two digests in the log.
    pub digest_interval: u64,
}

/// A place in the log of a recording.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPlace {
    /// The recording's uuid.
    pub uuid: String,
    /// Events before the place.
    pub events: u64,
}

/// A file of the host that the machine was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Where it was.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its content, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// An image under a disk, by what can be known of it without reading it all: its content is checked as it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// The device whose image it is.
    pub id: String,
    /// Where it was.
    pub path: String,
    /// `raw` or `qcow2`.
    pub format: String,
    /// Bytes that the guest sees.
    pub bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// When the file was changed last: nanoseconds since 1970.
    pub modified_unix_ns: i64,
    /// Names of the images below it, as they stand in the headers, from the top down.
    pub backing: Vec<String>,
}

/// A manifest that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// The file is not as it was written.
    #[error("manifest.json is damaged or was changed: {what}")]
    Damaged {
        /// What does not fit.
        what: String,
    },
    /// It holds something that JSON cannot.
    #[error("manifest.json cannot be written: {what}")]
    Unwritable {
        /// What.
        what: String,
    },
    /// A later release made it.
    #[error("the recording has format {found}, this reprise reads formats up to {FORMAT}: use a newer one")]
    Newer {
        /// Its format.
        found: u32,
    },
}

/// Names this program in a recording: version and revision.
pub fn build() -> String {
    format!("{}+r{REVISION}", env!("CARGO_PKG_VERSION"))
}

#[derive(Serialize)]
struct DocumentRef<'a> {
    checksum: &'a str,
    recording: &'a Manifest,
}

#[derive(Deserialize)]
struct Document<T> {
    recording: T,
}

/// The part that every version has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Manifest {
    /// The text of `manifest.json`.
    ///
    /// # Errors
    /// If a path of the machine is not UTF-8.
    pub fn to_text(&self) -> Result<String, ManifestError> {
        let document = DocumentRef { checksum: NO_CHECKSUM, recording: self };
        let mut text = serde_json::to_string_pretty(&document)
            .map_err(|error| ManifestError::Unwritable { what: error.to_string() })?;
        text.push('\n');
        let checksum = format!("{:016x}", xxh3_64(text.as_bytes()));
        text.replace_range(PREFIX.len()..PREFIX.len() + checksum.len(), &checksum);
        Ok(text)
    }

    /// Reads what [`Manifest::to_text`] wrote.
    pub fn from_text(text: &[u8]) -> Result<Manifest, ManifestError> {
        let damaged = |what: String| ManifestError::Damaged { what };
        let digits = PREFIX.len()..PREFIX.len() + NO_CHECKSUM.len();
        let Some(found) = text.get(digits.clone()).filter(|_| text.starts_with(PREFIX.as_bytes())) else {
            return Err(damaged("it does not begin with a checksum".into()));
        };
        let mut zeroed = text.to_vec();
        zeroed[digits].copy_from_slice(NO_CHECKSUM.as_bytes());
        let expected = format!("{:016x}", xxh3_64(&zeroed));
        if found != expected.as_bytes() {
            return Err(damaged(format!("its checksum is {}, not {expected}", found.escape_ascii())));
        }
        let parse_failed = |error: serde_json::Error| damaged(error.to_string());
        let versioned: Document<Versioned> = serde_json::from_slice(text).map_err(parse_failed)?;
        if versioned.recording.format > FORMAT {
            return Err(ManifestError::Newer { found: versioned.recording.format });
        }
        let document: Document<Manifest> = serde_json::from_slice(text).map_err(parse_failed)?;
        document.recording.uuid_bytes()?;
        Ok(document.recording)
    }

    /// Whether the log of this recording passes a place.
    pub fn passes(&self, place: &LogPlace) -> bool {
        let is_shared = |ancestor: &LogPlace| ancestor.uuid == place.uuid && place.events <= ancestor.events;
        self.uuid == place.uuid || self.ancestors.iter().any(is_shared)
    }

    /// What a recording is called that goes on in another way from a place of this one. `uuid` is new.
    pub fn branch(&self, events: u64, uuid: String) -> Manifest {
        let shared =
            |ancestor: &LogPlace| LogPlace { events: ancestor.events.min(events), ..ancestor.clone() };
        let mut ancestors: Vec<LogPlace> = self.ancestors.iter().map(shared).collect();
        ancestors.push(LogPlace { uuid: self.uuid.clone(), events });
        Manifest { uuid, ancestors, ..self.clone() }
    }

    /// What a user should know before replaying a recording of another build; none for this one's.
    pub fn build_warning(&self) -> Option<String> {
        let (recorded, ours) = (&self.build, build());
        (*recorded != ours).then(|| {
            format!(
                "recorded by reprise {recorded}, this is {ours}: where their guests differ, the replay will \
                 stop with the first difference"
            )
        })
    }

    /// The uuid as the log's header has it.
    pub fn uuid_bytes(&self) -> Result<[u8; 16], ManifestError> {
        uuid::Uuid::parse_str(&self.uuid)
            .map(uuid::Uuid::into_bytes)
            .map_err(|error| ManifestError::Damaged { what: format!("uuid {:?}: {error}", self.uuid) })
    }
}

/// A manifest for tests, here and in the crates that use recordings.
#[doc(hidden)]
pub fn example() -> Manifest {
    use crate::device::{DeviceChoice, DeviceKind};
    use crate::machine::{Boot, Clock, CpuChoice, PanicAction};
    let machine = Machine {
        ram_bytes: 256 << 20,
        cpu: CpuChoice { model: "x86-64-v3".into(), features: vec![("avx2".into(), false)] },
        cpu_count: 1,
        boot: Boot { kernel: Some("/boot/vmlinuz".into()), initrd: None, cmdline: "console=ttyS0".into() },
        clock: Clock { shift: 5, auto: false, sleep: true, rtc_base: 1_700_000_000, host_offset_s: None },
        uarts: vec![Some(0)],
        devices: vec![DeviceChoice { id: "serial0".into(), kind: DeviceKind::Chardev }],
        functions: vec![],
        no_reboot: true,
        no_shutdown: false,
        panic_action: PanicAction::None,
        debug_exit_port: None,
        debug_console: None,
        uuid: None,
    };
    Manifest {
        format: FORMAT,
        build: build(),
        uuid: "67e55044-10b1-426f-9247-bb680e5fe0c8".into(),
        created_unix_s: 1_700_000_001,
        machine,
        command_line: vec!["reprise".into(), "-kernel".into(), "/boot/vmlinuz".into()],
        kernel: Some(FileIdentity { path: "/boot/vmlinuz".into(), bytes: 3, sha256: "0".repeat(64) }),
        initrd: None,
        disks: vec![],
        start_snapshot: None,
        ancestors: vec![],
        snapshot_tag: Some("init".into()),
        host_cpu_vendor: "GenuineIntel".into(),
        digest_interval: 10_000_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back() {
        let manifest = example();
        let text = manifest.to_text().unwrap();
        assert!(text.starts_with("{\n  \"checksum\": \"") && text.ends_with("}\n"));
        assert_eq!(Manifest::from_text(text.as_bytes()).unwrap(), manifest);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["recording"]["machine"]["ram_bytes"], 268_435_456u64);
    }

    #[test]
    fn disks_are_kept_and_may_be_absent() {
        let disk = DiskIdentity {
            id: "virtio0".into(),
            path: "/d.qcow2".into(),
            format: "qcow2".into(),
            bytes: 64 << 20,
            file_bytes: 196_616,
            modified_unix_ns: 1_700_000_000_123_456_789,
            backing: vec!["base.raw".into()],
        };
        let manifest = Manifest { disks: vec![disk], ..example() };
        let text = manifest.to_text().unwrap();
        assert_eq!(Manifest::from_text(text.as_bytes()).unwrap(), manifest);
        // As releases before disks wrote it: without the member, under a checksum of its own.
        let none = example().to_text().unwrap();
        let mut old = none.replace("\n    \"disks\": [],", "");
        assert_ne!(old, none);
        let digits = PREFIX.len()..PREFIX.len() + NO_CHECKSUM.len();
        old.replace_range(digits.clone(), NO_CHECKSUM);
        let checksum = format!("{:016x}", xxh3_64(old.as_bytes()));
        old.replace_range(digits, &checksum);
        assert_eq!(Manifest::from_text(old.as_bytes()).unwrap(), example());
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_found() {
        let text = example().to_text().unwrap().into_bytes();
        for at in 0..text.len() {
            for flip in [1, 0x20, 0x80, 0xff] {
                let mut changed = text.clone();
                changed[at] ^= flip;
                let error = Manifest::from_text(&changed).unwrap_err();
                assert!(matches!(error, ManifestError::Damaged { .. }), "byte {at}: {error}");
            }
            assert!(Manifest::from_text(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn another_build_is_named() {
        assert_eq!(example().build_warning(), None);
        let other = Manifest { build: "0.0.9+r0".into(), ..example() };
        let warning = other.build_warning().unwrap();
        assert!(warning.contains("0.0.9+r0") && warning.contains(&build()), "{warning}");
    }

    /// Recordings from before a field of the machine existed.
    #[test]
    fn what_an_older_manifest_does_not_say_has_its_default() {
        let mut json = serde_json::to_value(example().machine).unwrap();
        json.as_object_mut().unwrap().remove("panic_action").unwrap();
        json["clock"].as_object_mut().unwrap().remove("host_offset_s").unwrap();
        assert_eq!(serde_json::from_value::<Machine>(json).unwrap(), example().machine);
    }

    #[test]
    fn a_newer_format_is_named() {
        let text = Manifest { format: 7, ..example() }.to_text().unwrap();
        assert_eq!(Manifest::from_text(text.as_bytes()), Err(ManifestError::Newer { found: 7 }));
    }

    #[test]
    fn a_path_that_is_no_text_is_an_error() {
        use std::os::unix::ffi::OsStrExt;
        let mut manifest = example();
        manifest.machine.boot.kernel = Some(std::ffi::OsStr::from_bytes(b"/\xff").into());
        assert!(matches!(manifest.to_text(), Err(ManifestError::Unwritable { .. })));
    }

    #[test]
    fn a_uuid_that_is_none_is_refused() {
        let text = Manifest { uuid: "something".into(), ..example() }.to_text().unwrap();
        assert!(matches!(Manifest::from_text(text.as_bytes()), Err(ManifestError::Damaged { .. })));
    }
}
