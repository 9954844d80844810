//! Nested options, as block nodes have them: `a=1,b.c=2`, or the same as a JSON object.

use super::keyval::{KeyValues, parse_bool};
use super::size;
use serde_json::Value;
use std::collections::BTreeMap;

/// Deepest nesting.
const DEPTH_MAX: usize = 8;

/// Options whose values may be options again; taken out one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    members: BTreeMap<String, Member>,
    /// Where it stands in the whole, e.g. `file.`; for messages.
    prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    Text(String),
    Switch(bool),
    Tree(Tree),
}

/// A value that is a name or the thing itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameOrTree {
    /// A name.
    Name(String),
    /// The thing.
    Tree(Tree),
}

impl Tree {
    /// Reads either form.
    pub fn parse(text: &str) -> Result<Tree, String> {
        let mut tree = Tree::default();
        if text.starts_with('{') {
            let value = serde_json::from_str(text).map_err(|error| format!("JSON: {error}"))?;
            tree.fill(value)?;
            return Ok(tree);
        }
        for (key, value) in KeyValues::parse(text, None)?.into_pairs() {
            tree.set(&key, &value)?;
        }
        Ok(tree)
    }

    /// Sets `a.b.c`; the last one of several counts.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if key.split('.').count() > DEPTH_MAX {
            return Err(format!("Invalid parameter '{key}': nested too deep"));
        }
        match key.split_once('.') {
            None => {
                self.members.insert(key.to_owned(), Member::Text(value.to_owned()));
                Ok(())
            }
            Some((first, rest)) => {
                let prefix = format!("{}{first}.", self.prefix);
                let member = self.members.entry(first.to_owned());
                match member.or_insert_with(|| Member::Tree(Tree { members: BTreeMap::new(), prefix })) {
                    Member::Tree(tree) => tree.set(rest, value),
                    Member::Text(_) | Member::Switch(_) => {
                        Err(format!("Parameter '{}{first}' is both a value and a group", self.prefix))
                    }
                }
            }
        }
    }

    /// Puts a group back that was taken.
    pub fn put(&mut self, key: &str, tree: Tree) {
        self.members.insert(key.to_owned(), Member::Tree(tree));
    }

    fn fill(&mut self, value: Value) -> Result<(), String> {
        let Value::Object(object) = value else { return Err("JSON: expected an object".to_owned()) };
        for (key, value) in object {
            let member = match value {
                Value::String(text) => Member::Text(text),
                Value::Number(number) => Member::Text(number.to_string()),
                Value::Bool(on) => Member::Switch(on),
                Value::Object(_) => {
                    // serde_json limits the depth of the text itself.
                    let prefix = format!("{}{key}.", self.prefix);
                    let mut tree = Tree { members: BTreeMap::new(), prefix };
                    tree.fill(value)?;
                    Member::Tree(tree)
                }
                Value::Null | Value::Array(_) => {
                    return Err(format!("Parameter '{}{key}' has an unexpected value", self.prefix));
                }
            };
            self.members.insert(key, member);
        }
        Ok(())
    }

    /// Takes a text.
    pub fn take(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.members.remove(key) {
            None => Ok(None),
            Some(Member::Text(text)) => Ok(Some(text)),
            Some(Member::Switch(_) | Member::Tree(_)) => {
                Err(format!("Parameter '{}{key}' expects a string", self.prefix))
            }
        }
    }

    /// Takes a switch.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>, String> {
        match self.members.remove(key) {
            None => Ok(None),
            Some(Member::Switch(on)) => Ok(Some(on)),
            Some(Member::Text(text)) => parse_bool(&format!("{}{key}", self.prefix), &text).map(Some),
            Some(Member::Tree(_)) => Err(format!("Parameter '{}{key}' expects 'on' or 'off'", self.prefix)),
        }
    }

    /// Takes a size in bytes.
    pub fn take_size(&mut self, key: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.take(key)? else { return Ok(None) };
        let bytes = size::parse_size(&text, 1);
        bytes.map(Some).ok_or_else(|| format!("Parameter '{}{key}' expects a size", self.prefix))
    }

    /// Takes a number.
    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>, String> {
        let Some(text) = self.take(key)? else { return Ok(None) };
        let number = size::parse_number(&text);
        number.map(Some).ok_or_else(|| format!("Parameter '{}{key}' expects a number", self.prefix))
    }

    /// Takes a name or a group.
    pub fn take_name_or_tree(&mut self, key: &str) -> Result<Option<NameOrTree>, String> {
        match self.members.remove(key) {
            None => Ok(None),
            Some(Member::Text(name)) => Ok(Some(NameOrTree::Name(name))),
            Some(Member::Tree(tree)) => Ok(Some(NameOrTree::Tree(tree))),
            Some(Member::Switch(_)) => Err(format!("Parameter '{}{key}' expects a string", self.prefix)),
        }
    }

    /// Takes a group; an empty one if it is not there.
    pub fn take_tree(&mut self, key: &str) -> Result<Tree, String> {
        match self.members.remove(key) {
            None => Ok(Tree::default()),
            Some(Member::Tree(tree)) => Ok(tree),
            Some(Member::Text(_) | Member::Switch(_)) => {
                Err(format!("Parameter '{}{key}' expects options, as in {key}.NAME=", self.prefix))
            }
        }
    }

    /// Fails when something is left that no one took.
    pub fn finish(self) -> Result<(), String> {
        match self.members.into_iter().next() {
            None => Ok(()),
            Some((_, Member::Tree(tree))) => tree.finish(),
            Some((key, Member::Text(_) | Member::Switch(_))) => {
                Err(format!("Invalid parameter '{}{key}'", self.prefix))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        for text in [
            "driver=qcow2,file.driver=file,file.filename=a,,b,read-only=on,size=4096",
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"a,b"},"read-only":true,"size":4096}"#,
        ] {
            let mut tree = Tree::parse(text).unwrap();
            assert_eq!(tree.take("driver"), Ok(Some("qcow2".to_owned())));
            assert_eq!(tree.take_bool("read-only"), Ok(Some(true)));
            assert_eq!(tree.take_size("size"), Ok(Some(4096)));
            assert_eq!(tree.clone().finish().unwrap_err(), "Invalid parameter 'file.driver'");
            let Ok(Some(NameOrTree::Tree(mut file))) = tree.take_name_or_tree("file") else { panic!() };
            assert_eq!(file.take("filename"), Ok(Some("a,b".to_owned())));
            assert_eq!(file.take("driver"), Ok(Some("file".to_owned())));
            assert_eq!((file.finish(), tree.finish()), (Ok(()), Ok(())));
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (text, message) in [
            ("a=1,a.b=2", "Parameter 'a' is both a value and a group"),
            ("a.b.c.d.e.f.g.h.i=1", "Invalid parameter 'a.b.c.d.e.f.g.h.i': nested too deep"),
            ("{\"a\":[1]}", "Parameter 'a' has an unexpected value"),
        ] {
            assert_eq!(Tree::parse(text).unwrap_err(), message, "{text}");
        }
        assert!(Tree::parse("{").unwrap_err().starts_with("JSON: "));
        assert!(Tree::parse(&"{\"a\":".repeat(10_000)).is_err());
        let mut tree = Tree::parse("a=x,b.c=1").unwrap();
        assert_eq!(tree.take_bool("a").unwrap_err(), "Parameter 'a' expects 'on' or 'off'");
        assert_eq!(tree.take("b").unwrap_err(), "Parameter 'b' expects a string");
    }
}
