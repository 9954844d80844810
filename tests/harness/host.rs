//! Runs one instruction on the host CPU, with every user-visible register chosen and read back.
//!
//! There is no assembly to load and store state: the kernel does it. A signal frame holds all registers; a handler
//! that returns from a changed frame enters the instruction with that state, and the trap or fault that ends it
//! delivers a frame with the state after it, the exception's vector, error code and CR2 included.

use crate::arena::{self, CODE, Image, PAGE, RIGHTS, Rights};
use crate::state::{CodeSize, Outcome, Raised, State};
use nix::libc;
use std::cell::UnsafeCell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard};

/// Signals that end an instruction.
const SIGNALS: [libc::c_int; 5] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];
const SIGNAL_STACK_BYTES: usize = 1 << 18;
/// FXSAVE region, XSAVE header and AVX component: what a case changes of the frame's vector state.
const XSTATE_BYTES: usize = 1024;
const XSTATE_BV: usize = 512;
/// x87, SSE and AVX in XSTATE_BV.
const COMPONENTS: u64 = 7;
const TRAP_INT3: i64 = 3;
const PAGE_FAULT: u8 = 14;
/// RFLAGS.RF: set in the frame of every fault.
const RESUME_FLAG: u64 = 1 << 16;

/// Frame register numbers in SDM order.
const GREGS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No case: a signal is a bug of the test program.
    Idle,
    /// The next SIGTRAP enters the instruction.
    Enter,
    /// The instruction runs.
    Running,
}

struct Shared {
    phase: Phase,
    size: CodeSize,
    before: State,
    after: State,
    trap: [i64; 3],
    saved_gregs: [i64; 23],
    saved_xstate: [u8; XSTATE_BYTES],
    own_fs: u64,
    own_gs: u64,
    avx_offset: usize,
}

struct Cell(UnsafeCell<Option<Shared>>);
// SAFETY: only the thread that holds `LOCK`, and its signal handler while it waits in `int3`, touch the contents.
unsafe impl Sync for Cell {}

static SHARED: Cell = Cell(UnsafeCell::new(None));
static LOCK: Mutex<()> = Mutex::new(());

/// The host CPU as an executor. One at a time in a process.
pub struct Host {
    backdoor: *mut u8,
    old_actions: Vec<libc::sigaction>,
    signal_stack: Vec<u8>,
    _lock: MutexGuard<'static, ()>,
}

impl Default for Host {
    fn default() -> Host {
        Host::new()
    }
}

impl Host {
    /// Maps arena and code page and takes over the signals of this thread.
    pub fn new() -> Host {
        let lock = LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let backdoor = map_all();
        let mut host =
            Host { backdoor, old_actions: vec![], signal_stack: vec![0; SIGNAL_STACK_BYTES], _lock: lock };
        host.take_signals();
        let (own_fs, own_gs) = bases();
        let shared = Shared {
            phase: Phase::Idle,
            size: CodeSize::Bits64,
            before: State::default(),
            after: State::default(),
            trap: [0; 3],
            saved_gregs: [0; 23],
            saved_xstate: [0; XSTATE_BYTES],
            own_fs,
            own_gs,
            avx_offset: std::arch::x86_64::__cpuid_count(0xd, 2).ebx as usize,
        };
        // SAFETY: the lock is held and no case runs.
        unsafe { *SHARED.0.get() = Some(shared) };
        host
    }

    fn take_signals(&mut self) {
        // SAFETY: plain system calls; the stack outlives its use (`drop` removes it), the handler keeps to
        // async-signal-safe work, and the old actions are restored in `drop`.
        unsafe {
            let stack = libc::stack_t {
                ss_sp: self.signal_stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: SIGNAL_STACK_BYTES,
            };
            assert_eq!(libc::sigaltstack(&stack, std::ptr::null_mut()), 0, "sigaltstack");
            for signal in SIGNALS {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut old: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigfillset(&mut action.sa_mask);
                assert_eq!(libc::sigaction(signal, &action, &mut old), 0, "sigaction");
                self.old_actions.push(old);
            }
            // Compatibility-mode code needs DS and ES, which 64-bit programs leave null.
            std::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", in(reg) 0x2b);
        }
    }

