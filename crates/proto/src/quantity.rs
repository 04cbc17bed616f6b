//! Quantities as people write them: `0.5` cores, `"256MiB"`, `"30s"`.
//!
//! Inside and on the wire they are integers with their unit in the field's name; only job files,
//! flags and printed tables use these forms. Decimal and binary suffixes are told apart
//! (`MB` = 10^6, `MiB` = 2^20), and a bare number of bytes is bytes.

use std::time::Duration;

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not an amount of cpu.
    #[error("{0:?} is not an amount of cpu; write cores as 0.5 or 2, or thousandths as 500m")]
    Cpu(String),
    /// Not an amount of bytes.
    #[error(
        "{0:?} is not an amount of bytes; write 256MiB, 1.5GiB, 500MB or a whole number of bytes"
    )]
    Bytes(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write 500ms, 30s, 10m, 2h or a combination such as 1m30s")]
    Duration(String),
}

/// Reads cores (`0.5`, `2`) or thousandths of one (`500m`) as milli-cpus.
pub fn parse_cpu_millis(text: &str) -> Result<u64, QuantityError> {
    let refuse = || QuantityError::Cpu(text.to_owned());
    let trimmed = text.trim();
    if let Some(millis) = trimmed.strip_suffix('m') {
        return millis.parse().map_err(|_| refuse());
    }
    scaled(trimmed, 1000).ok_or_else(refuse)
}

/// Reads an amount of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    let refuse = || QuantityError::Bytes(text.to_owned());
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" | "k" | "K" => 1 << 10,
        "MiB" | "m" | "M" => 1 << 20,
        "GiB" | "g" | "G" => 1 << 30,
        "TiB" | "t" | "T" => 1 << 40,
        _ => return Err(refuse()),
    };
    if factor == 1 && number.contains('.') {
        return Err(refuse());
    }
    scaled(number, factor).ok_or_else(refuse)
}

/// Reads a duration such as `30s` or `1m30s`.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    humantime::parse_duration(text.trim()).map_err(|_| QuantityError::Duration(text.to_owned()))
}

/// `number` (decimal digits with at most one point) times `factor`, exact in integers, rounded down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut value = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let numerator: u128 = fraction.parse().ok()?;
        let denominator = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        value += numerator * u128::from(factor) / denominator;
    }
    u64::try_from(value).ok()
}

/// Bytes for people, in the largest binary unit that keeps at least one whole: `1.5GiB`.
pub fn format_bytes(bytes: u64) -> String {
    for (shift, unit) in [(40u32, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        let one = 1u64 << shift;
        if bytes >= one {
            let tenths = u128::from(bytes) * 10 / u128::from(one);
            let (whole, tenth) = (tenths / 10, tenths % 10);
            return if tenth == 0 {
                format!("{whole}{unit}")
            } else {
                format!("{whole}.{tenth}{unit}")
            };
        }
    }
    format!("{bytes}B")
}

/// Milli-cpus as cores for people: `0.5`, `2`.
pub fn format_cpu(millis: u64) -> String {
    let (whole, rest) = (millis / 1000, millis % 1000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{}", format!("{rest:03}").trim_end_matches('0'))
}

/// Milliseconds for people: `200ms`, `2s`, `2.1s`, `1m30s`, `10m`.
pub fn format_duration(ms: u64) -> String {
    let (minutes, seconds, tenths) = (ms / 60_000, ms % 60_000 / 1_000, ms % 1_000 / 100);
    match (minutes, seconds, tenths) {
        (0, 0, _) => format!("{ms}ms"),
        (0, _, 0) => format!("{seconds}s"),
        (0, _, _) => format!("{seconds}.{tenths}s"),
        (_, 0, _) => format!("{minutes}m"),
        _ => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_read_exactly() {
        assert_eq!(parse_cpu_millis("0.5"), Ok(500));
        assert_eq!(parse_cpu_millis("2"), Ok(2000));
        assert_eq!(parse_cpu_millis(".25"), Ok(250));
        assert_eq!(parse_cpu_millis("500m"), Ok(500));
        for bad in ["", "-1", "1e3", "NaN", "1.2.3", "x", ".", "99999999999999999999"] {
            assert!(parse_cpu_millis(bad).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn bytes_are_read_exactly() {
        assert_eq!(parse_bytes("256MiB"), Ok(256 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(parse_bytes("500MB"), Ok(500_000_000));
        assert_eq!(parse_bytes("64m"), Ok(64 << 20));
        assert_eq!(parse_bytes("1024"), Ok(1024));
        for bad in ["-1", "10XB", "", "MiB", "1.5", "1 PiB", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for bytes in [0, 1, 1023, 1 << 10, 3 << 29, 256 << 20, 1 << 40] {
            assert_eq!(parse_bytes(&format_bytes(bytes)), Ok(bytes));
        }
        for millis in [0, 1, 10, 100, 250, 500, 1000, 1500, 64_000] {
            assert_eq!(parse_cpu_millis(&format_cpu(millis)), Ok(millis));
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("30").is_err());
    }

    #[test]
    fn durations_read_well() {
        for (ms, text) in
            [(200, "200ms"), (2_000, "2s"), (2_140, "2.1s"), (90_000, "1m30s"), (600_000, "10m")]
        {
            assert_eq!(format_duration(ms), text);
        }
    }
}
