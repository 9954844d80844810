//! QEMU's `key=value,…` grammar: doubled commas, a bare first word, bare and `no` booleans.

/// The keys and values of one option, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What is being parsed, for messages: `-chardev stdio,…`.
    context: String,
    pairs: Vec<(String, String)>,
}

impl Options {
    /// Splits `text`. A first word without `=` becomes the value of `first_key`; a later one is a boolean that is on,
    /// and `noNAME` one that is off.
    pub fn parse(context: &str, text: &str, first_key: &str) -> Result<Options, String> {
        let mut options = Options { context: context.to_string(), pairs: Vec::new() };
        for (index, part) in split_at_commas(text).into_iter().enumerate() {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key.to_string(), value.to_string()),
                None if index == 0 => (first_key.to_string(), part),
                None => match part.strip_prefix("no") {
                    Some(name) if matches!(name, "wait" | "delay") => (name.to_string(), "off".to_string()),
                    _ => (part, "on".to_string()),
                },
            };
            if key.is_empty() {
                return Err(format!("{context}: empty option name"));
            }
            options.pairs.push((key, value));
        }
        Ok(options)
    }

    /// Takes `key` out; the last of several values counts, as in QEMU.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let mut last = None;
        self.pairs.retain_mut(|(name, value)| {
            let found = name == key;
            if found {
                last = Some(std::mem::take(value));
            }
            !found
        });
        last
    }

    /// Takes all values of `key`, in order.
    pub fn take_all(&mut self, key: &str) -> Vec<String> {
        let mut values = Vec::new();
        self.pairs.retain_mut(|(name, value)| {
            let found = name == key;
            if found {
                values.push(std::mem::take(value));
            }
            !found
        });
        values
    }

    /// Refuses the first of `keys` that is there, for the reason `why`.
    pub fn refuse(&self, keys: &[&str], why: &str) -> Result<(), String> {
        match self.pairs.iter().find(|(name, _)| keys.contains(&name.as_str())) {
            Some((key, _)) => Err(format!("{}: '{key}' {why}", self.context)),
            None => Ok(()),
        }
    }

    /// Takes `key`, which must be there.
    pub fn take_required(&mut self, key: &str) -> Result<String, String> {
        self.take(key).ok_or_else(|| format!("{}: '{key}' is missing", self.context))
    }

    /// Takes a boolean: `on`, `off`, or QEMU's other spellings of them.
    pub fn take_bool(&mut self, key: &str, default: bool) -> Result<bool, String> {
        match self.take(key).as_deref() {
            None => Ok(default),
            Some("on" | "yes" | "true" | "y") => Ok(true),
            Some("off" | "no" | "false" | "n") => Ok(false),
            Some(other) => Err(format!("{}: '{key}' is on or off, not '{other}'", self.context)),
        }
    }

    /// Takes a number.
    pub fn take_number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let number = text.parse();
        number.map(Some).map_err(|_| format!("{}: '{key}' is a number, not '{text}'", self.context))
    }

    /// Whatever nobody took is an option we do not know.
    pub fn finish(self) -> Result<(), String> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("{}: unknown option '{key}'", self.context)),
        }
    }
}

fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ',' && characters.peek() != Some(&',') {
            parts.push(String::new());
            continue;
        }
        if character == ',' {
            characters.next();
        }
        parts.last_mut().expect("starts with one part and only grows").push(character);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        let mut options =
            Options::parse("-chardev", "file,path=a,,b,append,nowait,path=c,,", "backend").unwrap();
        assert_eq!(options.take("backend").as_deref(), Some("file"));
        assert_eq!(options.take_bool("append", false), Ok(true));
        assert_eq!(options.take_bool("wait", true), Ok(false));
        assert_eq!(options.take("path").as_deref(), Some("c,"));
        assert_eq!(options.finish(), Ok(()));
    }

    #[test]
    fn refusals_name_the_option() {
        let mut options = Options::parse("-chardev", "null,frob=1,append=maybe,port=x", "backend").unwrap();
        options.take("backend");
        assert_eq!(
            options.take_bool("append", false),
            Err("-chardev: 'append' is on or off, not 'maybe'".into())
        );
        assert_eq!(options.take_number::<u16>("port"), Err("-chardev: 'port' is a number, not 'x'".into()));
        assert_eq!(options.take_required("path"), Err("-chardev: 'path' is missing".into()));
        assert_eq!(options.finish(), Err("-chardev: unknown option 'frob'".into()));
    }
}
