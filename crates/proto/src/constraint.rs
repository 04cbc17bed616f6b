//! What a node must be, or had better be, to get a task.
//!
//! A constraint looks at one attribute of a node and compares its value. As people write it:
//!
//! ```text
//! label.rack = r1                  label.rack in r1, r2           attribute.kernel version >= 5.10
//! label.rack != r1                 label.rack not-in r1, r2       node.name matches ^web-[0-9]+$
//! label.gpu exists                 label.gpu not-exists
//! ```
//!
//! A value that is empty, begins or ends with a space, begins with a quote, or has a comma within a list stands in
//! quotes: `label.note in "a, b", c`. Within them `\"` is a quote and `\\` a backslash; outside them every character
//! is itself, so that regular expressions need no second layer of backslashes.
//!
//! On the wire it is a map (`attribute`, `operator`, `values`) that may hold anything that another client made up:
//! whoever takes one in calls [`Constraint::check`], as [`crate::validate::job`] does for whole jobs.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use regex_lite::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// The longest constraint as text, in bytes.
pub const CONSTRAINT_BYTES_MAX: usize = 1024;
/// The most values of one constraint.
pub const VALUES_MAX: usize = 64;
/// The largest compiled regular expression, in bytes: some 500 characters or classes. The time to match grows with the
/// expression and with the value, and is spent for each node while everybody's placements wait: at worst a third of a
/// millisecond for a node's name, and a few for the longest label.
const REGEX_BYTES_MAX: usize = 16 << 10;

/// What of a node a constraint looks at. As text: `node.name`, `node.datacenter`, `label.KEY`, `attribute.KEY`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Attribute {
    /// The node's name.
    NodeName,
    /// Where it stands.
    Datacenter,
    /// What its operator says of it, by the label's name.
    Label(String),
    /// What its worker found out about the machine: `os`, `arch`, `kernel`, `docker.version` and the like.
    Machine(String),
}

impl Attribute {
    /// Whether it could be written: a key that is there, has no space and no character that operators are made of.
    pub fn check(&self) -> Result<(), ConstraintError> {
        let (Self::Label(key) | Self::Machine(key)) = self else { return Ok(()) };
        check_length(key.len())?;
        let is_odd =
            |c: char| c.is_whitespace() || c.is_control() || is_symbol(c) || ",\"".contains(c);
        if key.is_empty() || key.contains(is_odd) {
            return Err(ConstraintError::Attribute { text: self.to_string() });
        }
        Ok(())
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodeName => f.write_str("node.name"),
            Self::Datacenter => f.write_str("node.datacenter"),
            Self::Label(key) => write!(f, "label.{key}"),
            Self::Machine(key) => write!(f, "attribute.{key}"),
        }
    }
}

impl FromStr for Attribute {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        // First of all, so that nobody's megabyte is repeated in an answer.
        check_length(text.len())?;
        let attribute = match text.split_once('.') {
            Some(("node", "name")) => Self::NodeName,
            Some(("node", "datacenter")) => Self::Datacenter,
            Some(("label", key)) => Self::Label(key.to_owned()),
            Some(("attribute", key)) => Self::Machine(key.to_owned()),
            _ => return Err(ConstraintError::Attribute { text: text.to_owned() }),
        };
        attribute.check()?;
        Ok(attribute)
    }
}

impl TryFrom<String> for Attribute {
    type Error = ConstraintError;

    fn try_from(text: String) -> Result<Self, ConstraintError> {
        text.parse()
    }
}

impl From<Attribute> for String {
    fn from(attribute: Attribute) -> Self {
        attribute.to_string()
    }
}

/// How the value is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Operator {
    /// `=`: the node has exactly this value.
    Equal,
    /// `!=`: it has another one, or none.
    NotEqual,
    /// `in`: it has one of these.
    In,
    /// `not-in`: it has none of these, or none at all.
    NotIn,
    /// `exists`: it has a value.
    Exists,
    /// `not-exists`: it has none.
    NotExists,
    /// `version >=`: the numbers at the beginning of the value are at least these.
    VersionAtLeast,
    /// `version >`: they are larger.
    VersionAbove,
    /// `version <=`: they are at most these.
    VersionAtMost,
    /// `version <`: they are smaller.
    VersionBelow,
    /// `matches`: the regular expression is found in the value.
    Matches,
}

