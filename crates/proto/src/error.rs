//! The one error that crosses the wire: a code for programs, a sentence for people, and what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal or failure, as an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// What went wrong, as one sentence without a full stop.
    pub message: String,
    /// What to do next, when there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether what was asked for may have been done, or be done yet: asking again with the same id finds out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outcome_unknown: bool,
}

/// What kind of refusal or failure it is. Texts are stable; new ones may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request cannot be read, or breaks a rule.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// A short id fits more than one.
    Ambiguous,
    /// It contradicts what is there: a name that is taken, a job that is stopping.
    Conflict,
    /// The command id was used for another command, or is too old to tell.
    CommandReused,
    /// Another node holds this name.
    NameTaken,
    /// The node is not registered; it must register again.
    NotRegistered,
    /// It belongs to another cluster.
    WrongCluster,
    /// Not the leader, or not able to commit just now: the same request, with the same id, may be sent again.
    Unavailable,
    /// A bug or a broken store on our side; nothing was changed.
    Internal,
    /// A code from a newer version.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// As it is written in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not-found",
            Self::Ambiguous => "ambiguous",
            Self::Conflict => "conflict",
            Self::CommandReused => "command-reused",
            Self::NameTaken => "name-taken",
            Self::NotRegistered => "not-registered",
            Self::WrongCluster => "wrong-cluster",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }

    /// Whether the same request, with the same command id, may be sent again and may then succeed.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl ApiError {
    /// An error without a hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, outcome_unknown: false }
    }

    /// The same error with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error, which does not say whether it was done.
    #[must_use]
    pub fn outcome_unknown(mut self) -> Self {
        self.outcome_unknown = true;
        self
    }
}
