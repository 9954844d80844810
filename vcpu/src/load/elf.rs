//! ELF headers, program headers and notes of an executable, 32- or 64-bit (System V ABI, chapters 4 and 5).

use super::error::ImageError;

const MAGIC: &[u8; 4] = b"\x7fELF";
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_386: u16 = 3;
const MACHINE_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// Entry point for a CPU in 32-bit mode without paging (Xen public/elfnote.h).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;

/// Width of addresses in the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Elf32,
    Elf64,
}

/// What the loaders need of an executable.
pub(super) struct Elf<'a> {
    image: &'a [u8],
    pub(super) class: Class,
    /// Address of the first instruction as linked.
    pub(super) entry: u64,
    segments: Vec<Segment>,
}

/// A program header whose file part lies inside the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    kind: u32,
    offset: u64,
    virtual_address: u64,
    pub(super) physical_address: u64,
    pub(super) file_bytes: u64,
    pub(super) memory_bytes: u64,
}

/// Tells an ELF file by its magic.
pub(super) fn is_elf(image: &[u8]) -> bool {
    image.starts_with(MAGIC)
}

/// Reads little-endian fields out of the file.
fn field<const N: usize>(image: &[u8], offset: u64) -> Option<[u8; N]> {
    let start = usize::try_from(offset).ok()?;
    image.get(start..start.checked_add(N)?)?.try_into().ok()
}

fn u16_at(image: &[u8], offset: u64) -> Option<u16> {
    field(image, offset).map(u16::from_le_bytes)
}

fn u32_at(image: &[u8], offset: u64) -> Option<u32> {
    field(image, offset).map(u32::from_le_bytes)
}

fn u64_at(image: &[u8], offset: u64) -> Option<u64> {
    field(image, offset).map(u64::from_le_bytes)
}

impl<'a> Elf<'a> {
    /// Parses and checks the headers.
    pub(super) fn parse(image: &'a [u8]) -> Result<Elf<'a>, ImageError> {
        let has = image.len() as u64;
        let class = match image.get(4) {
            Some(&CLASS_32) => Class::Elf32,
            Some(&CLASS_64) => Class::Elf64,
            Some(_) => return Err(ImageError::Malformed("the ELF class is neither 32- nor 64-bit")),
            None => return Err(ImageError::Truncated { what: "the ELF header", needs: 52, has }),
        };
        let header_bytes = if class == Class::Elf64 { 64 } else { 52 };
        let truncated = || ImageError::Truncated { what: "the ELF header", needs: header_bytes, has };
        if has < header_bytes {
            return Err(truncated());
        }
        let word = |offset| u16_at(image, offset).ok_or_else(truncated);
        let address = |offset_32, offset_64| match class {
            Class::Elf32 => u32_at(image, offset_32).map(u64::from).ok_or_else(truncated),
            Class::Elf64 => u64_at(image, offset_64).ok_or_else(truncated),
        };
        let machine = if class == Class::Elf64 { MACHINE_X86_64 } else { MACHINE_386 };
        if image[5] != LITTLE_ENDIAN || word(18)? != machine {
            return Err(ImageError::Unsupported("an ELF file for another architecture"));
        }
        if ![TYPE_EXECUTABLE, TYPE_SHARED].contains(&word(16)?) {
            return Err(ImageError::Unsupported("an ELF file that is not an executable"));
        }
        let (entry, table) = (address(24, 24)?, address(28, 32)?);
        let (size_at, row_bytes) = if class == Class::Elf64 { (54, 56) } else { (42, 32) };
        if word(size_at)? != row_bytes {
            return Err(ImageError::Malformed("the ELF program headers have a wrong size"));
        }
        if table < header_bytes {
            return Err(ImageError::Malformed("the ELF program headers overlap the ELF header"));
        }
        let segments = (0..u64::from(word(size_at + 2)?))
            .map(|index| Segment::parse(image, class, table, index * u64::from(row_bytes)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Elf { image, class, entry, segments })
    }

    /// Segments that occupy memory.
    pub(super) fn loadable(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == PT_LOAD && segment.memory_bytes > 0)
    }

    /// Bytes of the file that go to the start of a segment.
    pub(super) fn contents(&self, segment: &Segment) -> &'a [u8] {
        // Checked by `Segment::parse`.
        &self.image[segment.offset as usize..(segment.offset + segment.file_bytes) as usize]
    }

