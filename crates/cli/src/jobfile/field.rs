//! The fields of a job file that are written in people's units: how each is read, and what is said when it
//! cannot be.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use longshore_proto::constraint::{Attribute, Constraint};
use longshore_proto::container::{Device, Gpus, Ulimit};
use longshore_proto::name::SpecName;
use longshore_proto::quantity;
use longshore_proto::spec::{Mount, Port, RestartPolicy, Spread, TaskSpec};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::parse;

/// How a quantity is written, when it is not.
const CPU: &str = "is not an amount of cpu; write cores as 0.5 or 2, or thousandths as \"500m\"";
const BYTES: &str =
    "is not an amount of bytes; write 256MiB, 1.5GiB, 500MB in quotes or a whole number of bytes";
const DURATION: &str = "is not a duration; write 500ms, 30s, 10m or 2h in quotes";

/// A value that is a number or a text in a file, as text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl Visitor<'_> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(format!("{value:?}")))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Reads a scalar, or says which field it is and how it is written.
fn scalar<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    field: &str,
    cure: &str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let Scalar(text) = Scalar::deserialize(deserializer)
        .map_err(|error| D::Error::custom(format!("{field} {cure} ({error})")))?;
    read(&text).ok_or_else(|| D::Error::custom(format!("{field}: {text} {cure}")))
}

pub(super) fn cpus<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    scalar(deserializer, "cpus", CPU, |text| quantity::parse_cpu_millis(text).ok()).map(Some)
}

pub(super) fn memory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    scalar(deserializer, "memory", BYTES, |text| quantity::parse_bytes(text).ok()).map(Some)
}

pub(super) fn disk<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    scalar(deserializer, "disk", BYTES, |text| quantity::parse_bytes(text).ok()).map(Some)
}

/// Reads a duration as milliseconds.
fn duration_ms<'de, D: Deserializer<'de>>(deserializer: D, field: &str) -> Result<u64, D::Error> {
    scalar(deserializer, field, DURATION, |text| {
        u64::try_from(quantity::parse_duration(text).ok()?.as_millis()).ok()
    })
}

pub(super) fn stop_grace<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    duration_ms(deserializer, "stop_grace")
}

pub(super) fn stop_grace_ms_usual() -> u64 {
    TaskSpec::new(name_usual(), "").stop_grace_ms
}

pub(super) fn window<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "window").map(Some)
}

pub(super) fn delay<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "delay").map(Some)
}

pub(super) fn max_delay<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "max_delay").map(Some)
}

pub(super) fn healthy_for<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "healthy_for").map(Some)
}

pub(super) fn progress_deadline<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "progress_deadline").map(Some)
}

pub(super) fn interval<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "interval").map(Some)
}

pub(super) fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "timeout").map(Some)
}

pub(super) fn start_period<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    duration_ms(deserializer, "start_period").map(Some)
}

pub(super) fn retries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let cure = "is no number of bad answers; write a whole number from 1";
    scalar(deserializer, "retries", cure, |text| text.parse().ok()).map(Some)
}

pub(super) fn parallel<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let cure = "is no number of tasks; write a whole number from 1";
    let read = |text: &str| text.parse().ok().filter(|count| *count > 0);
    scalar(deserializer, "parallel", cure, read).map(Some)
}

pub(super) fn health_port<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let cure = "is no port; write the name of a port, or its number in the container";
    scalar(deserializer, "port", cure, |text| Some(text.to_owned())).map(Some)
}

pub(super) fn attempts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    let cure = "is no number of attempts; write a whole number from 0";
    scalar(deserializer, "attempts", cure, |text| text.parse().ok()).map(Some)
}

pub(super) fn instances<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let cure = "is no number of instances; use 1 to 100000";
    scalar(deserializer, "instances", cure, |text| text.parse().ok())
}

pub(super) fn instances_usual() -> u32 {
    1
}

pub(super) fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let within = |priority: &u8| (1..=100).contains(priority);
    scalar(deserializer, "priority", "is no priority; use 1 (least) to 100", |text| {
        text.parse().ok().filter(within)
    })
}

pub(super) fn priority_usual() -> u8 {
    50
}

/// The name of a part that has none of its own; two such parts are refused by the rules.
pub(super) fn name_usual() -> SpecName {
    #[expect(clippy::expect_used, reason = "the text is a constant, and a legal name")]
    "main".parse().expect("a legal name")
}

/// Reads a list of words.
fn words<'de, D: Deserializer<'de>>(deserializer: D, field: &str) -> Result<Vec<String>, D::Error> {
    Vec::deserialize(deserializer).map_err(|error| {
        D::Error::custom(format!(
            "{field} is no list of words; write [\"sleep\", \"60\"] ({error})"
        ))
    })
}

pub(super) fn command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    words(deserializer, "command")
}

pub(super) fn entrypoint<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    words(deserializer, "entrypoint").map(Some)
}

/// Reads a table of texts.
fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
    field: &str,
) -> Result<BTreeMap<String, String>, D::Error> {
    BTreeMap::deserialize(deserializer).map_err(|error| {
        D::Error::custom(format!(
            "{field} is no table of texts; write {{ NAME = \"value\" }}, numbers in quotes ({error})"
        ))
    })
}

pub(super) fn env<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    texts(deserializer, "env")
}

pub(super) fn labels<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    texts(deserializer, "labels")
}

pub(super) fn options<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    texts(deserializer, "options")
}

