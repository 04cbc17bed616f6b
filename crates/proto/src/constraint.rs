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
//!
//! | module | what lives there |
//! |---|---|
//! | [`text`](self) | reading and writing one as people do |
//! | [`matcher`](self) | whether it holds, versions and regular expressions among it |
//! | [`error`](self) | why something is no constraint |

mod error;
mod matcher;
mod text;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use error::ConstraintError;
pub use matcher::Matcher;

/// The longest constraint as text, in bytes.
pub const CONSTRAINT_BYTES_MAX: usize = 1024;
/// The most values of one constraint.
pub const VALUES_MAX: usize = 64;

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
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{decode, encode};

    pub(super) fn read(text: &str) -> Constraint {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    pub(super) fn refused(text: &str) -> ConstraintError {
        match text.parse::<Constraint>() {
            Err(error) => error,
            Ok(constraint) => panic!("{text} was read as {constraint:?}"),
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
    }
}
