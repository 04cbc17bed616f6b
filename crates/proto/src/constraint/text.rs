//! A constraint as people write it: reading one, and writing it so that it reads the same.

use std::fmt;
use std::str::FromStr;

use super::{Constraint, ConstraintError, Operator, check_length, is_symbol};

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.attribute, self.operator)?;
        for (number, value) in self.values.iter().enumerate() {
            f.write_str(if number == 0 { " " } else { ", " })?;
            let needs_quotes = value.is_empty()
                || value.trim() != value
                || value.starts_with('"')
                || (self.operator.takes_list() && value.contains(','));
            if needs_quotes {
                write!(f, "\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))?;
            } else {
                f.write_str(value)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Constraint {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        check_length(text.len())?;
        let (attribute, rest) = split_before(text.trim(), |c| c.is_whitespace() || is_symbol(c));
        let attribute = attribute.parse()?;
        let (operator, operand) = take_operator(rest.trim_start())?;
        Self::new(attribute, operator, read_values(operator, operand.trim())?)
    }
}

/// The text up to the first character of a kind, and the rest from it on.
fn split_before(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}

/// Takes the operator off the front. Symbols end where they end (`label.a=b`), words at a space.
fn take_operator(text: &str) -> Result<(Operator, &str), ConstraintError> {
    let is_symbols_end = |c| !is_symbol(c);
    let version = text
        .strip_prefix("version")
        .filter(|rest| rest.starts_with(|c: char| c.is_whitespace() || is_symbol(c)));
    if let Some(rest) = version {
        let (symbols, rest) = split_before(rest.trim_start(), is_symbols_end);
        return Ok((format!("version {symbols}").trim_end().parse()?, rest));
    }
    let (word, rest) = if text.starts_with(is_symbol) {
        split_before(text, is_symbols_end)
    } else {
        split_before(text, char::is_whitespace)
    };
    Ok((word.parse()?, rest))
}

/// Reads what stands after the operator, without spaces around it. How many values there may be is judged later.
fn read_values(operator: Operator, text: &str) -> Result<Vec<String>, ConstraintError> {
    let mut values = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (value, after) = if rest.starts_with('"') {
            read_quoted(rest)?
        } else {
            let (value, after) = match operator.takes_list() {
                true => split_before(rest, |c| c == ','),
                false => (rest, ""),
            };
            (value.trim_end().to_owned(), after)
        };
        if value.is_empty() && !rest.starts_with('"') {
            return Err(ConstraintError::EmptyValue);
        }
        values.push(value);
        let after = after.trim_start();
        rest = match after.strip_prefix(',').filter(|_| operator.takes_list()) {
            Some(next) if next.trim_start().is_empty() => return Err(ConstraintError::EmptyValue),
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return Err(ConstraintError::Quote),
        };
    }
    Ok(values)
}

/// Reads the value in quotes at the front. A backslash before anything but a quote or a backslash is itself, so that
/// a regular expression may stand in quotes as it is.
fn read_quoted(text: &str) -> Result<(String, &str), ConstraintError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            '\\' => match chars.next_if(|(_, next)| "\"\\".contains(*next)) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            other => value.push(other),
        }
    }
    Err(ConstraintError::Quote)
}

#[cfg(test)]
mod tests {
    use crate::constraint::tests::{read, refused};

