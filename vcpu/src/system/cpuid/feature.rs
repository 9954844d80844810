//! CPU features: one row each with QEMU's name, its CPUID bit and what it rests on.

/// The CPUID registers that hold feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Leaf 1.
    L1Ecx,
    /// Leaf 1, EDX.
    L1Edx,
    /// Leaf 6.
    L6Eax,
    /// Leaf 7, subleaf 0.
    L7Ebx,
    /// Leaf 7, subleaf 0, ECX.
    L7Ecx,
    /// Leaf 7, subleaf 0, EDX.
    L7Edx,
    /// Leaf 7, subleaf 2.
    L72Edx,
    /// Leaf DH, subleaf 1.
    LDEax,
    /// Leaf 80000001H.
    X1Ecx,
    /// Leaf 80000001H, EDX.
    X1Edx,
    /// Leaf 80000007H.
    X7Edx,
}

/// A row of the feature table.
pub struct FeatureRow {
    /// The feature.
    pub feature: Feature,
    /// QEMU's name; underscores count as dashes.
    pub name: &'static str,
    /// The register with its bit.
    pub word: Word,
    /// Number of the bit, 0…31.
    pub bit: u32,
    /// Features without which this one cannot be offered.
    pub needs: &'static [Feature],
}

macro_rules! features {
    ($($variant:ident $name:literal $word:ident $bit:literal [$($need:ident)*];)*) => {
        /// A feature that a model may offer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Feature { $($variant),* }

        /// All features, in the order of `Feature`.
        pub static FEATURES: &[FeatureRow] = &[$(FeatureRow {
            feature: Feature::$variant,
            name: $name,
            word: Word::$word,
            bit: $bit,
            needs: &[$(Feature::$need),*],
        }),*];
    };
}

