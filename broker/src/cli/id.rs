//! Names that the user gives to things.

/// Longest name.
const ID_BYTES_MAX: usize = 127;

/// Checks a name: a letter, then letters, digits, `-`, `.` and `_`, as QEMU wants them. Such a name is good as a file
/// name, too.
pub fn check(key: &str, name: &str) -> Result<(), String> {
    let mut chars = name.chars();
    let good = chars.next().is_some_and(|first| first.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        && name.len() <= ID_BYTES_MAX;
    if good { Ok(()) } else { Err(format!("Parameter '{key}' expects an identifier, not '{name}'")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "img-blkreplay", "virtio0", "A.b_c-9"] {
            assert_eq!(check("id", name), Ok(()));
        }
        for name in ["", "0", "../x", "a/b", "a b", "é", "a\n", "#block1", &"a".repeat(128)] {
            assert!(check("id", name).is_err(), "{name}");
        }
    }
}
