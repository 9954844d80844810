//! Lists of `key=value`, as most of QEMU's options take them.
//!
//! A comma in a value is written `,,`. The first word may stand for an implied key. A later bare word is a
//! switch: `x` means `x=on`, `nox` means `x=off`. A key that nobody asked for is an error at the end.

/// A key=value list whose keys are taken out one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValues {
    pairs: Vec<(String, Value)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    /// A bare word: the key alone.
    Bare,
}

impl KeyValues {
    /// Splits `text`; `implied` is the key of a first word that has no `=`.
    pub fn parse(text: &str, implied: Option<&str>) -> Result<KeyValues, String> {
        let mut pairs = Vec::new();
        for (index, item) in split_items(text).into_iter().enumerate() {
            match (item.split_once('='), implied) {
                (Some(("", _)), _) => return Err(format!("Expected parameter before '{item}'")),
                (Some((key, value)), _) => pairs.push((key.to_owned(), Value::Text(value.to_owned()))),
                (None, Some(key)) if index == 0 => pairs.push((key.to_owned(), Value::Text(item))),
                (None, _) if item.is_empty() => return Err("Expected parameter before ','".to_owned()),
                (None, _) => pairs.push((item, Value::Bare)),
            }
        }
        Ok(KeyValues { pairs })
    }

    /// Takes the value of `key`; the last one counts.
    pub fn take(&mut self, key: &str) -> Result<Option<String>, String> {
        let mut found = None;
        let mut bare = false;
        self.pairs.retain(|(name, value)| {
            if name == key {
                match value {
                    Value::Text(text) => found = Some(text.clone()),
                    Value::Bare => bare = true,
                }
            }
            name != key
        });
        if bare && found.is_none() {
            return Err(format!("Expected '=' after parameter '{key}'"));
        }
        Ok(found)
    }

    /// Takes a switch: `key=on|off|yes|no|true|false|y|n`, `key` or `nokey`.
    pub fn take_bool(&mut self, key: &str) -> Result<Option<bool>, String> {
        let mut found = None;
        let negated = format!("no{key}");
        for (name, value) in &self.pairs {
            match value {
                Value::Bare if *name == key => found = Some(true),
                Value::Bare if *name == negated => found = Some(false),
                Value::Text(text) if *name == key => found = Some(parse_bool(key, text)?),
                Value::Text(_) | Value::Bare => {}
            }
        }
        self.pairs.retain(|(name, value)| *name != key && !(*name == negated && *value == Value::Bare));
        Ok(found)
    }

    /// Takes a number, decimal or with 0x.
    pub fn take_number(&mut self, key: &str) -> Result<Option<u64>, String> {
        match self.take(key)? {
            None => Ok(None),
            Some(text) => match super::size::parse_number(&text) {
                Some(number) => Ok(Some(number)),
                None => Err(format!("Parameter '{key}' expects a number")),
            },
        }
    }

    /// Takes all that is left, in order; a bare word is a switch that is on.
    pub fn into_pairs(self) -> Vec<(String, String)> {
        let text = |value| match value {
            Value::Text(text) => text,
            Value::Bare => "on".to_owned(),
        };
        self.pairs.into_iter().map(|(key, value)| (key, text(value))).collect()
    }

    /// Fails when a key is left that no one took.
    pub fn finish(self) -> Result<(), String> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("Invalid parameter '{key}'")),
        }
    }
}

/// Reads a switch's value.
pub fn parse_bool(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(format!("Parameter '{key}' expects 'on' or 'off'")),
    }
}

/// Splits at single commas; a double comma is one comma of the value.
fn split_items(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    let mut item = String::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if char != ',' {
            item.push(char);
        } else if chars.peek() == Some(&',') {
            chars.next();
            item.push(',');
        } else {
            items.push(std::mem::take(&mut item));
        }
    }
    // QEMU allows a trailing comma.
    if !item.is_empty() || items.is_empty() {
        items.push(item);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn double_comma_is_a_comma() {
        let mut list = KeyValues::parse("a,,b.img,if=none,id=x,,y", Some("file")).unwrap();
        assert_eq!(list.take("file"), Ok(Some("a,b.img".to_owned())));
        assert_eq!(list.take("id"), Ok(Some("x,y".to_owned())));
        assert_eq!(list.clone().finish(), Err("Invalid parameter 'if'".to_owned()));
        assert_eq!(list.take("if"), Ok(Some("none".to_owned())));
        assert_eq!(list.finish(), Ok(()));
    }

    #[test]
    fn bare_words_are_switches() {
        let mut list = KeyValues::parse("path,server,nowait", Some("path")).unwrap();
        assert_eq!(list.take_bool("server"), Ok(Some(true)));
        assert_eq!(list.take_bool("wait"), Ok(Some(false)));
        assert_eq!(list.take_bool("nodelay"), Ok(None));
        assert_eq!(list.take("path"), Ok(Some("path".to_owned())));
        assert_eq!(list.finish(), Ok(()));
    }

    #[test]
    fn a_key_that_starts_with_no_is_not_a_negation() {
        let mut list = KeyValues::parse("nodelay=on", None).unwrap();
        assert_eq!(list.take_bool("nodelay"), Ok(Some(true)));
        let mut list = KeyValues::parse("nodelay", None).unwrap();
        assert_eq!(list.take_bool("nodelay"), Ok(Some(true)));
    }

    #[test]
    fn last_one_counts_and_wrong_values_are_named() {
        let mut list = KeyValues::parse("shift=1,shift=0x2", None).unwrap();
        assert_eq!(list.take_number("shift"), Ok(Some(2)));
        let mut list = KeyValues::parse("sleep=maybe", None).unwrap();
        assert_eq!(list.take_bool("sleep"), Err("Parameter 'sleep' expects 'on' or 'off'".to_owned()));
        let mut list = KeyValues::parse("shift=1x", None).unwrap();
        assert_eq!(list.take_number("shift"), Err("Parameter 'shift' expects a number".to_owned()));
        assert!(KeyValues::parse("a,,=b,=c", None).is_err());
    }
}
