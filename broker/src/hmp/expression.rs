//! Integer expressions as QEMU's monitor knows them: + - * / % & | ^ ~, parentheses, C's number forms, characters in quotes,
//! and registers of the CPU.
//!
//! As in QEMU, + and - bind more weakly than & | ^, which bind more weakly than * / %.

use super::registers;
use replay::inspect::Registers;

/// Deepest nesting of parentheses and signs.
const DEPTH_MAX: u32 = 32;

/// Reads an expression off the front of a text; the value and what is left.
pub fn read<'a>(text: &'a str, registers: Option<&Registers>) -> Result<(i64, &'a str), String> {
    let mut expression = Expression { rest: text, depth: 0, registers };
    let value = expression.sum()?;
    Ok((value, expression.rest))
}

struct Expression<'a, 'b> {
    rest: &'a str,
    depth: u32,
    registers: Option<&'b Registers>,
}

impl Expression<'_, '_> {
    fn sum(&mut self) -> Result<i64, String> {
        let mut value = self.logic()?;
        while let Some(operator) = self.operator("+-") {
            let right = self.logic()?;
            value = if operator == '+' { value.wrapping_add(right) } else { value.wrapping_sub(right) };
        }
        Ok(value)
    }

    fn logic(&mut self) -> Result<i64, String> {
        let mut value = self.product()?;
        while let Some(operator) = self.operator("&|^") {
            let right = self.product()?;
            value = match operator {
                '&' => value & right,
                '|' => value | right,
                _ => value ^ right,
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Result<i64, String> {
        let mut value = self.unary()?;
        while let Some(operator) = self.operator("*/%") {
            let right = self.unary()?;
            value = match operator {
                '*' => value.wrapping_mul(right),
                _ if right == 0 => return Err("division by zero".to_owned()),
                '/' => value.wrapping_div(right),
                _ => value.wrapping_rem(right),
            };
        }
        Ok(value)
    }

    fn unary(&mut self) -> Result<i64, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("expression is too deep".to_owned());
        }
        let value = match self.operator("+-~(") {
            Some('+') => self.unary()?,
            Some('-') => self.unary()?.wrapping_neg(),
            Some('~') => !self.unary()?,
            Some(_) => {
                let value = self.sum()?;
                self.operator(")").ok_or("')' expected")?;
                value
            }
            None => self.atom()?,
        };
        self.depth -= 1;
        Ok(value)
    }

    fn atom(&mut self) -> Result<i64, String> {
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            None => Err("unexpected end of expression".to_owned()),
            Some('$') => self.register(),
            Some('\'') => self.character(),
            Some('0'..='9') => self.number(),
            Some(other) => Err(format!("invalid char '{other}' in expression")),
        }
    }

    fn register(&mut self) -> Result<i64, String> {
        let name = &self.rest[1..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_'));
        let (name, rest) = name.split_at(end.unwrap_or(name.len()));
        self.rest = rest;
        let value = self.registers.and_then(|all| registers::value(all, name));
        value.map(|value| value as i64).ok_or_else(|| "unknown register".to_owned())
    }

    fn character(&mut self) -> Result<i64, String> {
        let mut chars = self.rest[1..].chars();
        match (chars.next(), chars.next()) {
            (Some(value), Some('\'')) if value != '\'' => {
                self.rest = chars.as_str();
                Ok(i64::from(u32::from(value)))
            }
            (None, _) => Err("character constant expected".to_owned()),
            _ => Err("missing terminating ' character".to_owned()),
        }
    }

    /// As many digits as fit C's forms: 0x…, 0…, decimal. What is behind them is somebody else's to refuse.
    fn number(&mut self) -> Result<i64, String> {
        let hex = self.rest.strip_prefix("0x").or_else(|| self.rest.strip_prefix("0X"));
        let hex = hex.filter(|digits| digits.starts_with(|c: char| c.is_ascii_hexdigit()));
        let (digits, radix) = match hex {
            Some(digits) => (digits, 16),
            None if self.rest.starts_with('0') => (self.rest, 8),
            None => (self.rest, 10),
        };
        let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
        self.rest = &digits[end..];
        let value = u64::from_str_radix(&digits[..end], radix);
        value.map(|value| value as i64).map_err(|_| "number too large".to_owned())
    }

    /// Takes the next character if it is one of `operators`.
    fn operator(&mut self, operators: &str) -> Option<char> {
        let rest = self.rest.trim_start();
        let operator = rest.chars().next().filter(|char| operators.contains(*char))?;
        self.rest = &rest[operator.len_utf8()..];
        Some(operator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of a whole text.
    fn value(text: &str) -> Result<i64, String> {
        let registers = Registers { rip: 0x1000, rflags: 0x202, ..Registers::default() };
        let (value, rest) = read(text, Some(&registers))?;
        if rest.trim().is_empty() { Ok(value) } else { Err(format!("left: {rest}")) }
    }

    #[test]
    fn answers_are_those_of_qemu() {
        for (text, wanted) in [
            ("1+2*3", Ok(7)),
            ("(1 + 2) * 3", Ok(9)),
            ("-1", Ok(-1)),
            ("0x10|1", Ok(17)),
            ("1|2&3", Ok(3)),
            ("~0", Ok(-1)),
            ("010", Ok(8)),
            ("2*-3", Ok(-6)),
            ("5-2-1", Ok(2)),
            ("-1/2", Ok(0)),
            ("18446744073709551615", Ok(-1)),
            ("'a'", Ok(97)),
            ("$pc+1", Ok(0x1001)),
            ("($rip)", Ok(0x1000)),
            ("$eflags & 0x200", Ok(0x200)),
            ("", Err("unexpected end of expression")),
            ("1+", Err("unexpected end of expression")),
            ("1/0", Err("division by zero")),
            ("$", Err("unknown register")),
            ("$nosuch", Err("unknown register")),
            ("(1", Err("')' expected")),
            ("99999999999999999999", Err("number too large")),
            ("zz", Err("invalid char 'z' in expression")),
            ("é", Err("invalid char 'é' in expression")),
            ("'ab'", Err("missing terminating ' character")),
            ("''", Err("missing terminating ' character")),
            ("1 2", Err("left:  2")),
            ("0x", Err("left: x")),
            ("08", Err("left: 8")),
            ("1<<3", Err("left: <<3")),
        ] {
            assert_eq!(value(text), wanted.map_err(str::to_owned), "{text}");
        }
        assert!(value(&"(".repeat(100_000)).is_err());
        assert!(value(&"~-".repeat(100_000)).is_err());
        assert_eq!(value(&["1"; 1000].join("+")), Ok(1000));
        assert_eq!(read("$pc", None), Err("unknown register".to_owned()));
    }
}
