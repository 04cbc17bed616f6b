//! What an image is made for: an operating system and a kind of processor.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::constraint::{Attribute, Constraint, Operator};

/// The machine's attribute that its worker tells its own platform with.
pub const PLATFORM_ATTRIBUTE: &str = "platform";

/// The longest part of a platform, in bytes.
const PART_BYTES_MAX: usize = 32;

/// A platform as Docker writes it: `linux/amd64`, or with a variant of the processor `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    os: String,
    arch: String,
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no platform: write OS/PROCESSOR, such as linux/amd64 or linux/arm64")]
pub struct PlatformError {
    text: String,
}

impl Platform {
    /// The platform of an operating system and a processor, under any of their usual names.
    pub fn of(os: &str, arch: &str) -> Option<Self> {
        format!("{os}/{arch}").parse().ok()
    }

    /// The operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The processor, as Docker calls it.
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// The variant of the processor, where one is asked for.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// Whether a machine of that platform runs what is made for this one. Which variants a processor knows no machine
    /// tells, so that they are not compared.
    pub fn runs_on(&self, machine: &Self) -> bool {
        (&self.os, &self.arch) == (&machine.os, &machine.arch)
    }

    /// Whether an image is made for this platform. One that names no variant may be of any.
    pub fn is_of_image(&self, os: &str, arch: &str, variant: &str) -> bool {
        let same_variant = |wish: &str| variant.is_empty() || wish == variant;
        self.os == os && self.arch == arch && self.variant().is_none_or(same_variant)
    }

    /// What a node must be to run it.
    pub fn constraint(&self) -> Constraint {
        Constraint {
            attribute: Attribute::Machine(PLATFORM_ATTRIBUTE.to_owned()),
            operator: Operator::Equal,
            values: vec![format!("{}/{}", self.os, self.arch)],
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let is_odd = |part: &str| {
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            part.is_empty() || part.len() > PART_BYTES_MAX || !part.chars().all(legal)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, arch, variant) = match parts[..] {
            [os, arch] => (os, arch, None),
            [os, arch, variant] => (os, arch, Some(variant)),
            _ => return Err(PlatformError { text: text.to_owned() }),
        };
        if [Some(os), Some(arch), variant].into_iter().flatten().any(is_odd) {
            return Err(PlatformError { text: text.to_owned() });
        }
        // As kernels and compilers call them.
        let arch = match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "x86" => "386",
            "powerpc64le" => "ppc64le",
            other => other,
        };
        Ok(Self { os: os.to_owned(), arch: arch.to_owned(), variant: variant.map(str::to_owned) })
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn a_platform_is_read_under_any_of_its_names() {
        for (written, read) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(platform(written).to_string(), read);
        }
        assert_eq!(Platform::of("linux", "x86_64"), Some(platform("linux/amd64")));
        let long = format!("linux/{}", "a".repeat(33));
        for odd in
            ["", "linux", "linux/", "/amd64", "Linux/amd64", "linux/arm/v7/x", "a b/c", &long]
        {
            let error = odd.parse::<Platform>().unwrap_err().to_string();
            assert!(error.contains("linux/amd64"), "{error}");
        }
    }

    #[test]
    fn what_runs_where_is_a_matter_of_system_and_processor() {
        let machine = platform("linux/arm");
        assert!(platform("linux/arm/v7").runs_on(&machine));
        assert!(!platform("linux/arm64").runs_on(&machine));
        let wish = platform("linux/arm64/v8").constraint();
        assert_eq!(wish.to_string(), "attribute.platform = linux/arm64");
        assert_eq!(wish.check(), Ok(()));
    }

    #[test]
    fn an_image_that_names_no_variant_may_be_of_any() {
        let wish = platform("linux/arm/v7");
        assert!(wish.is_of_image("linux", "arm", "v7"));
        assert!(wish.is_of_image("linux", "arm", ""));
        assert!(!wish.is_of_image("linux", "arm", "v6"));
        assert!(!wish.is_of_image("linux", "amd64", ""));
        assert!(platform("linux/arm").is_of_image("linux", "arm", "v6"));
    }
}
