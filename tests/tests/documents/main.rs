//! Pages that name tests: each of them exists.

use std::path::Path;

use longshore_tests::program::checkout;

/// The known failures of the field.
const FAILURES: std::ops::RangeInclusive<u32> = 1..=34;

/// Whether a file, named without its ending, has a test of a name.
fn has_test(file: &str, test: &str) -> bool {
    let path = checkout().join(format!("{file}.rs"));
    let Ok(text) = std::fs::read_to_string(path) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_named = |line: &str| {
        let name = line.trim_start_matches("async ").strip_prefix("fn ");
        name.and_then(|name| name.split('(').next()) == Some(test)
    };
    // Attributes stand right above; a property's name may stand within a macro.
    lines.iter().enumerate().any(|(at, line)| {
        let above = lines.get(at.saturating_sub(3)..at).unwrap_or_default();
        is_named(line) && above.iter().any(|line| line.starts_with("#[") && line.contains("test"))
    })
}

/// What stands between backquotes and looks like `file::test`.
fn named(line: &str) -> impl Iterator<Item = (&str, &str)> {
    line.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"))
}

#[test]
fn each_failure_of_the_field_has_a_row_and_each_test_that_it_names_exists() {
    let page = std::fs::read_to_string(checkout().join("docs/field-failures.md")).unwrap();
    let mut rows: Vec<u32> = Vec::new();
    for line in page.lines() {
        let Some(number) = line.strip_prefix("| ").and_then(|line| line.split(' ').next()) else {
            continue;
        };
        let Ok(number) = number.parse() else { continue };
        rows.push(number);
        assert!(named(line).next().is_some(), "failure {number} names no test");
        for (file, test) in named(line) {
            assert!(has_test(file, test), "failure {number}: there is no test {test} in {file}.rs");
        }
    }
    rows.sort_unstable();
    assert_eq!(rows, FAILURES.collect::<Vec<_>>());
    assert!(!has_test("tests/tests/documents/main", "named"), "a function is no test");
    assert!(Path::new(checkout()).join("docs/simulation.md").is_file());
}
