//! Why something is no constraint.

use std::fmt;

use super::Operator;

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
    /// More than [`super::VALUES_MAX`] values.
    TooManyValues {
        /// How many there are.
        count: usize,
    },
    /// More than [`super::CONSTRAINT_BYTES_MAX`] bytes.
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
