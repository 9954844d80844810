//! A back-end that lies, written by hand into the used ring.

use super::*;

const SHAPE: QueueShape = QueueShape { size: 8, arena_bytes: 1 << 16, signals: true };

struct Rig {
    memory: WindowMemory,
    queue: RequestQueue<u32>,
}

impl Rig {
    fn new(indirect: bool) -> Rig {
        let layout = Layout::new(0, &SHAPE);
        let memory = WindowMemory::new("rig", layout.end).unwrap();
        let mut queue = RequestQueue::new("rig", 0, SHAPE, layout);
        queue.reset(&memory, indirect);
        Rig { memory, queue }
    }

    fn submit(&mut self, tag: u32) -> u16 {
        assert_eq!(self.queue.room(2, 64), Room::Now);
        let position = self.queue.next_avail;
        self.queue.submit(&self.memory, tag, b"ab", 64, Framing { head: 1, tail: 1 });
        self.queue.publish(&self.memory);
        self.head_at(position)
    }

    fn head_at(&self, position: u16) -> u16 {
        let slot = usize::from(position % SHAPE.size);
        self.memory.load(self.queue.layout.avail + RING + 2 * slot, Ordering::Relaxed)
    }

    fn use_at(&self, position: u16, id: u32, length: u32) {
        let slot = usize::from(position % SHAPE.size);
        let element = self.queue.layout.used + RING + USED_ELEMENT_SIZE * slot;
        self.memory.store(id.to_le(), element, Ordering::Relaxed);
        self.memory.store(length.to_le(), element + 4, Ordering::Relaxed);
        self.memory.store(
            position.wrapping_add(1).to_le(),
            self.queue.layout.used + INDEX,
            Ordering::Release,
        );
    }

    fn take(&mut self) -> Result<Option<Done<u32>>, WindowError> {
        self.queue.take(&self.memory)
    }

    /// Parts of a request as a back-end finds them: address, length, written by the device.
    fn walk(&self, head: u16) -> Vec<(usize, u32, bool)> {
        let (mut table, mut number) = (self.queue.layout.descriptors, usize::from(head));
        let mut parts = vec![];
        loop {
            let mut bytes = [0; DESCRIPTOR_SIZE];
            self.memory.read(table + DESCRIPTOR_SIZE * number, &mut bytes);
            let at = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let flags = u32::from(u16::from_le_bytes([bytes[12], bytes[13]]));
            if flags & VRING_DESC_F_INDIRECT != 0 {
                (table, number) = (at, 0);
                continue;
            }
            parts.push((at, length, flags & VRING_DESC_F_WRITE != 0));
            if flags & VRING_DESC_F_NEXT == 0 {
                return parts;
            }
            number = usize::from(u16::from_le_bytes([bytes[14], bytes[15]]));
        }
    }
}

#[test]
fn requests_are_framed_and_come_back_in_any_order_across_the_wrap() {
    for indirect in [true, false] {
        let mut rig = Rig::new(indirect);
        for round in 0..40_000u32 {
            let position = (round * 2) as u16;
            let heads = [rig.submit(round), rig.submit(round + 1)];
            let parts = rig.walk(heads[1]);
            let shape: Vec<(u32, bool)> = parts.iter().map(|part| (part.1, part.2)).collect();
            assert_eq!(shape, [(1, false), (1, false), (63, true), (1, true)]);
            assert!(rig.take().unwrap().is_none());
            rig.memory.write(parts[2].0, &[7; 63]);
            rig.memory.write(parts[3].0, &[9]);
            rig.use_at(position, heads[1].into(), 64);
            let done = rig.take().unwrap().unwrap();
            assert_eq!((done.tag, done.length, done.bytes[62], done.bytes[63]), (round + 1, 64, 7, 9));
            rig.use_at(position.wrapping_add(1), heads[0].into(), 0);
            assert_eq!(rig.take().unwrap().unwrap().tag, round);
            assert_eq!(rig.queue.outstanding(), 0);
        }
    }
}

#[test]
fn a_full_window_says_later_and_a_small_one_never() {
    let mut rig = Rig::new(true);
    assert_eq!(rig.queue.room(0, 1 << 17), Room::Never);
    assert_eq!(rig.queue.room(usize::MAX, usize::MAX), Room::Never);
    rig.queue.submit(&rig.memory, 0, b"", 60_000, Framing::default());
    assert_eq!((rig.queue.room(0, 8000), rig.queue.room(0, 100)), (Room::Later, Room::Now));
    for tag in 1..8 {
        rig.queue.submit(&rig.memory, tag, b"x", 0, Framing::default());
    }
    assert_eq!(rig.queue.room(1, 0), Room::Later);
}

#[test]
fn lies_are_refused_by_name() {
    let refused = |lie: fn(&mut Rig)| {
        let mut rig = Rig::new(true);
        rig.submit(1);
        lie(&mut rig);
        rig.take().unwrap_err().to_string()
    };
    let text = refused(|rig| rig.use_at(1, 0, 0));
    assert!(text.contains("used index 2") && text.contains("queue 0"), "{text}");
    let text = refused(|rig| rig.use_at(0, 5, 0));
    assert!(text.contains("descriptor 5"), "{text}");
    let text = refused(|rig| rig.use_at(0, 0xffff_0000, 0));
    assert!(text.contains("4294901760"), "{text}");
    let text = refused(|rig| {
        let head = rig.head_at(0);
        rig.use_at(0, head.into(), 65);
    });
    assert!(text.contains("65 bytes, the buffer 64"), "{text}");
}

#[test]
fn a_request_is_given_back_once() {
    let mut rig = Rig::new(true);
    let head = rig.submit(1);
    rig.submit(2);
    rig.use_at(0, head.into(), 0);
    rig.take().unwrap();
    rig.use_at(1, head.into(), 0);
    assert!(matches!(rig.take(), Err(WindowError::UsedId { .. })));
}

#[test]
fn a_new_back_end_gets_what_is_outstanding_in_order() {
    let mut rig = Rig::new(true);
    let heads: Vec<u16> = (0..4).map(|tag| rig.submit(tag)).collect();
    rig.use_at(0, heads[2].into(), 0);
    assert_eq!(rig.take().unwrap().unwrap().tag, 2);
    rig.queue.submit_again(&rig.memory, true);
    rig.queue.publish(&rig.memory);
    for (position, tag) in [0, 1, 3].into_iter().enumerate() {
        let head = rig.head_at(position as u16);
        assert_eq!(rig.walk(head).len(), 4);
        rig.use_at(position as u16, head.into(), 0);
        assert_eq!(rig.take().unwrap().unwrap().tag, tag);
    }
    assert_eq!(rig.queue.outstanding(), 0);
}
