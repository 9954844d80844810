//! libslirp, loaded at run time: its C interface and a safe type around it. All `unsafe` of user networking is here.
//!
//! The layouts are those of libslirp.h, configuration version 4 (libslirp 4.7); older libraries read a prefix of them. Callbacks
//! only write down what happened; nothing is done inside them that could call the library again.

use super::frame::{DATA_VALID, FRAME_MAX, Frame};
use super::spec_user::{HostForward, Protocol, UserSpec};
use libloading::{Library, Symbol};
use nix::errno::Errno;
use nix::libc::{in_addr, in6_addr, sockaddr_in, sockaddr_in6, ssize_t};
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

/// The library, by the name that its interface version 0 has.
const LIBRARY: &str = "libslirp.so.0";
/// The library behind libslirp that prints its messages.
const LOG_LIBRARY: &str = "libglib-2.0.so.0";
/// Frames that wait for the driver's receive buffers. When there are more the newest is dropped; TCP sends it again.
const WAITING_MAX: usize = 1024;
/// Messages of the library that are shown; a guest can cause any number of them.
const MESSAGES_MAX: u32 = 16;
/// Timers the library may have at a time; version 4.7 has one.
const TIMERS_MAX: usize = 16;
/// GLib's G_LOG_LEVEL_ERROR, the one level that stays fatal.
const LOG_LEVEL_ERROR: c_int = 1 << 2;

/// libslirp's event: there is something to read.
pub const POLL_IN: c_int = 1;
/// libslirp's event: something can be written.
pub const POLL_OUT: c_int = 2;
/// libslirp's event: urgent data.
pub const POLL_PRI: c_int = 4;
/// libslirp's event: an error.
pub const POLL_ERR: c_int = 8;
/// libslirp's event: the peer hung up.
pub const POLL_HUP: c_int = 16;

type TimerCallback = extern "C" fn(*mut c_void);
type AddPoll = extern "C" fn(RawFd, c_int, *mut c_void) -> c_int;
type GetEvents = extern "C" fn(c_int, *mut c_void) -> c_int;

#[repr(C)]
struct Config {
    version: u32,
    restricted: c_int,
    in_enabled: bool,
    network: in_addr,
    netmask: in_addr,
    host: in_addr,
    in6_enabled: bool,
    prefix6: in6_addr,
    prefix6_length: u8,
    host6: in6_addr,
    hostname: *const c_char,
    tftp_server_name: *const c_char,
    tftp_path: *const c_char,
    bootfile: *const c_char,
    dhcp_start: in_addr,
    nameserver: in_addr,
    nameserver6: in6_addr,
    dns_search: *const *const c_char,
    domainname: *const c_char,
    mtu: usize,
    mru: usize,
    disable_host_loopback: bool,
    enable_emu: bool,
    outbound: *const sockaddr_in,
    outbound6: *const sockaddr_in6,
    disable_dns: bool,
    disable_dhcp: bool,
}

#[repr(C)]
struct Callbacks {
    send_packet: extern "C" fn(*const c_void, usize, *mut c_void) -> ssize_t,
    guest_error: extern "C" fn(*const c_char, *mut c_void),
    clock_get_ns: extern "C" fn(*mut c_void) -> i64,
    timer_new: extern "C" fn(TimerCallback, *mut c_void, *mut c_void) -> *mut c_void,
    timer_free: extern "C" fn(*mut c_void, *mut c_void),
    timer_mod: extern "C" fn(*mut c_void, i64, *mut c_void),
    register_poll_fd: extern "C" fn(RawFd, *mut c_void),
    unregister_poll_fd: extern "C" fn(RawFd, *mut c_void),
    notify: extern "C" fn(*mut c_void),
    init_completed: extern "C" fn(*mut c_void, *mut c_void),
    timer_new_opaque: extern "C" fn(c_int, *mut c_void, *mut c_void) -> *mut c_void,
}

static CALLBACKS: Callbacks = Callbacks {
    send_packet,
    guest_error,
    clock_get_ns,
    timer_new,
    timer_free,
    timer_mod,
    register_poll_fd: forget_fd,
    unregister_poll_fd: forget_fd,
    notify,
    init_completed,
    timer_new_opaque,
};

