//! A back-end that lies, written by hand into the used ring.

use super::*;

const SHAPE: QueueShape = QueueShape { size: 4, buffer_size: 64, direction: Direction::FromDevice };

struct Rig {
    memory: WindowMemory,
    queue: DriverQueue,
}

impl Rig {
    fn new(shape: QueueShape) -> Rig {
        let layout = Layout::new(0, &shape);
        let memory = WindowMemory::new("rig", layout.end).unwrap();
        let queue = DriverQueue::new(&memory, "rig", 0, shape, layout);
        Rig { memory, queue }
    }

    fn offer(&mut self, count: usize) {
        for _ in 0..count {
            self.queue.offer(&self.memory, b"");
        }
        self.queue.publish(&self.memory);
    }

    fn use_at(&self, position: u16, id: u32, length: u32) {
        let slot = usize::from(position % self.queue.shape.size);
        let element = self.queue.layout.used + USED_RING + USED_ELEMENT_SIZE * slot;
        self.memory.store(id.to_le(), element, Ordering::Relaxed);
        self.memory.store(length.to_le(), element + 4, Ordering::Relaxed);
        self.memory.store(position.wrapping_add(1).to_le(), self.queue.layout.used + 2, Ordering::Release);
    }

    fn take(&mut self) -> Result<Option<Used>, WindowError> {
        self.queue.take_used(&self.memory)
    }
}

#[test]
fn requests_come_back_in_any_order_across_the_wrap() {
    let mut rig = Rig::new(SHAPE);
    for round in 0..40_000u32 {
        let position = (round * 2) as u16;
        rig.offer(2);
        assert!(rig.take().unwrap().is_none());
        let (first, second) = (rig.memory.load(avail_slot(&rig, position), Ordering::Relaxed), position + 1);
        let second: u16 = rig.memory.load(avail_slot(&rig, second), Ordering::Relaxed);
        let first: u16 = first;
        rig.use_at(position, second.into(), 64);
        assert_eq!(rig.take().unwrap(), Some(Used { id: second, length: 64 }));
        rig.use_at(position + 1, first.into(), 0);
        assert_eq!(rig.take().unwrap(), Some(Used { id: first, length: 0 }));
        assert_eq!(rig.queue.outstanding(), 0);
    }
}

fn avail_slot(rig: &Rig, position: u16) -> usize {
    rig.queue.layout.avail + AVAIL_RING + 2 * usize::from(position % rig.queue.shape.size)
}

#[test]
fn kicks_are_left_out_when_not_wanted() {
    let mut rig = Rig::new(SHAPE);
    assert!(!rig.queue.publish(&rig.memory), "nothing new");
    rig.queue.offer(&rig.memory, b"");
    assert!(rig.queue.publish(&rig.memory));
    rig.memory.store(USED_NO_NOTIFY.to_le(), rig.queue.layout.used, Ordering::Release);
    rig.queue.offer(&rig.memory, b"");
    assert!(!rig.queue.publish(&rig.memory));
}

#[test]
fn lies_are_named() {
    let mut rig = Rig::new(SHAPE);
    rig.offer(2);
    rig.memory.store(3u16.to_le(), rig.queue.layout.used + 2, Ordering::Release);
    let text = rig.take().unwrap_err().to_string();
    assert_eq!(
        text,
        "rig: queue 0: used index 3 from the back-end, but only 2 requests after 0 are outstanding"
    );

    let mut rig = Rig::new(SHAPE);
    rig.offer(1);
    for id in [3, 4, 0xffff_ffff] {
        rig.use_at(0, id, 0);
        assert!(matches!(rig.take(), Err(WindowError::UsedId { id: named, .. }) if named == id));
    }
    rig.use_at(0, 0, 65);
    assert!(matches!(rig.take(), Err(WindowError::UsedLength { length: 65, buffer: 64, .. })));
    rig.use_at(0, 0, 64);
    assert!(rig.take().unwrap().is_some());

    let mut rig = Rig::new(QueueShape { direction: Direction::ToDevice, ..SHAPE });
    rig.offer(1);
    rig.use_at(0, 0, 1);
    assert!(matches!(rig.take(), Err(WindowError::UsedLength { length: 1, buffer: 0, .. })));
}
