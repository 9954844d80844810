//! CPUID models: what a CPU shows and allows. Tables (`feature`, `models`), the leaves made from them (`leaves`), and
//! which instructions follow (`gate`).

pub mod feature;
pub mod gate;
pub mod host;
pub mod leaves;
pub mod models;

pub use feature::{Feature, FeatureSet};

use super::mode::xcr0;
use feature::Named;
use replay::machine::CpuChoice;

/// What a CPU model shows in CPUID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    name: &'static str,
    family: u32,
    model: u32,
    stepping: u32,
    brand: &'static str,
    features: FeatureSet,
}

/// Why a CPU cannot be had as asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No model has that name.
    #[error("unknown CPU model '{name}'; there are: {}", known_models())]
    Model {
        /// As it was given.
        name: String,
    },
    /// No feature has that name.
    #[error("unknown CPU feature '{name}'")]
    Feature {
        /// As it was given.
        name: String,
    },
    /// The feature exists, but no model here has it.
    #[error("CPU feature '{name}' is not offered")]
    NotOffered {
        /// As it was given.
        name: String,
    },
    /// A feature was asked for, and one it rests on switched off.
    #[error("CPU feature '{name}' needs '{needs}', which is switched off")]
    Needs {
        /// The feature asked for.
        name: &'static str,
        /// The one it rests on.
        needs: &'static str,
    },
    /// The host CPU lacks what thunks of the model's instructions need.
    #[error("CPU model '{model}' needs what the host CPU lacks: {features}")]
    Host {
        /// The model asked for.
        model: &'static str,
        /// What is missing, separated by commas.
        features: String,
    },
}

fn known_models() -> String {
    models::MODELS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

impl Model {
    /// The model of the command line with its changes, in their order. What rests on a feature that is switched off
    /// goes with it; what a feature that is switched on needs comes with it, unless that was switched off by name.
    pub fn new(choice: &CpuChoice) -> Result<Model, ModelError> {
        let mut model = Model::named(&choice.model)?;
        let mut dropped = Vec::new();
        for (name, on) in &choice.features {
            match feature::named(name) {
                Named::Feature(feature) if *on => {
                    dropped.retain(|&other| other != feature);
                    model.add(feature, &dropped)?;
                }
                Named::Feature(feature) => {
                    dropped.push(feature);
                    model.drop_feature(feature);
                }
                Named::NotOffered if *on => return Err(ModelError::NotOffered { name: name.clone() }),
                Named::NotOffered => {}
                Named::Unknown => return Err(ModelError::Feature { name: name.clone() }),
            }
        }
        Ok(model)
    }

    /// A model as its row says. Names are compared without case.
    pub fn named(name: &str) -> Result<Model, ModelError> {
        let row = models::MODELS.iter().find(|row| row.name.eq_ignore_ascii_case(name));
        let row = row.ok_or_else(|| ModelError::Model { name: name.to_owned() })?;
        Ok(Model {
            name: row.name,
            family: row.family,
            model: row.model,
            stepping: row.stepping,
            brand: row.brand,
            features: row.features,
        })
    }

    fn add(&mut self, feature: Feature, dropped: &[Feature]) -> Result<(), ModelError> {
        for &need in feature.row().needs {
            if dropped.contains(&need) {
                return Err(ModelError::Needs { name: feature.name(), needs: need.name() });
            }
            self.add(need, dropped)?;
        }
        self.features.insert(feature);
        Ok(())
    }

    fn drop_feature(&mut self, feature: Feature) {
        self.features.remove(feature);
        for row in feature::FEATURES {
            if row.needs.contains(&feature) && self.has(row.feature) {
                self.drop_feature(row.feature);
            }
        }
    }

    /// The name of its row.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it offers the feature.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// All that it offers.
    pub fn features(&self) -> FeatureSet {
        self.features
    }

    /// XCR0 bits that may be set.
    pub fn xcr0_bits(&self) -> u64 {
        let mut bits = 0;
        if self.has(Feature::Xsave) {
            bits |= xcr0::X87 | xcr0::SSE;
        }
        if self.has(Feature::Avx) {
            bits |= xcr0::AVX;
        }
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(model: &str, features: &[(&str, bool)]) -> CpuChoice {
        let features = features.iter().map(|&(name, on)| (name.to_owned(), on)).collect();
        CpuChoice { model: model.to_owned(), features }
    }

    #[test]
    fn dropping_avx_drops_what_rests_on_it() {
        let model = Model::new(&choice("x86-64-v3", &[("avx", false)])).expect("a model");
        for gone in [Feature::Avx, Feature::Avx2, Feature::Fma, Feature::F16c] {
            assert!(!model.has(gone), "{}", gone.name());
        }
        assert!(model.has(Feature::Bmi2) && model.has(Feature::Xsaveopt));
        assert_eq!(model.xcr0_bits(), 3);
    }

    #[test]
    fn adding_brings_what_is_needed() {
        let model = Model::new(&choice("qemu64", &[("avx2", true)])).expect("a model");
        assert!(model.has(Feature::Avx) && model.has(Feature::Xsave) && model.has(Feature::Sse42));
        assert_eq!(model.xcr0_bits(), 7);
    }

    #[test]
    fn refusals_name_the_feature() {
        let told = |model, features: &[(&str, bool)]| {
            Model::new(&choice(model, features)).expect_err("refused").to_string()
        };
        assert_eq!(told("qemu64", &[("avx512f", true)]), "CPU feature 'avx512f' is not offered");
        assert_eq!(told("qemu64", &[("nonsense", false)]), "unknown CPU feature 'nonsense'");
        assert_eq!(
            told("x86-64-v3", &[("avx", false), ("avx2", true)]),
            "CPU feature 'avx2' needs 'avx', which is switched off"
        );
        assert!(told("host", &[]).starts_with("unknown CPU model 'host'; there are: x86-64-v3"));
        assert!(Model::new(&choice("haswell", &[("rtm", false)])).is_ok());
    }
}
