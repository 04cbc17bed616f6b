//! How bad it is, of what an operator should know.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How bad something is, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It is over.
    Over,
    /// Worth a look within days.
    Warning,
    /// Somebody should look now.
    Alarm,
    /// Something is refused because of it.
    Critical,
}

impl Severity {
    /// Its name, as it stands in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
