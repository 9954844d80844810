//! Tests of reading requests.

use super::*;

const LIMITS: Limits = Limits { sectors: 100, block_sectors: 1, read_only: false };

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000), (GuestAddress(0x10000), 0x10000)]).unwrap()
}

fn header(memory: &GuestMemoryMmap, at: u64, kind: u32, sector: u64) {
    memory.write_obj(kind.to_le(), GuestAddress(at)).unwrap();
    memory.write_obj(sector.to_le(), GuestAddress(at + 8)).unwrap();
}

fn chain(readable: &[(u64, usize)], writable: &[(u64, usize)]) -> Chain {
    let segments =
        |list: &[(u64, usize)]| list.iter().map(|&(at, length)| (GuestAddress(at), length)).collect();
    Chain { readable: segments(readable), writable: segments(writable), sound: true, ..Chain::default() }
}

#[test]
fn a_read_whose_header_lies_across_two_regions() {
    let memory = memory();
    header(&memory, 0xfff8, VIRTIO_BLK_T_IN, 7);
    let chain = chain(&[(0xfff8, 16)], &[(0x400, 512), (0x700, 513)]);
    let request = Request::parse(&chain, &memory, &LIMITS);
    let into = vec![(GuestAddress(0x400), 512), (GuestAddress(0x700), 512)];
    assert_eq!(request.operation, Ok(Operation::Read { offset: 3584, into }));
    assert_eq!(request.status_at, Some(GuestAddress(0x900)));
    assert_eq!(request.answer_length(), 1025);
}

#[test]
fn a_write_whose_data_follows_the_header_at_once() {
    let memory = memory();
    header(&memory, 0x100, VIRTIO_BLK_T_OUT, 99);
    let request = Request::parse(&chain(&[(0x100, 528)], &[(5, 1), (9, 0)]), &memory, &LIMITS);
    let from = vec![(GuestAddress(0x110), 512)];
    assert_eq!(request.operation, Ok(Operation::Write { offset: 99 * 512, from }));
    assert_eq!(request.status_at, Some(GuestAddress(5)));
    let read_only = Limits { read_only: true, ..LIMITS };
    let request = Request::parse(&chain(&[(0x100, 528)], &[(5, 1)]), &memory, &read_only);
    assert_eq!(request.operation, Err(IOERR));
}

#[test]
fn whole_blocks_only() {
    let memory = memory();
    let limits = Limits { block_sectors: 8, sectors: 96, read_only: false };
    for (sector, bytes, wanted) in
        [(8, 4096, Ok(())), (9, 4096, Err(IOERR)), (8, 512, Err(IOERR)), (88, 8192, Err(IOERR))]
    {
        header(&memory, 0, VIRTIO_BLK_T_IN, sector);
        let request = Request::parse(&chain(&[(0, 16)], &[(0x100, bytes + 1)]), &memory, &limits);
        assert_eq!(request.operation.map(drop), wanted, "{sector} {bytes}");
    }
}

#[test]
fn ranges_are_read_with_their_flags() {
    let memory = memory();
    header(&memory, 0, VIRTIO_BLK_T_WRITE_ZEROES, 0);
    for (at, sector, sectors, flags) in [(16, 3u64, 4u32, 1u32), (32, 99, 1, 0)] {
        memory.write_obj(sector.to_le(), GuestAddress(at)).unwrap();
        memory.write_obj(sectors.to_le(), GuestAddress(at + 8)).unwrap();
        memory.write_obj(flags.to_le(), GuestAddress(at + 12)).unwrap();
    }
    let request = Request::parse(&chain(&[(0, 20), (20, 28)], &[(0x100, 1)]), &memory, &LIMITS);
    let ranges = vec![
        Range { offset: 1536, length: 2048, unmap: true },
        Range { offset: 99 * 512, length: 512, unmap: false },
    ];
    assert_eq!(request.operation, Ok(Operation::WriteZeroes(ranges)));
    header(&memory, 0, VIRTIO_BLK_T_DISCARD, 0);
    let request = Request::parse(&chain(&[(0, 48)], &[(0x100, 1)]), &memory, &LIMITS);
    assert_eq!(request.operation, Err(UNSUPP), "discard knows no flags");
}

#[test]
fn a_failed_request_shows_nothing_of_what_was_in_its_buffers() {
    let memory = memory();
    header(&memory, 0, VIRTIO_BLK_T_IN, 1000);
    memory.write_slice(&[0xee; 9000], GuestAddress(0x1000)).unwrap();
    let request = Request::parse(&chain(&[(0, 16)], &[(0x1000, 8193)]), &memory, &LIMITS);
    assert_eq!(request.operation, Err(IOERR));
    request.clear_room(&memory);
    let mut bytes = [0; 9000];
    memory.read_slice(&mut bytes, GuestAddress(0x1000)).unwrap();
    assert!(bytes[..8192] == [0; 8192] && bytes[8192..] == [0xee; 808]);
}