features! {
    Fpu "fpu" L1Edx 0 [];
    Vme "vme" L1Edx 1 [];
    De "de" L1Edx 2 [];
    Pse "pse" L1Edx 3 [];
    Tsc "tsc" L1Edx 4 [];
    Msr "msr" L1Edx 5 [];
    Pae "pae" L1Edx 6 [];
    Mce "mce" L1Edx 7 [];
    Cx8 "cx8" L1Edx 8 [];
    Apic "apic" L1Edx 9 [];
    Sep "sep" L1Edx 11 [];
    Mtrr "mtrr" L1Edx 12 [];
    Pge "pge" L1Edx 13 [];
    Mca "mca" L1Edx 14 [];
    Cmov "cmov" L1Edx 15 [];
    Pat "pat" L1Edx 16 [];
    Pse36 "pse36" L1Edx 17 [];
    Clflush "clflush" L1Edx 19 [];
    Mmx "mmx" L1Edx 23 [Fpu];
    Fxsr "fxsr" L1Edx 24 [Fpu];
    Sse "sse" L1Edx 25 [Fxsr];
    Sse2 "sse2" L1Edx 26 [Sse];
    Ss "ss" L1Edx 27 [];
    Sse3 "pni" L1Ecx 0 [Sse2];
    Pclmulqdq "pclmulqdq" L1Ecx 1 [Sse2];
    Ssse3 "ssse3" L1Ecx 9 [Sse3];
    Fma "fma" L1Ecx 12 [Avx];
    Cx16 "cx16" L1Ecx 13 [Lm];
    Pcid "pcid" L1Ecx 17 [Lm];
    Sse41 "sse4.1" L1Ecx 19 [Ssse3];
    Sse42 "sse4.2" L1Ecx 20 [Sse41];
    X2apic "x2apic" L1Ecx 21 [Apic];
    Movbe "movbe" L1Ecx 22 [];
    Popcnt "popcnt" L1Ecx 23 [];
    TscDeadline "tsc-deadline" L1Ecx 24 [Apic Tsc];
    Aes "aes" L1Ecx 25 [Sse2];
    Xsave "xsave" L1Ecx 26 [Fxsr];
    Avx "avx" L1Ecx 28 [Xsave Sse42];
    F16c "f16c" L1Ecx 29 [Avx];
    Rdrand "rdrand" L1Ecx 30 [];
    Hypervisor "hypervisor" L1Ecx 31 [];
    Arat "arat" L6Eax 2 [Apic];
    Fsgsbase "fsgsbase" L7Ebx 0 [Lm];
    TscAdjust "tsc-adjust" L7Ebx 1 [Tsc];
    Bmi1 "bmi1" L7Ebx 3 [];
    Avx2 "avx2" L7Ebx 5 [Avx];
    Smep "smep" L7Ebx 7 [];
    Bmi2 "bmi2" L7Ebx 8 [];
    Erms "erms" L7Ebx 9 [];
    Invpcid "invpcid" L7Ebx 10 [];
    ZeroFcsFds "zero-fcs-fds" L7Ebx 13 [];
    Rdseed "rdseed" L7Ebx 18 [];
    Adx "adx" L7Ebx 19 [];
    Smap "smap" L7Ebx 20 [];
    ShaNi "sha-ni" L7Ebx 29 [Sse2];
    Umip "umip" L7Ecx 2 [];
    Rdpid "rdpid" L7Ecx 22 [];
    Fsrm "fsrm" L7Edx 4 [];
    SpecCtrl "spec-ctrl" L7Edx 26 [];
    Stibp "stibp" L7Edx 27 [SpecCtrl];
    ArchCapabilities "arch-capabilities" L7Edx 29 [];
    Ssbd "ssbd" L7Edx 31 [SpecCtrl];
    BhiCtrl "bhi-ctrl" L72Edx 4 [SpecCtrl];
    Xsaveopt "xsaveopt" LDEax 0 [Xsave];
    LahfLm "lahf-lm" X1Ecx 0 [];
    Abm "abm" X1Ecx 5 [];
    PrefetchW "3dnowprefetch" X1Ecx 8 [];
    Syscall "syscall" X1Edx 11 [];
    Nx "nx" X1Edx 20 [];
    Pdpe1gb "pdpe1gb" X1Edx 26 [Lm];
    Rdtscp "rdtscp" X1Edx 27 [Tsc];
    Lm "lm" X1Edx 29 [Pae];
    Invtsc "invtsc" X7Edx 8 [Tsc];
}

/// Other names of features that QEMU accepts.
const ALIASES: &[(&str, Feature)] = &[
    ("sse3", Feature::Sse3),
    ("sse4-1", Feature::Sse41),
    ("sse4-2", Feature::Sse42),
    ("i64", Feature::Lm),
    ("xd", Feature::Nx),
    ("lzcnt", Feature::Abm),
    ("clfsh", Feature::Clflush),
    ("tscdeadline", Feature::TscDeadline),
];

/// Features QEMU knows and no model here offers; a name that ends in `*` stands for all that begin so.
const NOT_OFFERED: &[&str] = &[
    "3dnow",
    "3dnowext",
    "acpi",
    "amx*",
    "arch-lbr",
    "avx-vnni*",
    "avx-ifma",
    "avx512*",
    "bus-lock-detect",
    "cldemote",
    "clflushopt",
    "clwb",
    "clzero",
    "cmp-legacy",
    "cmpccxadd",
    "core-capability",
    "cr8legacy",
    "dca",
    "ds",
    "ds-cpl",
    "dtes64",
    "est",
    "fdp-excptn-only",
    "flush-l1d",
    "fma4",
    "fsrc",
    "fsrs",
    "fxsr-opt",
    "fzrm",
    "gfni",
    "hle",
    "ht",
    "ia64",
    "ibpb",
    "ibrs",
    "intel-pt*",
    "kvm*",
    "la57",
    "lam",
    "lkgs",
    "lwp",
    "md-clear",
    "misalignsse",
    "mmxext",
    "monitor",
    "movdir64b",
    "movdiri",
    "mpx",
    "npt",
    "osvw",
    "pbe",
    "pdcm",
    "perfctr-*",
    "pks",
    "pku",
    "pmm*",
    "pn",
    "rtm",
    "serialize",
    "sgx*",
    "skinit",
    "smx",
    "sse4a",
    "svm*",
    "tbm",
    "tm",
    "tm2",
    "tsx-ldtrk",
    "vaes",
    "vmx*",
    "vpclmulqdq",
    "waitpkg",
    "wbnoinvd",
    "wdt",
    "xgetbv1",
    "xop",
    "xsavec",
    "xsaves",
    "xtpr",
];