/// The functions of the library that are used.
struct Functions {
    cleanup: extern "C" fn(*mut c_void),
    input: extern "C" fn(*mut c_void, *const u8, c_int),
    pollfds_fill: extern "C" fn(*mut c_void, *mut u32, AddPoll, *mut c_void),
    pollfds_poll: extern "C" fn(*mut c_void, c_int, GetEvents, *mut c_void),
    add_hostfwd: extern "C" fn(*mut c_void, c_int, in_addr, c_int, in_addr, c_int) -> c_int,
    /// Since configuration version 4.
    handle_timer: Option<extern "C" fn(*mut c_void, c_int, *mut c_void)>,
}

/// What a timer calls.
#[derive(Clone, Copy)]
enum TimerKind {
    Numbered(c_int),
    Callback(TimerCallback),
}

#[derive(Clone, Copy)]
struct Timer {
    kind: TimerKind,
    argument: *mut c_void,
    /// In milliseconds of the library's clock.
    expires_ms: Option<i64>,
}

/// What the callbacks write to.
struct State {
    started: Instant,
    waiting: VecDeque<Frame>,
    dropped: u64,
    timers: Vec<Option<Timer>>,
    /// Descriptors that were opened or closed since `take_forgotten`.
    forgotten: Vec<RawFd>,
    /// What the library wants to wait for, by its index.
    wanted: Vec<(RawFd, c_int)>,
    /// What happened, by the same index.
    happened: Vec<c_int>,
}

/// One instance of the user network.
pub struct Slirp {
    functions: Functions,
    instance: *mut c_void,
    /// From `Box::into_raw`. Callbacks run inside calls of the library only, and no reference made here lives across one.
    state: *mut State,
    /// Unloaded last.
    _library: Library,
}

// SAFETY: the instance and the state behind the pointers belong to this value alone, and libslirp keeps nothing by thread.
unsafe impl Send for Slirp {}