impl Operator {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Equal,
        Self::NotEqual,
        Self::In,
        Self::NotIn,
        Self::Exists,
        Self::NotExists,
        Self::VersionAtLeast,
        Self::VersionAbove,
        Self::VersionAtMost,
        Self::VersionBelow,
        Self::Matches,
    ];

    /// As it is written in constraints and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::In => "in",
            Self::NotIn => "not-in",
            Self::Exists => "exists",
            Self::NotExists => "not-exists",
            Self::VersionAtLeast => "version >=",
            Self::VersionAbove => "version >",
            Self::VersionAtMost => "version <=",
            Self::VersionBelow => "version <",
            Self::Matches => "matches",
        }
    }

    /// How many values it takes, at least and at most.
    fn counts(self) -> (usize, usize) {
        match self {
            Self::Exists | Self::NotExists => (0, 0),
            Self::In | Self::NotIn => (1, VALUES_MAX),
            _ => (1, 1),
        }
    }

    fn takes_list(self) -> bool {
        matches!(self, Self::In | Self::NotIn)
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Operator {
    type Err = ConstraintError;

    fn from_str(text: &str) -> Result<Self, ConstraintError> {
        check_length(text.len())?;
        let unknown = || ConstraintError::Operator { text: text.to_owned() };
        Self::ALL.into_iter().find(|operator| operator.as_str() == text).ok_or_else(unknown)
    }
}

impl TryFrom<String> for Operator {
    type Error = ConstraintError;

    fn try_from(text: String) -> Result<Self, ConstraintError> {
        text.parse()
    }
}

impl From<Operator> for String {
    fn from(operator: Operator) -> Self {
        operator.as_str().to_owned()
    }
}

/// What a node must be, or had better be, to get a task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Constraint {
    /// What is looked at.
    pub attribute: Attribute,
    /// How it is compared.
    pub operator: Operator,
    /// What with: nothing for `exists` and `not-exists`, several for `in` and `not-in`, else one.
    #[serde(default)]
    pub values: Vec<String>,
}

impl Constraint {
    /// A constraint that meets the rules.
    pub fn new(
        attribute: Attribute,
        operator: Operator,
        values: Vec<String>,
    ) -> Result<Self, ConstraintError> {
        let constraint = Self { attribute, operator, values };
        constraint.check()?;
        Ok(constraint)
    }

    /// Whether it meets the rules. One that does can be written, read back, and compiled.
    pub fn check(&self) -> Result<(), ConstraintError> {
        self.compile().map(drop)
    }

    /// Its compiled form, for many nodes.
    pub fn compile(&self) -> Result<Matcher, ConstraintError> {
        self.attribute.check()?;
        let (operator, count) = (self.operator, self.values.len());
        let (least, most) = operator.counts();
        if count > VALUES_MAX {
            return Err(ConstraintError::TooManyValues { count });
        }
        if count < least {
            return Err(ConstraintError::MissingValue { operator });
        }
        if count > most {
            return Err(ConstraintError::SuperfluousValue { operator });
        }
        if self.values.iter().any(|value| value.contains(char::is_control)) {
            return Err(ConstraintError::ControlCharacter);
        }
        check_length(self.to_string().len())?;
        let first = || self.values.first().cloned().unwrap_or_default();
        let rule = match operator {
            Operator::Equal | Operator::In => {
                Rule::Among { values: self.values.clone(), is_wanted: true }
            }
            Operator::NotEqual | Operator::NotIn => {
                Rule::Among { values: self.values.clone(), is_wanted: false }
            }
            Operator::Exists => Rule::Exists { is_wanted: true },
            Operator::NotExists => Rule::Exists { is_wanted: false },
            Operator::VersionAtLeast => version_rule(first(), Ordering::is_ge)?,
            Operator::VersionAbove => version_rule(first(), Ordering::is_gt)?,
            Operator::VersionAtMost => version_rule(first(), Ordering::is_le)?,
            Operator::VersionBelow => version_rule(first(), Ordering::is_lt)?,
            Operator::Matches => {
                let pattern = first();
                let built = RegexBuilder::new(&pattern).size_limit(REGEX_BYTES_MAX).build();
                Rule::Matches(built.map_err(|error| ConstraintError::Regex {
                    pattern,
                    reason: error.to_string(),
                })?)
            }
        };
        Ok(Matcher(rule))
    }

