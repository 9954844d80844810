//! Reading the source tree: text, code without comments and strings, functions.

use std::path::{Path, PathBuf};

const CRATES: &[&str] = &["replay", "vcpu", "devices", "broker"];

/// One source file.
pub struct Source {
    /// Relative to the top, with slashes.
    pub path: String,
    pub text: String,
    /// The text with comments and strings blanked.
    pub code: String,
    /// `code` up to the first `#[cfg(test)]`; empty for test files.
    pub production: String,
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies below the top").to_owned()
}

fn walk(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") && !path.ends_with(".git") {
                walk(&path, ending, found);
            }
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(top()).expect("found below the top").to_string_lossy().into_owned()
}

/// All source files of the product's crates.
pub fn all_sources() -> Vec<Source> {
    let mut paths = vec![];
    for name in CRATES {
        walk(&top().join(name).join("src"), ".rs", &mut paths);
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let path = relative(path);
    let code = blank(&text);
    let is_test = path.ends_with("tests.rs") || path.contains("/tests/");
    let production = match code.find("#[cfg(test)]") {
        _ if is_test => String::new(),
        Some(at) => code[..at].to_string(),
        None => code.clone(),
    };
    Source { path, text, code, production }
}

/// Markdown documents of the project.
pub fn documents() -> Vec<(String, String)> {
    let mut paths = vec![];
    walk(&top(), ".md", &mut paths);
    paths.sort();
    let text = |path: &PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    paths.iter().map(|path| (relative(path), text(path))).collect()
}

/// Names of the dependencies in a crate's manifest.
pub fn crate_dependencies(name: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(top().join(name).join("Cargo.toml")).expect("a manifest");
    let mut inside = false;
    let mut names = vec![];
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if let (true, Some((name, _))) = (inside, line.split_once(['.', ' ', '='])) {
            names.push(name.to_string());
        }
    }
    names
}

impl Source {
    /// Whether a word stands in the code.
    pub fn has_word(&self, word: &str) -> bool {
        self.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == word)
    }

    /// Functions with their length in lines, from `fn` to the closing brace.
    pub fn functions(&self) -> Vec<(String, usize)> {
        let lines: Vec<&str> = self.code.lines().collect();
        let mut found = vec![];
        for (start, line) in lines.iter().enumerate() {
            let Some(name) = function_name(line) else { continue };
            let indent = line.len() - line.trim_start().len();
            let close = format!("{}}}", " ".repeat(indent));
            let end = lines[start..].iter().position(|line| line.trim_end() == close);
            let one_line = line.trim_end().ends_with('}') || line.trim_end().ends_with(';');
            if let (Some(length), false) = (end, one_line) {
                found.push((name, length + 1));
            }
        }
        found
    }
}

fn function_name(line: &str) -> Option<String> {
    let at = line.find("fn ")?;
    let before = line[..at].trim();
    let words = ["pub", "const", "unsafe", "extern", "async"];
    let qualifies = before
        .split_whitespace()
        .all(|word| words.iter().any(|w| word.starts_with(w)) || word.starts_with('('));
    let name: String = line[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (qualifies && !name.is_empty()).then_some(name)
}

/// The text with comments, strings and character literals replaced by spaces, lines kept.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match literal_end(bytes, at) {
            Some(end) => end.min(bytes.len()),
            None => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that starts at `at` ends.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let find = |needle: &[u8], from: usize| {
        rest[from..]
            .windows(needle.len())
            .position(|w| w == needle)
            .map_or(bytes.len(), |n| at + from + n + needle.len())
    };
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| at + n));
    }
    if rest.starts_with(b"/*") {
        return Some(find(b"*/", 2));
    }
    let before_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest[0] == b'r' && !before_word {
        let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
            return Some(find(&close, 2 + hashes));
        }
    }
    if rest[0] == b'"' {
        return Some(at + 1 + quoted(&rest[1..], b'"'));
    }
    let character = rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || rest.get(2) == Some(&b'\''));
    character.then(|| at + 1 + quoted(&rest[1..], b'\''))
}

/// Length of the rest of a quoted literal, with its closing quote.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

#[test]
fn blanking_keeps_code() {
    let blanked =
        blank("let a = \"unsafe \\\" x\"; // unsafe\nlet c = '\\''; r#\"un\"safe\"# y /* unsafe */ z 'life");
    assert!(!blanked.contains("unsafe") && !blanked.contains("un\""));
    assert!(blanked.contains("let c =") && blanked.contains(" y ") && blanked.contains(" z 'life"));
}