impl Slirp {
    /// Loads the library and makes a network.
    ///
    /// # Errors
    /// The library is not there or refuses the configuration.
    pub fn new(spec: &UserSpec) -> Result<Slirp, String> {
        // SAFETY: the constructors of libslirp and GLib only set up GLib.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|error| {
            let hint = "install the package 'libslirp0' (Debian) or libslirp";
            format!("user networking needs {LIBRARY}, which cannot be loaded: {hint} ({error})")
        })?;
        keep_messages_harmless();
        // SAFETY: the types are those of libslirp.h.
        let (functions, new) = unsafe {
            type New = extern "C" fn(*const Config, *const Callbacks, *mut c_void) -> *mut c_void;
            let functions = Functions {
                cleanup: symbol(&library, b"slirp_cleanup\0")?,
                input: symbol(&library, b"slirp_input\0")?,
                pollfds_fill: symbol(&library, b"slirp_pollfds_fill\0")?,
                pollfds_poll: symbol(&library, b"slirp_pollfds_poll\0")?,
                add_hostfwd: symbol(&library, b"slirp_add_hostfwd\0")?,
                handle_timer: symbol(&library, b"slirp_handle_timer\0").ok(),
            };
            (functions, symbol::<New>(&library, b"slirp_new\0")?)
        };
        let state = Box::into_raw(Box::new(State {
            started: Instant::now(),
            waiting: VecDeque::new(),
            dropped: 0,
            timers: Vec::new(),
            forgotten: Vec::new(),
            wanted: Vec::new(),
            happened: Vec::new(),
        }));
        let version = if functions.handle_timer.is_some() { 4 } else { 1 };
        let instance = with_config(spec, version, |config| new(config, &CALLBACKS, state.cast()))?;
        let slirp = Slirp { functions, instance, state, _library: library };
        if instance.is_null() {
            return Err(format!("{LIBRARY} refuses the network's addresses"));
        }
        Ok(slirp)
    }

    /// Listens on a port of the host for a port of the guest.
    ///
    /// # Errors
    /// The host's reason.
    pub fn add_hostfwd(&mut self, forward: &HostForward) -> Result<(), Errno> {
        let is_udp = c_int::from(forward.protocol == Protocol::Udp);
        let result = (self.functions.add_hostfwd)(
            self.instance,
            is_udp,
            address(forward.host),
            c_int::from(forward.host_port),
            address(forward.guest),
            c_int::from(forward.guest_port),
        );
        if result < 0 { Err(Errno::last()) } else { Ok(()) }
    }

    /// Gives the network an Ethernet frame of the guest.
    pub fn input(&mut self, ethernet: &[u8]) {
        if let Ok(length @ 1..) = c_int::try_from(ethernet.len().min(FRAME_MAX)) {
            (self.functions.input)(self.instance, ethernet.as_ptr(), length);
        }
    }

    /// What to wait for, and for how many milliseconds at most.
    pub fn wanted(&mut self) -> (&[(RawFd, c_int)], Option<u32>) {
        let mut timeout_ms = u32::MAX;
        self.state().wanted.clear();
        (self.functions.pollfds_fill)(self.instance, &mut timeout_ms, add_poll, self.state.cast());
        let state = self.state();
        let now_ms = now_ns(state) / 1_000_000;
        for expires_ms in state.timers.iter().flatten().filter_map(|timer| timer.expires_ms) {
            let left = u32::try_from(expires_ms.saturating_sub(now_ms).max(0)).unwrap_or(u32::MAX - 1);
            timeout_ms = timeout_ms.min(left);
        }
        (&state.wanted, (timeout_ms != u32::MAX).then_some(timeout_ms))
    }

    /// Tells the network what happened on the descriptors of the last `wanted`, and that time has passed.
    pub fn poll(&mut self, happened: impl Fn(RawFd) -> c_int) {
        let state = self.state();
        state.happened.clear();
        state.happened.extend(state.wanted.iter().map(|&(fd, _)| happened(fd)));
        (self.functions.pollfds_poll)(self.instance, 0, get_events, self.state.cast());
        self.fire_timers();
    }

    fn fire_timers(&mut self) {
        let now_ms = now_ns(self.state()) / 1_000_000;
        for index in 0..self.state().timers.len() {
            let Some(timer) = self.state().timers[index].as_mut() else { continue };
            if timer.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms) {
                continue;
            }
            timer.expires_ms = None;
            let Timer { kind, argument, .. } = *timer;
            match (kind, self.functions.handle_timer) {
                (TimerKind::Numbered(number), Some(handle)) => handle(self.instance, number, argument),
                (TimerKind::Numbered(_), None) => {}
                (TimerKind::Callback(callback), _) => callback(argument),
            }
        }
    }

    /// The next frame for the guest.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.state().waiting.pop_front()
    }

    /// Frames that were dropped because the guest took none.
    pub fn dropped(&self) -> u64 {
        // SAFETY: the pointer is valid until drop, and no call of the library is under way.
        unsafe { (*self.state).dropped }
    }

    /// Descriptors whose numbers were opened or closed since the last call.
    pub fn take_forgotten(&mut self) -> Vec<RawFd> {
        std::mem::take(&mut self.state().forgotten)
    }

    fn state(&mut self) -> &mut State {
        // SAFETY: the pointer is valid until drop; the borrow of `self` keeps it alone, and the library is not called during it.
        unsafe { &mut *self.state }
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        if !self.instance.is_null() {
            (self.functions.cleanup)(self.instance);
        }
        // SAFETY: from `Box::into_raw`; the library, the only other user, has let go of it.
        drop(unsafe { Box::from_raw(self.state) });
    }
}

/// Looks a function up.
///
/// # Safety
/// `T` is the function's type.
unsafe fn symbol<T: Copy>(library: &Library, name: &[u8]) -> Result<T, String> {
    // SAFETY: the caller vouches for the type; the library stays loaded as long as `Slirp` holds the function.
    let found: Result<Symbol<'_, T>, _> = unsafe { library.get(name) };
    found.map(|symbol| *symbol).map_err(|error| format!("{LIBRARY} is too old or damaged: {error}"))
}

