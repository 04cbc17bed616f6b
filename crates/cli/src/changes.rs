//! What two versions of a job differ in, field by field, with units as people write them. Everything here makes
//! values and text; nothing prints.
//!
//! Fields are found by serialising, so that one that a later version adds to a spec is never forgotten here.

use std::collections::BTreeMap;

use longshore_proto::quantity::{format_bytes, format_cpu, format_duration};
use longshore_proto::spec::JobSpec;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::table::one_line;

/// Stands where a value is not shown.
const HIDDEN: &str = "(hidden)";

/// What a job says, by field: `priority`, `main.image`, `main.env.MODE`. What says nothing is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Those of a job; `None` has none.
    ///
    /// # Errors
    /// Serialising fails, which no job makes it do.
    pub(crate) fn of(job: Option<&JobSpec>) -> Result<Self, serde_json::Error> {
        let mut found = Self(BTreeMap::new());
        let Some(job) = job else { return Ok(found) };
        if let Value::Object(mut whole) = serde_json::to_value(job)? {
            // The job itself has been named, and its parts name their own fields.
            for known in ["namespace", "name"] {
                whole.remove(known);
            }
            let parts = whole.remove("specs");
            found.object("", whole);
            for part in parts.into_iter().flat_map(|parts| match parts {
                Value::Array(parts) => parts,
                _ => Vec::new(),
            }) {
                if let Value::Object(mut part) = part {
                    let name = part.remove("name");
                    let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
                    found.object(&format!("{name}."), part);
                }
            }
        }
        Ok(found)
    }

    fn object(&mut self, path: &str, object: Map<String, Value>) {
        for (key, value) in object {
            match value {
                Value::Null => {}
                Value::Array(values) if values.is_empty() => {}
                // These two only group in the protocol what stands side by side in a job file.
                Value::Object(inner) if key == "container" || key == "resources" => {
                    self.object(path, inner);
                }
                Value::Object(inner) => self.object(&format!("{path}{key}."), inner),
                value => {
                    let (name, text) = shown(&key, &value);
                    self.0.insert(format!("{path}{name}"), text);
                }
            }
        }
    }

    /// One a line.
    pub(crate) fn rows(&self, show_env: bool) -> Vec<Vec<String>> {
        let value = |field: &str, value: &str| {
            if is_hidden(field, show_env) { HIDDEN } else { value }.to_owned()
        };
        self.0.iter().map(|(field, text)| vec![field.clone(), value(field, text)]).collect()
    }
}

/// A field's name without its unit, and its value with it.
fn shown(key: &str, value: &Value) -> (String, String) {
    let unit = |suffix: &str, format: fn(u64) -> String| {
        Some((key.strip_suffix(suffix)?.to_owned(), format(value.as_u64()?)))
    };
    let cores = || unit("_millis", format_cpu).map(|(name, text)| (format!("{name}s"), text));
    let longest = || unit("_ms_max", format_duration).map(|(name, text)| (name + "_max", text));
    unit("_bytes", format_bytes)
        .or_else(|| unit("_ms", format_duration))
        .or_else(longest)
        .or_else(cores)
        .unwrap_or_else(|| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            (key.to_owned(), text)
        })
}

/// Variables of the environment may hold what is not for every eye.
fn is_hidden(field: &str, show_env: bool) -> bool {
    !show_env && field.split('.').nth(1) == Some("env")
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// The field.
    pub(crate) field: String,
    /// What it said; nothing when it said nothing.
    pub(crate) before: Option<String>,
    /// What it says; nothing when it says nothing.
    pub(crate) after: Option<String>,
}

