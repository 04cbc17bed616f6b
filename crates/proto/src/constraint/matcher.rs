//! Whether a constraint holds: its compiled form, and how versions are compared.

use std::cmp::Ordering;

use regex_lite::{Regex, RegexBuilder};

use super::{Constraint, ConstraintError, Operator, VALUES_MAX, check_length};

/// The largest compiled regular expression, in bytes: some 500 characters or classes. The time to match grows with the
/// expression and with the value, and is spent for each node while everybody's placements wait: at worst a third of a
/// millisecond for a node's name, and a few for the longest label.
const REGEX_BYTES_MAX: usize = 16 << 10;

impl Constraint {
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
    use crate::constraint::tests::{read, refused};

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

    proptest! {
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