/// What a feature name means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A feature that models may offer.
    Feature(Feature),
    /// QEMU has it, no model here does.
    NotOffered,
    /// Nobody knows it.
    Unknown,
}

/// Looks up a feature by its name on the command line.
pub fn named(name: &str) -> Named {
    let name = name.to_ascii_lowercase().replace('_', "-");
    if let Some(row) = FEATURES.iter().find(|row| row.name == name) {
        return Named::Feature(row.feature);
    }
    if let Some(&(_, feature)) = ALIASES.iter().find(|(alias, _)| *alias == name) {
        return Named::Feature(feature);
    }
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    };
    if NOT_OFFERED.iter().any(|pattern| matches(pattern)) { Named::NotOffered } else { Named::Unknown }
}

impl Feature {
    /// The row of this feature.
    pub fn row(self) -> &'static FeatureRow {
        &FEATURES[self as usize]
    }

    /// QEMU's name.
    pub fn name(self) -> &'static str {
        self.row().name
    }
}

/// A set of features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeatureSet(u128);

const _: () = assert!(FEATURES.len() <= 128);

impl FeatureSet {
    /// The set of these features.
    pub const fn of(features: &[Feature]) -> FeatureSet {
        let mut bits = 0;
        let mut at = 0;
        while at < features.len() {
            bits |= 1 << features[at] as u32;
            at += 1;
        }
        FeatureSet(bits)
    }

    /// Both sets together.
    pub const fn and(self, other: FeatureSet) -> FeatureSet {
        FeatureSet(self.0 | other.0)
    }

    /// Whether the feature is in the set.
    #[inline]
    pub fn has(self, feature: Feature) -> bool {
        self.0 >> feature as u32 & 1 != 0
    }

    /// Adds a feature.
    pub fn insert(&mut self, feature: Feature) {
        self.0 |= 1 << feature as u32;
    }

    /// Takes a feature out.
    pub fn remove(&mut self, feature: Feature) {
        self.0 &= !(1 << feature as u32);
    }

    /// The features in table order.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        FEATURES.iter().map(|row| row.feature).filter(move |&feature| self.has(feature))
    }

    /// The bits of one CPUID register.
    pub fn word(self, word: Word) -> u32 {
        FEATURES
            .iter()
            .filter(|row| row.word == word && self.has(row.feature))
            .fold(0, |bits, row| bits | 1 << row.bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_distinct_and_ordered() {
        for (index, row) in FEATURES.iter().enumerate() {
            assert_eq!(row.feature as usize, index);
            let same =
                FEATURES.iter().filter(|r| r.name == row.name || (r.word, r.bit) == (row.word, row.bit));
            assert_eq!(same.count(), 1, "{}", row.name);
            assert_eq!(named(row.name), Named::Feature(row.feature));
        }
    }

    #[test]
    fn names_as_qemu_writes_them() {
        assert_eq!(named("sse4_1"), Named::Feature(Feature::Sse41));
        assert_eq!(named("tsc_adjust"), Named::Feature(Feature::TscAdjust));
        assert_eq!(named("avx512f"), Named::NotOffered);
        assert_eq!(named("vmx-ept"), Named::NotOffered);
        assert_eq!(named("frobnicate"), Named::Unknown);
    }
}