/// What differs.
pub(crate) fn between(before: &Fields, after: &Fields, show_env: bool) -> Vec<Change> {
    let mut names: Vec<&String> = before.0.keys().chain(after.0.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differing = names.into_iter().filter(|name| before.0.get(*name) != after.0.get(*name));
    let change = |name: &String| {
        let value = |fields: &Fields| {
            let value = fields.0.get(name).cloned();
            value.map(|value| if is_hidden(name, show_env) { HIDDEN.to_owned() } else { value })
        };
        Change { field: name.clone(), before: value(before), after: value(after) }
    };
    differing.map(change).collect()
}

impl Change {
    /// For people: `+` is new, `-` is gone, `~` changed.
    pub(crate) fn line(&self) -> String {
        let Self { field, before, after } = self;
        one_line(&match (before, after) {
            (Some(before), Some(after)) if before == HIDDEN && after == HIDDEN => {
                format!("~ {field}: changed (--show-env shows it)")
            }
            (Some(before), Some(after)) => format!("~ {field}: {before} -> {after}"),
            (Some(before), None) => format!("- {field}: {before}"),
            (None, after) => format!("+ {field}: {}", after.as_deref().unwrap_or_default()),
        })
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::spec::{JobType, RestartMode, RestartPolicy, TaskSpec};

    use super::*;

    fn job() -> JobSpec {
        let spec = TaskSpec::new("main".parse().unwrap(), "nginx:1");
        JobSpec::new("web".parse().unwrap(), JobType::Service, spec)
    }

    fn lines(before: &JobSpec, after: &JobSpec, show_env: bool) -> Vec<String> {
        let fields = |job| Fields::of(Some(job)).unwrap();
        between(&fields(before), &fields(after), show_env).iter().map(Change::line).collect()
    }

    #[test]
    fn what_differs_is_said_with_units_and_what_is_alike_is_not() {
        let (mut before, mut after) = (job(), job());
        assert_eq!(lines(&before, &after, false), Vec::<String>::new());
        after.priority = 70;
        let spec = &mut after.specs[0];
        spec.image = "nginx:2".into();
        spec.command = vec!["nginx".into(), "-g".into()];
        spec.resources.cpu_millis = 1_500;
        spec.resources.memory_bytes = 256 << 20;
        spec.stop_grace_ms = 90_000;
        spec.restart = Some(RestartPolicy {
            delay_ms_max: 60_000,
            ..RestartPolicy::usual(RestartMode::Always)
        });
        spec.container.user = Some("www".into());
        let rows = Fields::of(Some(&after)).unwrap().rows(false);
        before.specs[0].restart.clone_from(&after.specs[0].restart);
        assert_eq!(
            lines(&before, &after, false),
            [
                "+ main.command: [\"nginx\",\"-g\"]",
                "~ main.cpus: 0.1 -> 1.5",
                "~ main.image: nginx:1 -> nginx:2",
                "~ main.memory: 128MiB -> 256MiB",
                "~ main.stop_grace: 10s -> 1m30s",
                "+ main.user: www",
                "~ priority: 50 -> 70",
            ]
        );
        assert!(rows.contains(&vec!["main.restart.delay_max".to_owned(), "1m".to_owned()]));
        let back = lines(&after, &before, false);
        assert!(back.contains(&"- main.user: www".to_owned()), "{back:?}");
    }

    #[test]
    fn values_of_the_environment_are_shown_only_when_asked_for() {
        let (mut before, mut after) = (job(), job());
        before.specs[0].env.insert("PASSWORD".into(), "old".into());
        after.specs[0].env.insert("PASSWORD".into(), "new".into());
        after.specs[0].env.insert("TOKEN".into(), "t0ken".into());
        let hidden = lines(&before, &after, false);
        assert_eq!(
            hidden,
            ["~ main.env.PASSWORD: changed (--show-env shows it)", "+ main.env.TOKEN: (hidden)",]
        );
        assert_eq!(
            lines(&before, &after, true),
            ["~ main.env.PASSWORD: old -> new", "+ main.env.TOKEN: t0ken"]
        );
        let rows = Fields::of(Some(&after)).unwrap();
        let has = |show_env, text: &str| {
            rows.rows(show_env).into_iter().flatten().any(|cell| cell == text)
        };
        assert!(!has(false, "t0ken") && has(false, HIDDEN) && has(true, "t0ken"));
    }

    #[test]
    fn a_part_that_comes_or_goes_is_told_with_its_fields() {
        let (before, mut after) = (job(), job());
        after.specs.push(TaskSpec::new("side".parse().unwrap(), "redis:7"));
        assert!(lines(&before, &after, false).contains(&"+ side.image: redis:7".to_owned()));
        assert!(lines(&after, &before, false).contains(&"- side.image: redis:7".to_owned()));
        let nothing = Fields::of(None).unwrap();
        let new = between(&nothing, &Fields::of(Some(&before)).unwrap(), false);
        assert!(new.iter().all(|change| change.before.is_none() && change.after.is_some()));
    }
}
