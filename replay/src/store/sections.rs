//! Byte strings one after the other, each with its length in front.

/// Bytes of a length.
const LENGTH: usize = 8;

/// Joins byte strings.
pub fn join(sections: &[Vec<u8>]) -> Vec<u8> {
    let size = sections.iter().map(|section| LENGTH + section.len()).sum();
    let mut bytes = Vec::with_capacity(size);
    for section in sections {
        bytes.extend((section.len() as u64).to_le_bytes());
        bytes.extend(section);
    }
    bytes
}

/// Takes them apart; none: the lengths do not fit.
pub fn split(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut sections = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (section, rest) = rest.split_at_checked(length)?;
        sections.push(section.to_vec());
        bytes = rest;
    }
    Some(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_joined_comes_apart_and_what_was_cut_does_not() {
        let sections = vec![b"one".to_vec(), vec![], b"three".to_vec()];
        let bytes = join(&sections);
        assert_eq!(split(&bytes), Some(sections));
        assert_eq!(split(&[]), Some(vec![]));
        for end in 1..bytes.len() {
            let is_between = [11, 19].contains(&end);
            assert_eq!(split(&bytes[..end]).is_some(), is_between, "{end}");
        }
        assert_eq!(split(&[0xff; 16]), None);
    }
}