    /// Physical address of the first instruction: the entry may be given as a virtual address.
    pub(super) fn physical_entry(&self) -> Option<u64> {
        self.loadable()
            .find(|segment| self.entry.wrapping_sub(segment.virtual_address) < segment.memory_bytes)
            .map(|segment| segment.physical_address + self.entry.wrapping_sub(segment.virtual_address))
            .or_else(|| self.contains(self.entry).then_some(self.entry))
    }

    /// Whether a physical address lies in a segment.
    pub(super) fn contains(&self, address: u64) -> bool {
        self.loadable().any(|segment| address.wrapping_sub(segment.physical_address) < segment.memory_bytes)
    }

    /// PVH entry point, if the kernel's notes give one.
    pub(super) fn pvh_entry(&self) -> Result<Option<u32>, ImageError> {
        for segment in self.segments.iter().filter(|segment| segment.kind == PT_NOTE) {
            if let Some(entry) = pvh_entry_in(self.contents(segment))? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}

impl Segment {
    fn parse(image: &[u8], class: Class, table: u64, row: u64) -> Result<Segment, ImageError> {
        let has = image.len() as u64;
        let at = table.saturating_add(row);
        // Offsets of type, file offset, virtual and physical address, file and memory size.
        let fields: Option<[u64; 6]> = (|| {
            Some(match class {
                Class::Elf32 => {
                    let read = |offset| u32_at(image, at.checked_add(offset)?).map(u64::from);
                    [read(0)?, read(4)?, read(8)?, read(12)?, read(16)?, read(20)?]
                }
                Class::Elf64 => {
                    let read = |offset| u64_at(image, at.checked_add(offset)?);
                    let kind = u64::from(u32_at(image, at)?);
                    // The last word is read too, so that the row is known to be whole.
                    read(48)?;
                    [kind, read(8)?, read(16)?, read(24)?, read(32)?, read(40)?]
                }
            })
        })();
        let Some([kind, offset, virtual_address, physical_address, file_bytes, memory_bytes]) = fields else {
            let needs = at.saturating_add(if class == Class::Elf64 { 56 } else { 32 });
            return Err(ImageError::Truncated { what: "the ELF program headers", needs, has });
        };
        let segment = Segment {
            kind: kind as u32,
            offset,
            virtual_address,
            physical_address,
            file_bytes,
            memory_bytes,
        };
        if [PT_LOAD, PT_NOTE].contains(&segment.kind) {
            let needs =
                offset.checked_add(file_bytes).ok_or(ImageError::Malformed("a segment exceeds 64 bits"))?;
            if needs > has {
                return Err(ImageError::Truncated { what: "an ELF segment", needs, has });
            }
        }
        if segment.kind == PT_LOAD && file_bytes > memory_bytes {
            return Err(ImageError::Malformed("a segment is larger in the file than in memory"));
        }
        if physical_address.checked_add(memory_bytes).is_none() {
            return Err(ImageError::Malformed("a segment exceeds 64 bits"));
        }
        Ok(segment)
    }
}

/// Searches one note segment; name and descriptor are padded to four bytes.
fn pvh_entry_in(notes: &[u8]) -> Result<Option<u32>, ImageError> {
    const HEADER: u64 = 12;
    let mut at = 0u64;
    while let (Some(name_bytes), Some(descriptor_bytes), Some(kind)) =
        (u32_at(notes, at), u32_at(notes, at + 4), u32_at(notes, at + 8))
    {
        let name = at + HEADER;
        let descriptor = name + u64::from(name_bytes).next_multiple_of(4);
        let is_xen = name_bytes == 4 && field(notes, name) == Some(*b"Xen\0");
        if is_xen && kind == XEN_ELFNOTE_PHYS32_ENTRY {
            let entry = u32_at(notes, descriptor).filter(|_| descriptor_bytes >= 4);
            return entry.map(Some).ok_or(ImageError::Malformed("the PVH note has no entry address"));
        }
        at = descriptor + u64::from(descriptor_bytes).next_multiple_of(4);
    }
    Ok(None)
}
