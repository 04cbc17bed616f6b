//! Keeps `docs/job.md` and `docs/job.schema.json` to what is really read.

use std::collections::BTreeSet;

use longshore_proto::constraint::Constraint;
use longshore_proto::name::Namespace;
use longshore_proto::spec::SchedulerKind;
use longshore_proto::validate;
use regex_lite::Regex;
use serde_json::Value;

use super::{Language, read};

const PAGE: &str = include_str!("../../../../docs/job.md");
const SCHEMA: &str = include_str!("../../../../docs/job.schema.json");

/// The fields that the reader knows, as it lists them when it meets one that it does not know.
fn known(text: &str) -> BTreeSet<String> {
    let failure = read(text, Language::Toml, &Namespace::standard()).unwrap_err();
    let text = failure.told().unwrap().0.to_owned();
    // "expected one of `a`, `b`, `c`", or of two "expected `a` or `b`".
    let (_, list) = text.split_once("expected ").unwrap_or_else(|| panic!("{text}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn schema_fields(pointer: &str) -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let properties = schema.pointer(pointer).and_then(|object| object.get("properties")).unwrap();
    properties.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_and_the_page_have_every_field_and_no_other() {
    for (text, pointer) in [
        ("x = 1", ""),
        ("name = \"a\"\ntask = [{ x = 1 }]", "/$defs/task"),
        ("name = \"a\"\ntask = [{ restart = { x = 1 } }]", "/$defs/restart"),
        ("name = \"a\"\ntask = [{ reschedule = { x = 1 } }]", "/$defs/reschedule"),
        ("name = \"a\"\ntask = [{ migrate = { x = 1 } }]", "/$defs/migrate"),
        ("name = \"a\"\ntask = [{ update = { x = 1 } }]", "/$defs/update"),
        ("name = \"a\"\ntask = [{ affinities = [{ x = 1 }] }]", "/$defs/affinity"),
        ("name = \"a\"\ntask = [{ spread = [{ x = 1 }] }]", "/$defs/spread"),
        ("name = \"a\"\ntask = [{ mounts = [{ x = 1 }] }]", "/$defs/mount"),
        ("name = \"a\"\ntask = [{ health = { x = 1 } }]", "/$defs/health"),
        ("name = \"a\"\ntask = [{ log = { x = 1 } }]", "/$defs/log"),
    ] {
        let known = known(text);
        assert_eq!(known, schema_fields(pointer), "{pointer}");
        for name in &known {
            assert!(PAGE.contains(&format!("| `{name}` |")), "docs/job.md has no `{name}`");
        }
    }
}

#[test]
fn the_schema_knows_every_scheduler() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let named = schema.pointer("/properties/scheduler/enum").and_then(Value::as_array).unwrap();
    let named: BTreeSet<&str> = named.iter().filter_map(Value::as_str).collect();
    assert_eq!(named, SchedulerKind::ALL.map(SchedulerKind::as_str).into());
    for name in named {
        assert!(PAGE.contains(&format!("| `\"{name}\"` |")), "docs/job.md has no {name}");
    }
}

#[test]
fn the_schema_knows_how_many_instances_there_may_be() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let number = |pointer: &str| schema.pointer(pointer).and_then(Value::as_u64);
    let most = number("/$defs/task/properties/instances/maximum");
    assert_eq!(most, Some(validate::INSTANCES_MAX.into()));
    let together = number("/$defs/task/then/properties/instances/maximum");
    assert_eq!(together, Some(validate::ALL_AT_ONCE_MAX.into()));
    let condition = schema.pointer("/$defs/task/if").unwrap();
    assert_eq!(condition["required"][0], "all_at_once");
    assert_eq!(condition["properties"]["all_at_once"]["const"], true);
}

#[test]
fn every_constraint_on_the_page_is_read_and_fits_the_schema() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let (_, section) = PAGE.split_once("### `constraints`").unwrap();
    let (section, _) = section.split_once("### `affinities`").unwrap();
    let shown = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let shown: Vec<&str> = shown.filter(|text| text.contains(' ')).collect();
    assert_eq!(shown.len(), 8);
    let pattern = schema.pointer("/$defs/constraint/pattern").and_then(Value::as_str).unwrap();
    let pattern = Regex::new(pattern).unwrap();
    for text in shown {
        assert_eq!(text.parse::<Constraint>().unwrap().to_string(), text);
        assert!(pattern.is_match(text), "{text}");
    }
    for text in [
        "label.a=b",
        " label.a!=b",
        "attribute.kernel version>5",
        "label.a in \"x\"",
        "label.a = =b",
    ] {
        assert!(text.parse::<Constraint>().is_ok() && pattern.is_match(text), "{text}");
    }
    for text in [
        "a = b",
        "label.a == b",
        "label.a",
        "label.a exists x",
        "node.rack = 1",
        "label.a version > x",
    ] {
        assert!(text.parse::<Constraint>().is_err() && !pattern.is_match(text), "{text}");
    }
}

#[test]
fn the_example_on_the_page_is_accepted() {
    let (_, rest) = PAGE.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let job = read(example, Language::Toml, &Namespace::standard()).unwrap();
    assert_eq!(job.specs[0].instances, 3);
}