/// GLib prints for ever and ends the process if the environment asks it to (G_DEBUG). Neither may be in the guest's hands.
fn keep_messages_harmless() {
    type Log = extern "C" fn(*const c_char, c_int, *const c_char, *mut c_void);
    // SAFETY: libslirp has loaded GLib already, so no constructors run.
    let Ok(library) = (unsafe { Library::new(LOG_LIBRARY) }) else { return };
    // SAFETY: the types are those of glib/gmessages.h, and `log` can be called at any time from any thread.
    unsafe {
        type SetHandler = extern "C" fn(Log, *mut c_void) -> *const c_void;
        if let Ok(set_handler) = symbol::<SetHandler>(&library, b"g_log_set_default_handler\0") {
            set_handler(log, null_mut());
        }
        if let Ok(set_fatal) = symbol::<extern "C" fn(c_int) -> c_int>(&library, b"g_log_set_always_fatal\0")
        {
            set_fatal(LOG_LEVEL_ERROR);
        }
    }
    // It stays loaded by libslirp; were it unloaded with it, nobody could call `log` any more.
}

extern "C" fn log(_domain: *const c_char, _level: c_int, message: *const c_char, _data: *mut c_void) {
    show_message(message);
}

fn show_message(message: *const c_char) {
    static SHOWN: AtomicU32 = AtomicU32::new(0);
    if message.is_null() {
        return;
    }
    // Stops counting long before it could wrap.
    let count = SHOWN.load(Ordering::Relaxed);
    if count > MESSAGES_MAX {
        return;
    }
    SHOWN.store(count + 1, Ordering::Relaxed);
    if count == MESSAGES_MAX {
        eprintln!("reprise device net: libslirp: more messages are not shown");
        return;
    }
    // SAFETY: not null, and the library passes a C string that outlives the call.
    let text = unsafe { CStr::from_ptr(message) };
    eprintln!("reprise device net: libslirp: {}", text.to_string_lossy().trim_end());
}

fn address(address: Ipv4Addr) -> in_addr {
    in_addr { s_addr: u32::from_ne_bytes(address.octets()) }
}

fn address6(address: Ipv6Addr) -> in6_addr {
    in6_addr { s6_addr: address.octets() }
}

/// Calls `use_it` with the configuration of `spec`, whose strings live that long; libslirp copies them.
fn with_config<T>(spec: &UserSpec, version: u32, use_it: impl FnOnce(&Config) -> T) -> Result<T, String> {
    let c_string = |text: &str| CString::new(text).map_err(|_| "a name contains a zero byte".to_string());
    let optional = |text: &Option<String>| text.as_deref().map(c_string).transpose();
    let pointer = |text: &Option<CString>| text.as_ref().map_or(null(), |text| text.as_ptr());
    let (hostname, domainname) = (optional(&spec.hostname)?, optional(&spec.domainname)?);
    let (tftp, bootfile) = (optional(&spec.tftp)?, optional(&spec.bootfile)?);
    let tftp_server_name = optional(&spec.tftp_server_name)?;
    let search: Vec<CString> = spec.dns_search.iter().map(|name| c_string(name)).collect::<Result<_, _>>()?;
    let mut search_pointers: Vec<*const c_char> = search.iter().map(|name| name.as_ptr()).collect();
    search_pointers.push(null());
    Ok(use_it(&Config {
        version,
        restricted: c_int::from(spec.restrict),
        in_enabled: spec.ipv4,
        network: address(spec.network),
        netmask: address(spec.netmask),
        host: address(spec.host),
        in6_enabled: spec.ipv6,
        prefix6: address6(spec.prefix6),
        prefix6_length: spec.prefix6_length,
        host6: address6(spec.host6),
        hostname: pointer(&hostname),
        tftp_server_name: pointer(&tftp_server_name),
        tftp_path: pointer(&tftp),
        bootfile: pointer(&bootfile),
        dhcp_start: address(spec.dhcp_start),
        nameserver: address(spec.dns),
        nameserver6: address6(spec.dns6),
        dns_search: if search.is_empty() { null() } else { search_pointers.as_ptr() },
        domainname: pointer(&domainname),
        // Zero: the library's defaults, 1500.
        mtu: 0,
        mru: 0,
        disable_host_loopback: false,
        enable_emu: false,
        outbound: null(),
        outbound6: null(),
        disable_dns: false,
        disable_dhcp: false,
    }))
}