    /// Whether it holds for a node whose attribute has this value, or none. One that breaks the rules holds
    /// nowhere. Compiles anew at each call; [`Constraint::compile`] is for many nodes.
    pub fn holds(&self, value: Option<&str>) -> bool {
        self.compile().is_ok_and(|matcher| matcher.holds(value))
    }
}

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

/// A constraint in the form that decides: its regular expression is compiled once.
#[derive(Debug, Clone)]
pub struct Matcher(Rule);

#[derive(Debug, Clone)]
enum Rule {
    Among { values: Vec<String>, is_wanted: bool },
    Exists { is_wanted: bool },
    Version { operand: String, is_met: fn(Ordering) -> bool },
    Matches(Regex),
}

impl Matcher {
    /// Whether it holds for a node whose attribute has this value, or none.
    pub fn holds(&self, value: Option<&str>) -> bool {
        match (&self.0, value) {
            (Rule::Among { values, is_wanted }, Some(value)) => {
                values.iter().any(|one| one == value) == *is_wanted
            }
            (Rule::Among { is_wanted, .. } | Rule::Exists { is_wanted }, None) => !is_wanted,
            (Rule::Exists { is_wanted }, Some(_)) => *is_wanted,
            (Rule::Version { operand, is_met }, Some(value)) => {
                has_number(value) && is_met(compare_versions(value, operand))
            }
            (Rule::Matches(regex), Some(value)) => regex.is_match(value),
            (Rule::Version { .. } | Rule::Matches(_), None) => false,
        }
    }
}

/// Why something is no constraint. As text it says what is wrong, and then what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstraintError {
    /// Nothing of a node has this name.
    Attribute {
        /// The text as given.
        text: String,
    },
    /// No operator, or none that there is.
    Operator {
        /// The text as given; empty where there is none.
        text: String,
    },
    /// The operator needs a value.
    MissingValue {
        /// Which one.
        operator: Operator,
    },
    /// The operator takes fewer values than there are.
    SuperfluousValue {
        /// Which one.
        operator: Operator,
    },
    /// Nothing stands between two commas, or after the last.
    EmptyValue,
    /// More than [`VALUES_MAX`] values.
    TooManyValues {
        /// How many there are.
        count: usize,
    },
    /// More than [`CONSTRAINT_BYTES_MAX`] bytes.
    TooLong {
        /// How many there are.
        length: usize,
    },
    /// A value begins with a quote and does not end with one.
    Quote,
    /// A value has a line break or another character that cannot be seen.
    ControlCharacter,
    /// What a version is compared with does not begin with a number.
    Version {
        /// The text as given.
        text: String,
    },
    /// Not a regular expression, or too large a one.
    Regex {
        /// The text as given.
        pattern: String,
        /// What the reader of expressions says.
        reason: String,
    },
}

impl ConstraintError {
    /// What is wrong.
    pub fn problem(&self) -> String {
        match self {
            Self::Attribute { text } => format!("{text:?} is nothing that a node has"),
            Self::Operator { text } if text.is_empty() => "there is no operator".to_owned(),
            Self::Operator { text } => format!("{text:?} is no operator"),
            Self::MissingValue { operator } => format!("nothing stands after {operator}"),
            Self::SuperfluousValue { operator } => {
                format!("{operator} has more values than it takes")
            }
            Self::EmptyValue => "a value in the list is empty".to_owned(),
            Self::TooManyValues { count } => format!("it has {count} values"),
            Self::TooLong { length } => format!("it has {length} bytes"),
            Self::Quote => "a value in quotes does not end with its quote".to_owned(),
            Self::ControlCharacter => "a value has a control character".to_owned(),
            Self::Version { text } => format!("the version {text:?} does not begin with a number"),
            Self::Regex { pattern, reason } => {
                format!("the regular expression {pattern:?} cannot be used ({reason})")
            }
        }
    }

    /// What to do.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Attribute { .. } => {
                "write node.name, node.datacenter, label.KEY or attribute.KEY, such as label.rack"
            }
            Self::Operator { .. } => {
                "use =, !=, in, not-in, exists, not-exists, version >=, version >, version <=, version < or matches, \
                 such as label.rack = r1"
            }
            Self::MissingValue { .. } => "write one, as in label.rack = r1; the empty one is \"\"",
            Self::SuperfluousValue { .. } => {
                "exists and not-exists take none, in and not-in take several, every other takes one"
            }
            Self::EmptyValue => "write r1, r2 without a comma too many; the empty value is \"\"",
            Self::TooManyValues { .. } => {
                "use at most 64; a common label for those nodes says it shorter"
            }
            Self::TooLong { .. } => "use at most 1024; a label for those nodes says it shorter",
            Self::Quote => {
                "close the quote; within quotes write \\\" for a quote and \\\\ for a backslash"
            }
            Self::ControlCharacter => {
                "remove it; line breaks and tabs within a value are never meant"
            }
            Self::Version { .. } => "write numbers with dots, such as 5.10",
            Self::Regex { .. } => {
                "check its brackets, and use small repetitions and no look-around, as in ^web-[0-9]+$"
            }
        }
    }
}

