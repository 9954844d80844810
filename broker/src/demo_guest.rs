//! The demo guest's image, built from `broker/guest` by the build script.

/// ELF64 file with a PVH note: counts timer interrupts, reads clock and RDRAND, takes a typed line, powers off.
pub const IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/demo-guest.elf"));

#[cfg(test)]
mod tests {
    use super::IMAGE;

    #[test]
    fn image_has_its_pvh_note() {
        assert!(IMAGE.starts_with(b"\x7fELF\x02"));
        let note = b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0";
        assert!(IMAGE.windows(note.len()).any(|window| window == note));
    }
}