pub(super) fn memory_reservation<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    scalar(deserializer, "memory_reservation", BYTES, |text| quantity::parse_bytes(text).ok())
        .map(Some)
}

pub(super) fn shm_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    scalar(deserializer, "shm_size", BYTES, |text| quantity::parse_bytes(text).ok()).map(Some)
}

pub(super) fn pids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let cure = "is no number of processes; write a whole number from 1";
    scalar(deserializer, "pids", cure, |text| text.parse().ok()).map(Some)
}

pub(super) fn anti_affinity<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u8>, D::Error> {
    let cure = "is no weight; use 0 (tasks of one kind may share a node) to 100";
    let within = |weight: &u8| *weight <= 100;
    scalar(deserializer, "anti_affinity", cure, |text| text.parse().ok().filter(within)).map(Some)
}

pub(super) fn affinity_weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i8, D::Error> {
    let cure = "is no weight; use 1 to 100 to seek such nodes, -1 to -100 to avoid them";
    scalar(deserializer, "weight", cure, parse::affinity_weight)
}

pub(super) fn affinity_weight_usual() -> i8 {
    50
}

pub(super) fn spread_weight<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u8>, D::Error> {
    let cure = "is no weight; use 1 (hardly) to 100";
    scalar(deserializer, "weight", cure, parse::spread_weight).map(Some)
}

/// Reads the size of a tmpfs.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    scalar(deserializer, "size", BYTES, |text| quantity::parse_bytes(text).ok()).map(Some)
}

/// Reads what is either so or not.
fn flag<'de, D: Deserializer<'de>>(deserializer: D, field: &str) -> Result<bool, D::Error> {
    bool::deserialize(deserializer).map_err(|error| {
        D::Error::custom(format!("{field} is neither so nor not; write true or false ({error})"))
    })
}

pub(super) fn fence<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "fence")
}

pub(super) fn distinct_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "distinct_hosts")
}

pub(super) fn all_at_once<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "all_at_once")
}

pub(super) fn new_privileges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "new_privileges")
}

pub(super) fn privileged<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "privileged")
}

pub(super) fn init<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "init")
}

pub(super) fn read_only<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    flag(deserializer, "read_only")
}

/// Makes a type for a text that is read by a function: an error names the field.
macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident($value:ty), $field:literal, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub(super) $value);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let named = |error: &dyn fmt::Display| D::Error::custom(format!("{}: {error}", $field));
                let Scalar(text) = Scalar::deserialize(deserializer).map_err(|error| named(&error))?;
                $read(&text).map(Self).map_err(|error| named(&error))
            }
        }
    };
}

text_type!(
    /// A constraint as it is written: `"label.rack = r1"`.
    ConstraintText(Constraint), "constraints", str::parse::<Constraint>);
text_type!(
    /// Something of a node as it is written: `"label.rack"`.
    AttributeText(Attribute), "attribute", str::parse::<Attribute>);
text_type!(
    /// What tasks are spread over, as it is written in one word: `"label.rack:30"`.
    SpreadText(Spread), "spread", parse::spread);
text_type!(
    /// A mount as it is written in one word: `"/srv/data:/data:ro"`.
    MountText(Mount), "mounts", parse::mount);

text_type!(
/// A limit of each process: `"1024:4096"` or `1024`.
UlimitText(Ulimit), "ulimits", |text: &str| {
    parse::limits_of(text).ok_or_else(|| format!("{text} is no limit; write \"1024:4096\" or a number, -1 for none"))
});
text_type!(
    /// A capability: `"NET_ADMIN"`.
    CapabilityText(String), "capability", parse::capability);
text_type!(
    /// A device of the node: `"/dev/kvm"`.
    DeviceText(Device), "devices", parse::device);
text_type!(
    /// Graphics processors: `"all"` or a number.
    GpusText(Gpus), "gpus", parse::gpus);

/// A port as it is written: `"8080:80"`.
#[derive(Debug)]
pub(super) struct PortText(pub(super) Port);

impl<'de> Deserialize<'de> for PortText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Scalar(text) = Scalar::deserialize(deserializer)
            .map_err(|error| D::Error::custom(format!("ports: write \"8080:80\" ({error})")))?;
        let port = parse::publish(&text);
        port.map(Self).map_err(|error| D::Error::custom(format!("ports: {error}")))
    }
}

/// A restart policy as it is written in one word: `"on-failure:3"`.
#[derive(Debug)]
pub(super) struct RestartText(pub(super) RestartPolicy);

impl<'de> Deserialize<'de> for RestartText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Scalar(text) = Scalar::deserialize(deserializer)
            .map_err(|error| D::Error::custom(format!("restart: write \"always\" ({error})")))?;
        let policy = parse::restart(&text);
        policy.map(Self).map_err(|error| D::Error::custom(format!("restart: {error}")))
    }
}

/// A value that is written as a text or as a table; each keeps its own errors.
#[derive(Debug)]
pub(super) enum TextOr<A, B> {
    /// A text.
    Text(A),
    /// A table.
    Table(B),
}

impl<'de, A: Deserialize<'de>, B: Deserialize<'de>> Deserialize<'de> for TextOr<A, B> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<A, B>(PhantomData<(A, B)>);
        impl<'de, A: Deserialize<'de>, B: Deserialize<'de>> Visitor<'de> for Either<A, B> {
            type Value = TextOr<A, B>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a table")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                A::deserialize(StrDeserializer::new(text)).map(TextOr::Text)
            }
            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                B::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Table)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}
