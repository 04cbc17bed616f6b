//! Health checks: how a worker asks a task whether it does its work, and what it found.

use serde::{Deserialize, Serialize};

/// How a worker finds out whether a task does its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// How long after one answer the next question is asked, in milliseconds.
    #[serde(default = "HealthCheck::default_interval_ms")]
    pub interval_ms: u64,
    /// How long an answer may take, in milliseconds.
    #[serde(default = "HealthCheck::default_timeout_ms")]
    pub timeout_ms: u64,
    /// How many bad answers in a row make a task unhealthy, at least one.
    #[serde(default = "HealthCheck::default_retries")]
    pub retries: u32,
    /// How long after its start bad answers do not count, until the first good one, in milliseconds.
    #[serde(default)]
    pub start_period_ms: u64,
}

/// What is asked of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// `GET` of a path; a status of 200 to 399 is good.
    Http {
        /// The name of one of the task's ports, or the number of a port of the container.
        port: String,
        /// The path, from `/` on.
        path: String,
    },
    /// A connection that is taken is good.
    Tcp {
        /// The name of one of the task's ports, or the number of a port of the container.
        port: String,
    },
    /// A command in the container; exit code 0 is good.
    Exec {
        /// Its words.
        command: Vec<String>,
    },
    /// The image's own `HEALTHCHECK`, which the container runtime asks by itself.
    Image,
}

impl HealthCheck {
    /// The probe with every figure as usual.
    pub fn usual(probe: Probe) -> Self {
        Self {
            probe,
            interval_ms: Self::default_interval_ms(),
            timeout_ms: Self::default_timeout_ms(),
            retries: Self::default_retries(),
            start_period_ms: 0,
        }
    }

    fn default_interval_ms() -> u64 {
        10_000
    }

    fn default_timeout_ms() -> u64 {
        5_000
    }

    fn default_retries() -> u32 {
        3
    }
}

/// What is known of a task's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It has not given a good answer yet.
    Starting,
    /// Its last answers were good.
    Healthy,
    /// It gave too many bad answers in a row; it is restarted, as its policy says.
    Unhealthy,
}

impl Health {
    /// As it is written in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A task's health with its place among what was found in this attempt: a report that comes late is known by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    /// What was found.
    pub status: Health,
    /// Rises with each change within an attempt.
    pub sequence: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_as_usual() {
        let read: HealthCheck =
            serde_json::from_str(r#"{"probe": {"tcp": {"port": "web"}}}"#).unwrap();
        assert_eq!(read, HealthCheck::usual(Probe::Tcp { port: "web".into() }));
        assert_eq!(serde_json::to_value(Probe::Image).unwrap(), "image");
    }
}
