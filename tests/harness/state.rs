//! What a user-level instruction can read and change, apart from memory.

use std::fmt::Write;

/// Registers of one CPU. `PartialEq` compares all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// RAX…R15 in SDM order.
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ymm: [[u64; 4]; 16],
    pub mxcsr: u32,
    /// FCW, FSW and abridged tag word.
    pub fcw: u16,
    pub fsw: u16,
    pub tags: u8,
    /// ST(0)…ST(7): significand, then sign and exponent.
    pub st: [(u64, u16); 8],
}

/// An exception as an operating system sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    pub vector: u8,
    pub code: u32,
    /// CR2, for #PF only.
    pub address: u64,
}

/// What an instruction did: registers after it and the exception it raised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub state: State,
    pub raised: Option<Raised>,
}

/// 16-, 32- or 64-bit code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    Bits32,
    Bits64,
}

impl Default for State {
    fn default() -> State {
        State {
            gpr: [0; 16],
            rip: 0,
            rflags: 0x202,
            fs_base: 0,
            gs_base: 0,
            ymm: [[0; 4]; 16],
            mxcsr: 0x1f80,
            fcw: 0x37f,
            fsw: 0,
            tags: 0,
            st: [(0, 0); 8],
        }
    }
}

const GPR_NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

impl State {
    /// Every register as name and printed value.
    pub fn fields(&self) -> Vec<(String, String)> {
        let mut fields = vec![];
        for (name, value) in GPR_NAMES.iter().zip(self.gpr) {
            fields.push((name.to_string(), format!("{value:016x}")));
        }
        fields.push(("rip".into(), format!("{:x}", self.rip)));
        fields.push(("rflags".into(), format!("{:06x} {}", self.rflags, flag_names(self.rflags))));
        fields.push(("fs".into(), format!("{:x}", self.fs_base)));
        fields.push(("gs".into(), format!("{:x}", self.gs_base)));
        for (i, y) in self.ymm.iter().enumerate() {
            fields.push((
                format!("ymm{i}"),
                format!("{:016x}_{:016x}_{:016x}_{:016x}", y[3], y[2], y[1], y[0]),
            ));
        }
        fields.push(("mxcsr".into(), format!("{:04x}", self.mxcsr)));
        fields.push(("fcw".into(), format!("{:04x}", self.fcw)));
        fields.push(("fsw".into(), format!("{:04x}", self.fsw)));
        fields.push(("tags".into(), format!("{:02x}", self.tags)));
        for (i, (significand, top)) in self.st.iter().enumerate() {
            fields.push((format!("st{i}"), format!("{top:04x}_{significand:016x}")));
        }
        fields
    }

    /// Registers that differ between the two, as lines.
    pub fn differences(&self, other: &State, names: (&str, &str)) -> String {
        let mut text = String::new();
        for ((name, mine), (_, theirs)) in self.fields().into_iter().zip(other.fields()) {
            if mine != theirs {
                let _ = writeln!(text, "    {name:6} {} {mine}\n           {} {theirs}", names.0, names.1);
            }
        }
        text
    }
}

fn flag_names(rflags: u64) -> String {
    let names =
        [(0, "C"), (2, "P"), (4, "A"), (6, "Z"), (7, "S"), (8, "T"), (10, "D"), (11, "O"), (18, "[AC]")];
    names.iter().filter(|(bit, _)| rflags >> bit & 1 != 0).map(|(_, name)| *name).collect()
}