    /// Executes `code` once at `before.rip` in the code page; `memory` is the arena before and after.
    pub fn run(&mut self, code: &[u8], size: CodeSize, before: &State, memory: &mut Image) -> Outcome {
        let start = before.rip.wrapping_sub(CODE) as usize;
        assert!(start + code.len() < PAGE as usize, "the instruction lies in the code page");
        // SAFETY: `backdoor` maps BYTES writable bytes, CODE one writable page; the code fits as asserted. The
        // handler restores all registers before `int3` returns. What the instruction itself may write is the arena
        // (the caller excludes instructions with effects on the process).
        unsafe {
            std::ptr::copy_nonoverlapping(memory.as_ptr(), self.backdoor, memory.len());
            std::ptr::write_bytes(CODE as *mut u8, 0xcc, PAGE as usize);
            std::ptr::copy_nonoverlapping(code.as_ptr(), (CODE as *mut u8).add(start), code.len());
            let shared = (*SHARED.0.get()).as_mut().expect("set by `new`");
            shared.before.clone_from(before);
            shared.size = size;
            shared.phase = Phase::Enter;
            // NT and ID stay from a case that set them: signal frames do not carry them.
            std::arch::asm!("push 0x202", "popfq", "int3", clobber_abi("C"));
            let shared = (*SHARED.0.get()).as_mut().expect("set by `new`");
            std::ptr::copy_nonoverlapping(self.backdoor, memory.as_mut_ptr(), memory.len());
            outcome(shared)
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: restores what `new` changed; the mappings are no longer referred to.
        unsafe {
            for (signal, old) in SIGNALS.iter().zip(&self.old_actions) {
                libc::sigaction(*signal, old, std::ptr::null_mut());
            }
            let off = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
            libc::sigaltstack(&off, std::ptr::null_mut());
            for base in [arena::LOW, arena::HIGH, self.backdoor as u64] {
                libc::munmap(base as *mut _, arena::BYTES);
            }
            libc::munmap(CODE as *mut _, 2 * PAGE as usize);
        }
    }
}

fn outcome(shared: &Shared) -> Outcome {
    let mut state = shared.after.clone();
    state.rflags &= !RESUME_FLAG;
    let [trap, code, address] = shared.trap;
    if trap == TRAP_INT3 {
        state.rip -= 1;
        return Outcome { state, raised: None };
    }
    let vector = trap as u8;
    let address = if vector == PAGE_FAULT { address as u64 } else { 0 };
    Outcome { state, raised: Some(Raised { vector, code: code as u32, address }) }
}

/// Maps the arena at both addresses and, readable and writable, at a third that is returned; and the code page.
fn map_all() -> *mut u8 {
    // SAFETY: memfd_create and mmap with fixed addresses that must be free (NOREPLACE), so nothing is overwritten.
    unsafe {
        let fd = libc::memfd_create(c"arena".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create");
        let fd = OwnedFd::from_raw_fd(fd);
        assert_eq!(libc::ftruncate(fd.as_raw_fd(), arena::BYTES as i64), 0, "ftruncate");
        let write = libc::PROT_READ | libc::PROT_WRITE;
        let map = |at: u64, bytes: usize, protection, flags, fd| {
            let fixed = if at == 0 { 0 } else { libc::MAP_FIXED_NOREPLACE };
            let place =
                libc::mmap(at as *mut _, bytes, protection, flags | fixed | libc::MAP_POPULATE, fd, 0);
            assert!(at == 0 && place != libc::MAP_FAILED || place as u64 == at, "mmap at {at:#x}");
            place.cast::<u8>()
        };
        for base in [arena::LOW, arena::HIGH] {
            map(base, arena::BYTES, write, libc::MAP_SHARED, fd.as_raw_fd());
            for (page, rights) in RIGHTS.iter().enumerate() {
                let protection = match rights {
                    Rights::Absent => libc::PROT_NONE,
                    Rights::Read => libc::PROT_READ,
                    Rights::Write => write,
                };
                let at = base + page as u64 * PAGE;
                assert_eq!(libc::mprotect(at as *mut _, PAGE as usize, protection), 0, "mprotect");
            }
        }
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        map(CODE, 2 * PAGE as usize, write | libc::PROT_EXEC, anonymous, -1);
        assert_eq!(libc::mprotect((CODE + PAGE) as *mut _, PAGE as usize, libc::PROT_NONE), 0, "mprotect");
        map(0, arena::BYTES, write, libc::MAP_SHARED, fd.as_raw_fd())
    }
}

fn bases() -> (u64, u64) {
    let (fs, gs): (u64, u64);
    // SAFETY: reads two registers; the kernel enables FSGSBASE on every CPU that has it, and the offered models
    // need CPUs that do.
    unsafe { std::arch::asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs, options(nomem)) };
    (fs, gs)
}

/// Sets FS and GS base; nothing may use thread-local storage while FS base is not the thread's own.
unsafe fn set_bases(fs: u64, gs: u64) {
    // SAFETY: the caller restores them before any use of thread-local storage.
    unsafe { std::arch::asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs, options(nomem)) };
}