    #[test]
    fn every_operator_is_read_and_written_the_same() {
        for text in [
            "label.rack = r1",
            "label.rack != r1",
            "label.rack in r1, r2",
            "label.rack not-in r1, r2",
            "label.gpu exists",
            "label.gpu not-exists",
            "attribute.kernel version >= 5.10",
            "attribute.kernel version > 5.10",
            "attribute.docker.version version <= 28",
            "attribute.docker.version version < 28.0.1",
            "node.name matches ^web-[0-9]+$",
            "node.datacenter = dc1",
            "label.topology.kubernetes.io/zone = a b, c = d",
            "label.a = \"\"",
            "label.a in \"a, b\", c",
            "label.a = \" x\"",
            "label.a = \"\\\"quoted\\\" and \\\\ more\"",
            "label.a = it's \"half\" quoted",
            "label.a = =b",
            "label.a matches \\d+\\.\"x\"",
        ] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn spaces_and_quotes_may_be_left_out_or_be_too_many() {
        for (loose, exact) in [
            ("label.rack=r1", "label.rack = r1"),
            ("  label.rack   !=r1 ", "label.rack != r1"),
            ("label.rack in r1,r2 ,  r3", "label.rack in r1, r2, r3"),
            ("label.rack in \"r1\" , \"r,2\"", "label.rack in r1, \"r,2\""),
            ("label.rack = \"r1\"", "label.rack = r1"),
            ("attribute.kernel version>=5", "attribute.kernel version >= 5"),
            ("attribute.kernel\tversion  <  5", "attribute.kernel version < 5"),
            ("node.name matches \"^a\\d$\"", "node.name matches ^a\\d$"),
        ] {
            assert_eq!(read(loose).to_string(), exact);
        }
    }

    #[test]
    fn what_is_no_constraint_says_why_and_what_to_do() {
        for (text, problem, cure) in [
            ("", "\"\" is nothing that a node has", "label.KEY"),
            ("rack = r1", "\"rack\" is nothing that a node has", "label.KEY"),
            ("node.rack = r1", "\"node.rack\" is nothing", "node.datacenter"),
            ("label. = r1", "\"label.\" is nothing", "such as label.rack"),
            ("attribute. exists", "\"attribute.\" is nothing", "attribute.KEY"),
            ("label.a,b exists", "\"label.a,b\" is nothing", "label.KEY"),
            ("label.rack", "there is no operator", "use =, !="),
            ("label.rack r1", "\"r1\" is no operator", "not-in"),
            ("label.rack == r1", "\"==\" is no operator", "such as label.rack = r1"),
            ("label.rack ~ r1", "\"~\" is no operator", "matches"),
            ("label.rack IN r1", "\"IN\" is no operator", "in, not-in"),
            ("label.rack in=r1", "\"in=r1\" is no operator", "in, not-in"),
            ("attribute.kernel >= 5", "\">=\" is no operator", "version >="),
            ("attribute.kernel version", "\"version\" is no operator", "version >="),
            ("attribute.kernel version 5", "\"version\" is no operator", "version >="),
            ("attribute.kernel version != 5", "\"version !=\" is no operator", "version >="),
            ("label.rack =", "nothing stands after =", "label.rack = r1"),
            ("label.rack in  ", "nothing stands after in", "\"\""),
            ("label.gpu exists yes", "exists has more values", "take none"),
            ("label.rack in r1,,r2", "a value in the list is empty", "comma too many"),
            ("label.rack in r1,", "a value in the list is empty", "comma too many"),
            ("label.rack in ,", "a value in the list is empty", "comma too many"),
            ("label.rack = \"r1", "does not end with its quote", "close the quote"),
            ("label.rack = \"r1\" r2", "does not end with its quote", "close the quote"),
            ("label.rack in \"r1\" r2", "does not end with its quote", "close the quote"),
            ("label.rack = \"r1\\", "does not end with its quote", "close the quote"),
            ("label.rack = a\nb", "a control character", "remove it"),
            ("attribute.kernel version >= new", "\"new\" does not begin with a number", "5.10"),
            ("attribute.kernel version >= .5", "\".5\" does not begin with a number", "5.10"),
            ("attribute.kernel version >= -5", "\"-5\" does not begin with a number", "5.10"),
            ("node.name matches (", "expression \"(\" cannot be used", "brackets"),
            ("node.name matches (?=a)", "cannot be used", "no look-around"),
        ] {
            let error = refused(text);
            assert!(error.problem().contains(problem), "{text}: {error}");
            assert!(error.cure().contains(cure), "{text}: {error}");
            assert_eq!(error.to_string(), format!("{}; {}", error.problem(), error.cure()));
        }
    }
}