fn now_ns(state: &State) -> i64 {
    i64::try_from(state.started.elapsed().as_nanos()).unwrap_or(i64::MAX)
}

/// The state behind a callback's last argument.
///
/// # Safety
/// `opaque` is the pointer that was given to the library, and no other reference to the state is alive.
unsafe fn state_of<'a>(opaque: *mut c_void) -> &'a mut State {
    // SAFETY: see above; `Slirp` makes no reference that lives across a call of the library.
    unsafe { &mut *opaque.cast::<State>() }
}

extern "C" fn send_packet(bytes: *const c_void, length: usize, opaque: *mut c_void) -> ssize_t {
    // SAFETY: called by the library with our pointer.
    let state = unsafe { state_of(opaque) };
    if state.waiting.len() >= WAITING_MAX || length > FRAME_MAX {
        state.dropped += 1;
        return length as ssize_t;
    }
    // SAFETY: the library passes a packet of that many bytes.
    let ethernet = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length) };
    // The library computes every checksum itself, so the driver need not look.
    state.waiting.push_back(Frame::from_ethernet(ethernet, DATA_VALID));
    length as ssize_t
}

extern "C" fn guest_error(message: *const c_char, _opaque: *mut c_void) {
    show_message(message);
}

extern "C" fn clock_get_ns(opaque: *mut c_void) -> i64 {
    // SAFETY: called by the library with our pointer.
    now_ns(unsafe { state_of(opaque) })
}

/// Timers are known to the library by their number plus one; null: there are too many.
fn add_timer(state: &mut State, kind: TimerKind, argument: *mut c_void) -> *mut c_void {
    if state.timers.len() >= TIMERS_MAX {
        return null_mut();
    }
    state.timers.push(Some(Timer { kind, argument, expires_ms: None }));
    std::ptr::without_provenance_mut(state.timers.len())
}

fn timer_at(state: &mut State, timer: *mut c_void) -> Option<&mut Option<Timer>> {
    state.timers.get_mut(timer.addr().checked_sub(1)?)
}

extern "C" fn timer_new(callback: TimerCallback, argument: *mut c_void, opaque: *mut c_void) -> *mut c_void {
    // SAFETY: called by the library with our pointer.
    add_timer(unsafe { state_of(opaque) }, TimerKind::Callback(callback), argument)
}

extern "C" fn timer_new_opaque(id: c_int, argument: *mut c_void, opaque: *mut c_void) -> *mut c_void {
    // SAFETY: called by the library with our pointer.
    add_timer(unsafe { state_of(opaque) }, TimerKind::Numbered(id), argument)
}

extern "C" fn timer_free(timer: *mut c_void, opaque: *mut c_void) {
    // SAFETY: called by the library with our pointer.
    if let Some(timer) = timer_at(unsafe { state_of(opaque) }, timer) {
        *timer = None;
    }
}

extern "C" fn timer_mod(timer: *mut c_void, expires_ms: i64, opaque: *mut c_void) {
    // SAFETY: called by the library with our pointer.
    if let Some(Some(timer)) = timer_at(unsafe { state_of(opaque) }, timer) {
        timer.expires_ms = Some(expires_ms);
    }
}

extern "C" fn forget_fd(fd: RawFd, opaque: *mut c_void) {
    // SAFETY: called by the library with our pointer.
    unsafe { state_of(opaque) }.forgotten.push(fd);
}

/// Nothing waits for buffers of the library: there is no guestfwd.
extern "C" fn notify(_opaque: *mut c_void) {}

extern "C" fn init_completed(_slirp: *mut c_void, _opaque: *mut c_void) {}

extern "C" fn add_poll(fd: RawFd, events: c_int, opaque: *mut c_void) -> c_int {
    // SAFETY: called by the library with our pointer.
    let state = unsafe { state_of(opaque) };
    state.wanted.push((fd, events));
    state.wanted.len() as c_int - 1
}

extern "C" fn get_events(index: c_int, opaque: *mut c_void) -> c_int {
    // SAFETY: called by the library with our pointer.
    let state = unsafe { state_of(opaque) };
    usize::try_from(index).ok().and_then(|index| state.happened.get(index)).copied().unwrap_or(0)
}