/// Enters an instruction, or takes the state after it.
extern "C" fn on_signal(signal: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes a valid frame. In phases Enter and Running this thread owns `SHARED` and waits in
    // `int3`. RFLAGS.AC may be the case's and is cleared before any memory access that could be misaligned; FS base
    // may be the case's and is not used before it is restored.
    unsafe {
        std::arch::asm!("pushfq", "and dword ptr [rsp], 0xfffbffff", "popfq");
        let (fs, gs) = bases();
        let shared = (*SHARED.0.get()).as_mut();
        let frame = &mut (*context).uc_mcontext;
        let xstate = frame.fpregs.cast::<u8>();
        match shared {
            Some(shared) if shared.phase == Phase::Enter => {
                shared.saved_gregs = frame.gregs;
                std::ptr::copy_nonoverlapping(xstate, shared.saved_xstate.as_mut_ptr(), XSTATE_BYTES);
                load(shared, frame, xstate);
                shared.phase = Phase::Running;
                set_bases(shared.before.fs_base, shared.before.gs_base);
            }
            Some(shared) if shared.phase == Phase::Running => {
                set_bases(shared.own_fs, shared.own_gs);
                store(shared, frame, xstate);
                (shared.after.fs_base, shared.after.gs_base) = (fs, gs);
                frame.gregs = shared.saved_gregs;
                std::ptr::copy_nonoverlapping(shared.saved_xstate.as_ptr(), xstate, XSTATE_BYTES);
                shared.phase = Phase::Idle;
            }
            _ => {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    }
}

/// Puts the case's state into the frame.
unsafe fn load(shared: &Shared, frame: &mut libc::mcontext_t, xstate: *mut u8) {
    let before = &shared.before;
    for (value, register) in before.gpr.iter().zip(GREGS) {
        frame.gregs[register as usize] = *value as i64;
    }
    frame.gregs[libc::REG_RIP as usize] = before.rip as i64;
    frame.gregs[libc::REG_EFL as usize] = before.rflags as i64;
    if shared.size == CodeSize::Bits32 {
        let selectors = frame.gregs[libc::REG_CSGSFS as usize];
        frame.gregs[libc::REG_CSGSFS as usize] = selectors & !0xffff | 0x23;
    }
    // SAFETY: the frame's XSAVE image has at least XSTATE_BYTES bytes: AVX is in every model's host.
    let image = unsafe { std::slice::from_raw_parts_mut(xstate, XSTATE_BYTES) };
    image[0..2].copy_from_slice(&before.fcw.to_le_bytes());
    image[2..4].copy_from_slice(&before.fsw.to_le_bytes());
    image[4] = before.tags;
    image[5..24].fill(0);
    image[24..28].copy_from_slice(&before.mxcsr.to_le_bytes());
    for (i, (significand, top)) in before.st.iter().enumerate() {
        image[32 + 16 * i..][..8].copy_from_slice(&significand.to_le_bytes());
        image[40 + 16 * i..][..2].copy_from_slice(&top.to_le_bytes());
    }
    for (i, value) in before.ymm.iter().enumerate() {
        for (word, bits) in value.iter().enumerate() {
            let base = if word < 2 { 160 } else { shared.avx_offset - 16 };
            image[base + 16 * i + 8 * word..][..8].copy_from_slice(&bits.to_le_bytes());
        }
    }
    image[XSTATE_BV] |= COMPONENTS as u8;
}

/// Takes the state after the case out of the frame.
unsafe fn store(shared: &mut Shared, frame: &libc::mcontext_t, xstate: *const u8) {
    let after = &mut shared.after;
    for (value, register) in after.gpr.iter_mut().zip(GREGS) {
        *value = frame.gregs[register as usize] as u64;
    }
    after.rip = frame.gregs[libc::REG_RIP as usize] as u64;
    after.rflags = frame.gregs[libc::REG_EFL as usize] as u64;
    let trap = [libc::REG_TRAPNO, libc::REG_ERR, libc::REG_CR2];
    shared.trap = trap.map(|register| frame.gregs[register as usize]);
    // SAFETY: as in `load`.
    let image = unsafe { std::slice::from_raw_parts(xstate, XSTATE_BYTES) };
    let in_use = |component: u8| image[XSTATE_BV] & component != 0;
    let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
    let quad = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| image[at + i]));
    // A component that is not in use has its initial value, whatever the image holds.
    (after.fcw, after.fsw, after.tags) = if in_use(1) { (word(0), word(2), image[4]) } else { (0x37f, 0, 0) };
    for (i, value) in after.st.iter_mut().enumerate() {
        *value = if in_use(1) { (quad(32 + 16 * i), word(40 + 16 * i)) } else { (0, 0) };
    }
    after.mxcsr = quad(24) as u32;
    for (i, value) in after.ymm.iter_mut().enumerate() {
        for (n, bits) in value.iter_mut().enumerate() {
            let (base, component) = if n < 2 { (160, 2) } else { (shared.avx_offset - 16, 4) };
            *bits = if in_use(component) { quad(base + 16 * i + 8 * n) } else { 0 };
        }
    }
}