impl fmt::Display for ConstraintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.problem(), self.cure())
    }
}

impl std::error::Error for ConstraintError {}

fn check_length(length: usize) -> Result<(), ConstraintError> {
    if length > CONSTRAINT_BYTES_MAX {
        return Err(ConstraintError::TooLong { length });
    }
    Ok(())
}

/// The characters that operators which are no words are made of.
fn is_symbol(c: char) -> bool {
    "=!<>".contains(c)
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

fn version_rule(operand: String, is_met: fn(Ordering) -> bool) -> Result<Rule, ConstraintError> {
    match has_number(&operand) {
        true => Ok(Rule::Version { operand, is_met }),
        false => Err(ConstraintError::Version { text: operand }),
    }
}

/// The numbers at the beginning of a version, without zeros in front: of `5.10.0-35-amd64` they are 5, 10 and
/// nothing. As digits, because nobody says that they fit into a machine's numbers.
fn numbers(version: &str) -> impl Iterator<Item = &str> {
    let end = |c: char| !(c.is_ascii_digit() || c == '.');
    let dotted = version.split(end).next().unwrap_or_default();
    dotted.split('.').take_while(|part| !part.is_empty()).map(|part| part.trim_start_matches('0'))
}

fn has_number(version: &str) -> bool {
    numbers(version).next().is_some()
}

/// Compares the numbers at the beginning of two versions; missing ones count as 0, what follows them not at all.
fn compare_versions(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (numbers(one).fuse(), numbers(other).fuse());
    loop {
        let (left, right) = match (one.next(), other.next()) {
            (None, None) => return Ordering::Equal,
            (left, right) => (left.unwrap_or_default(), right.unwrap_or_default()),
        };
        let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
        if order.is_ne() {
            return order;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{decode, encode};

    fn read(text: &str) -> Constraint {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(text: &str) -> ConstraintError {
        match text.parse::<Constraint>() {
            Err(error) => error,
            Ok(constraint) => panic!("{text} was read as {constraint:?}"),
        }
    }

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

    #[test]
    fn there_is_a_limit_to_everything() {
        let fits = format!("label.a = {}", "x".repeat(CONSTRAINT_BYTES_MAX - 10));
        assert_eq!(read(&fits).to_string().len(), CONSTRAINT_BYTES_MAX);
        assert_eq!(refused(&format!("{fits}x")), ConstraintError::TooLong { length: 1025 });
        // Shorter as it was written than as it would be shown.
        let list = format!("label.a in {}", vec!["x".repeat(15); 63].join(","));
        assert!(list.len() <= CONSTRAINT_BYTES_MAX);
        assert!(matches!(refused(&list), ConstraintError::TooLong { .. }));
        let many = |count| format!("label.a in {}", vec!["x"; count].join(","));
        assert_eq!(read(&many(VALUES_MAX)).values.len(), VALUES_MAX);
        assert_eq!(refused(&many(65)), ConstraintError::TooManyValues { count: 65 });
        let wire = |values| Constraint {
            attribute: Attribute::Label("a".into()),
            operator: Operator::In,
            values,
        };
        assert!(matches!(
            wire(vec![String::new(); 60_000]).check(),
            Err(ConstraintError::TooManyValues { .. })
        ));
        assert!(matches!(
            wire(vec!["x".repeat(900_000)]).check(),
            Err(ConstraintError::TooLong { .. })
        ));
        assert!(matches!(
            Attribute::Label("k".repeat(2_000)).check(),
            Err(ConstraintError::TooLong { .. })
        ));
    }

    #[test]
    fn a_regular_expression_that_would_explode_is_refused() {
        for bomb in [
            "((a{100}){100}){100}",
            "a{100000}",
            "(((((((((x+)+)+)+)+)+)+)+){50}){50}",
            "a{1000}{1000}",
            &"(".repeat(400),
            &format!("{}a{}", "(".repeat(200), ")".repeat(200)),
            "[",
            "a{99999999999999999999}",
            "\\",
        ] {
            let error = refused(&format!("node.name matches {bomb}"));
            assert!(matches!(error, ConstraintError::Regex { .. }), "{bomb}: {error}");
        }
        // And what people write is far below the limit.
        for fine in ["^(web|api|db)-[a-z]{2,8}-[0-9]{1,4}$", "(?i)^rack-[a-f0-9]{32}$", "^.*$"] {
            read(&format!("node.name matches {fine}"));
        }
    }

    #[test]
    fn a_value_decides_by_the_operator() {
        for (text, holding, failing) in [
            ("label.a = x", &[Some("x")][..], &[Some("y"), Some("X"), Some(" x"), None][..]),
            ("label.a != x", &[Some("y"), Some(""), None], &[Some("x")]),
            ("label.a in x, y", &[Some("x"), Some("y")], &[Some("z"), Some("x, y"), None]),
            ("label.a not-in x, y", &[Some("z"), None], &[Some("x"), Some("y")]),
            ("label.a exists", &[Some("x"), Some("")], &[None]),
            ("label.a not-exists", &[None], &[Some("x"), Some("")]),
            ("node.name matches ^w[0-9]+$", &[Some("w1")], &[Some("w"), Some("aw1"), None]),
            ("node.name matches w", &[Some("awb")], &[Some("x"), None]),
            ("label.a = \"\"", &[Some("")], &[Some("x"), None]),
        ] {
            let constraint = read(text);
            let matcher = constraint.compile().unwrap();
            for (values, wanted) in [(holding, true), (failing, false)] {
                for value in values {
                    assert_eq!(matcher.holds(*value), wanted, "{text}: {value:?}");
                    assert_eq!(constraint.holds(*value), wanted, "{text}: {value:?}");
                }
            }
        }
    }

    #[test]
    fn versions_are_compared_number_by_number() {
        for (value, operator, operand, wanted) in [
            ("5.10.0-35-amd64", ">=", "5.9", true),
            ("5.10.0-35-amd64", ">=", "5.10", true),
            ("5.10.0-35-amd64", ">", "5.10", false),
            ("5.10.0-35-amd64", "<=", "5.10", true),
            ("5.10.0-35-amd64", "<", "5.10.1", true),
            ("5.9", ">=", "5.10", false),
            ("6", ">", "5.99", true),
            ("5", ">=", "5.0.0", true),
            ("5", "<", "5.0.1", true),
            ("05.010", "<=", "5.10", true),
            ("28.0.1-rc.1", ">", "28.0.0", true),
            ("28.0.1+build7", "<=", "28.0.1", true),
            ("5..9", "<=", "5.0", true),
            ("99999999999999999999999.1", ">", "99999999999999999999998", true),
            ("0", ">=", "0.0", true),
            ("v5.10", ">=", "1", false),
            ("v5.10", "<=", "1", false),
            ("", "<", "1", false),
            ("unknown", "<", "1", false),
            (".5", "<", "1", false),
            ("-5", "<", "1", false),
            ("٥.١", "<", "9", false),
        ] {
            let constraint = read(&format!("attribute.kernel version {operator} {operand}"));
            assert_eq!(constraint.holds(Some(value)), wanted, "{value} {operator} {operand}");
            assert!(!constraint.holds(None));
        }
    }

    #[test]
    fn it_travels_as_a_map_of_texts() {
        let constraint = read("label.rack not-in r1, \"r,2\"");
        assert_eq!(
            serde_json::to_string(&constraint).unwrap(),
            r#"{"attribute":"label.rack","operator":"not-in","values":["r1","r,2"]}"#
        );
        let short: Constraint =
            serde_json::from_str(r#"{"attribute":"label.gpu","operator":"exists"}"#).unwrap();
        assert_eq!(short, read("label.gpu exists"));
        for nonsense in [
            r#"{"attribute":"label.","operator":"exists"}"#,
            r#"{"attribute":"rack","operator":"exists"}"#,
            r#"{"attribute":"label.a","operator":"~"}"#,
            r#"{"operator":"exists"}"#,
        ] {
            assert!(serde_json::from_str::<Constraint>(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn nonsense_from_the_wire_holds_nowhere_and_does_not_check() {
        for (operator, values) in [
            ("=", "[]"),
            ("=", r#"["a","b"]"#),
            ("exists", r#"["a"]"#),
            ("in", "[]"),
            ("matches", r#"["("]"#),
            ("version >=", r#"["new"]"#),
            ("=", r#"["a\u0000b"]"#),
        ] {
            let text =
                format!(r#"{{"attribute":"label.a","operator":"{operator}","values":{values}}}"#);
            let constraint: Constraint = serde_json::from_str(&text).unwrap();
            assert!(constraint.check().is_err(), "{text}");
            for value in [None, Some("a"), Some("5")] {
                assert!(!constraint.holds(value), "{text}: {value:?}");
            }
        }
    }

    fn attributes() -> impl Strategy<Value = Attribute> {
        prop_oneof![
            Just(Attribute::NodeName),
            Just(Attribute::Datacenter),
            "[a-z./:@-]{1,8}".prop_map(Attribute::Label),
            "\\PC{0,6}".prop_map(Attribute::Label),
            any::<String>().prop_map(Attribute::Machine),
        ]
    }

    fn values() -> impl Strategy<Value = Vec<String>> {
        let value = prop_oneof![
            "[a-z0-9.]{0,6}",
            "[ ,\"\\\\=<a]{0,6}",
            "[0-9]{1,3}(\\.[0-9]{1,3}){0,3}[a-z-]{0,4}",
            "\\PC{0,8}",
            any::<String>(),
        ];
        proptest::collection::vec(value, 0..5)
    }

    fn constraints() -> impl Strategy<Value = Constraint> {
        (attributes(), proptest::sample::select(Operator::ALL.to_vec()), values())
            .prop_map(|(attribute, operator, values)| Constraint { attribute, operator, values })
    }

    /// Texts that are nearly constraints.
    fn texts() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "(node|label|attribute)[.][a-z ]{0,4} ?(=|!=|in|not-in|exists|version ?>=|matches)[ =]?\\PC{0,12}",
            "label[.]a (in|not-in|=) [ ,\"\\\\a]{0,10}",
            "label[.]a matches [(\\[\\]){},+*?a-c0-9^$|\\\\]{0,16}",
        ]
    }

    proptest! {
        #[test]
        fn any_text_is_a_constraint_that_is_read_back_or_an_error(text in texts(), value in any::<Option<String>>()) {
            match text.parse::<Constraint>() {
                Ok(constraint) => {
                    let _ = constraint.holds(value.as_deref());
                    prop_assert_eq!(constraint.to_string().parse::<Constraint>(), Ok(constraint));
                }
                Err(error) => prop_assert!(!error.problem().is_empty() && !error.cure().is_empty()),
            }
        }

        #[test]
        fn whatever_passes_the_check_is_written_and_read_back(constraint in constraints(), value in any::<Option<String>>()) {
            let _ = constraint.holds(value.as_deref());
            if constraint.check().is_ok() {
                prop_assert_eq!(constraint.to_string().parse::<Constraint>(), Ok(constraint.clone()));
                prop_assert_eq!(decode::<Constraint>(&encode(&constraint)), Ok(constraint));
            }
        }

        #[test]
        fn any_map_of_texts_is_a_constraint_or_an_error(
            attribute in prop_oneof![any::<String>(), "(node|label|attribute)[.]\\PC{0,4}"],
            operator in prop_oneof![any::<String>(), proptest::sample::select(Operator::ALL.to_vec()).prop_map(String::from)],
            values in values(),
        ) {
            let wire = serde_json::json!({ "attribute": attribute, "operator": operator, "values": values });
            if let Ok(constraint) = decode::<Constraint>(&encode(&wire)) {
                prop_assert_eq!(constraint.check().is_ok(), constraint.compile().is_ok());
                prop_assert_eq!(decode::<Constraint>(&encode(&constraint)), Ok(constraint));
            }
        }

        #[test]
        fn versions_are_ordered(one in "[0-9.]{0,8}", other in "[0-9.]{0,8}", third in "[0-9.]{0,8}") {
            prop_assert_eq!(compare_versions(&one, &other), compare_versions(&other, &one).reverse());
            prop_assert_eq!(compare_versions(&one, &one), Ordering::Equal);
            if compare_versions(&one, &other).is_le() && compare_versions(&other, &third).is_le() {
                prop_assert!(compare_versions(&one, &third).is_le());
            }
        }
    }
}
