//! The rules themselves.

/// Each crate of this project and which others of it it may depend on.
pub const EDGES: &[(&str, &[&str])] = &[
    ("replay", &[]),
    ("vcpu", &["replay"]),
    ("devices", &["replay"]),
    ("broker", &["replay", "vcpu", "devices"]),
    ("tests", &["replay", "vcpu", "devices", "broker"]),
];

/// Files that are mostly a table and may be long.
pub const TABLES: &[&str] = &[];

/// Files in which `unsafe` may stand.
pub const UNSAFE: &[&str] = &[
    "broker/src/launch/spawn.rs",
    "devices/src/net/slirp.rs",
    "devices/src/net/tun.rs",
    "devices/src/block/ordered.rs",
    "replay/src/inherit.rs",
    "replay/src/lane/memory.rs",
    "vcpu/src/isa/host_alu.rs",
    "vcpu/src/mem/ram.rs",
    "vcpu/src/mem/tlb.rs",
    "vcpu/src/thunk/call.rs",
    "vcpu/src/thunk/code_cache.rs",
    "vcpu/src/window/event_fd.rs",
];

/// A call that must not appear outside tests and the named places.
pub struct Ban {
    pub call: &'static str,
    pub instead: &'static str,
    /// Path prefixes that may.
    pub except: &'static [&'static str],
}

/// Banned calls.
pub const BANS: &[Ban] = &[
    Ban {
        call: "Instant::now",
        instead: "guest time is replay::time::Vtime; host time only for pace and deadlines",
        except: &["vcpu/src/run/pace.rs", "vcpu/src/window/", "broker/src/", "devices/src/"],
    },
    Ban {
        call: "SystemTime",
        instead: "the host's date enters by the manifest or a HostClock event",
        except: &["broker/src/host_clock.rs", "vcpu/src/run/pace.rs"],
    },
    Ban { call: "HashMap", instead: "BTreeMap: its order is the same in every run", except: &[] },
    Ban { call: "HashSet", instead: "BTreeSet: its order is the same in every run", except: &[] },
    Ban { call: "thread_rng", instead: "an Entropy event", except: &[] },
    Ban { call: ".unwrap()", instead: "`?`, or `expect` that says why it cannot fail", except: &[] },
    Ban { call: "todo!(", instead: "finish it", except: &[] },
    Ban { call: "unimplemented!(", instead: "finish it", except: &[] },
];
