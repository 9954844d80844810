//! Whether the host can run a model: its CPU must have what the thunks execute natively.

use super::feature::Feature;
use super::{Model, ModelError};

/// Features whose instructions run on the host CPU, and whether this host has them.
fn host_features() -> [(Feature, bool); 16] {
    [
        (Feature::Sse3, std::is_x86_feature_detected!("sse3")),
        (Feature::Ssse3, std::is_x86_feature_detected!("ssse3")),
        (Feature::Sse41, std::is_x86_feature_detected!("sse4.1")),
        (Feature::Sse42, std::is_x86_feature_detected!("sse4.2")),
        (Feature::Popcnt, std::is_x86_feature_detected!("popcnt")),
        (Feature::Pclmulqdq, std::is_x86_feature_detected!("pclmulqdq")),
        (Feature::Aes, std::is_x86_feature_detected!("aes")),
        (Feature::ShaNi, std::is_x86_feature_detected!("sha")),
        (Feature::Avx, std::is_x86_feature_detected!("avx")),
        (Feature::Avx2, std::is_x86_feature_detected!("avx2")),
        (Feature::Fma, std::is_x86_feature_detected!("fma")),
        (Feature::F16c, std::is_x86_feature_detected!("f16c")),
        (Feature::Bmi1, std::is_x86_feature_detected!("bmi1")),
        (Feature::Bmi2, std::is_x86_feature_detected!("bmi2")),
        (Feature::Adx, std::is_x86_feature_detected!("adx")),
        (Feature::Abm, std::is_x86_feature_detected!("lzcnt")),
    ]
}

impl Model {
    /// Refuses a model that this host's CPU cannot run, naming the features it lacks.
    pub fn check_host(&self) -> Result<(), ModelError> {
        self.check_against(&host_features())
    }

    fn check_against(&self, host: &[(Feature, bool)]) -> Result<(), ModelError> {
        let missing: Vec<&str> = host
            .iter()
            .filter(|(feature, there)| !there && self.has(*feature))
            .map(|(f, _)| f.name())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ModelError::Host { model: self.name(), features: missing.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_named() {
        let host = [(Feature::Avx2, false), (Feature::Fma, false), (Feature::Aes, true)];
        let refused = Model::named("x86-64-v3").expect("a model").check_against(&host).expect_err("refused");
        assert_eq!(refused.to_string(), "CPU model 'x86-64-v3' needs what the host CPU lacks: avx2, fma");
        assert!(Model::named("Nehalem").expect("a model").check_against(&host).is_ok());
    }
}
