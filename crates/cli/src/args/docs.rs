//! Keeps `docs/cli.md` to what the program really takes: the page's list of verbs is written from their definitions.
//!
//! `UPDATE_DOCS=1 cargo test -p longshore args::docs` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// Between this and the end of the page stands what is written here.
const BEGIN: &str = "<!-- written from the program's own definitions: UPDATE_DOCS=1 cargo test -p longshore args::docs -->\n";

/// A text for a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|").replace('<', "&lt;")
}

/// `-o, --output FORMAT`, or the name of what stands by its place.
fn name(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let values = if takes { values.join(" ").replace('|', "\\|") } else { String::new() };
    if arg.is_positional() {
        let many =
            if arg.get_num_args().is_some_and(|many| many.max_values() > 1) { "…" } else { "" };
        return format!("`{values}{many}`");
    }
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    format!("`{}`", format!("{names} {values}").trim_end())
}

/// What an argument means, with what it may be, what it is when it is left out, and the variable that says it, too.
fn meaning(arg: &Arg) -> String {
    let mut text = cell(&arg.get_help().map(ToString::to_string).unwrap_or_default());
    if matches!(arg.get_action(), ArgAction::Set | ArgAction::Append) {
        let values = arg.get_possible_values();
        let shown: Vec<String> = values
            .iter()
            .filter(|value| !value.is_hide_set())
            .map(|value| match value.get_help() {
                Some(help) => format!("`{}` ({})", value.get_name(), cell(&help.to_string())),
                None => format!("`{}`", value.get_name()),
            })
            .collect();
        if !shown.is_empty() {
            let _ = write!(text, ": {}", shown.join(", "));
        }
        let defaults = arg.get_default_values();
        if !defaults.is_empty() && !arg.is_hide_default_value_set() {
            let defaults: Vec<String> =
                defaults.iter().map(|value| value.to_string_lossy().into_owned()).collect();
            let _ = write!(text, " [default: {}]", defaults.join(" "));
        }
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(text, " [`{}`]", variable.to_string_lossy());
    }
    text
}

fn table<'a>(page: &mut String, what: &str, args: impl Iterator<Item = &'a Arg>) {
    let rows: Vec<String> =
        args.map(|arg| format!("| {} | {} |\n", name(arg), meaning(arg))).collect();
    if !rows.is_empty() {
        let _ = write!(page, "\n| {what} | meaning |\n|---|---|\n{}", rows.concat());
    }
}

/// One verb, and those below it.
fn verb(page: &mut String, path: &str, command: &Command) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n### `{path}`\n\n{}.\n", about.trim_end_matches('.'));
    let own = || {
        let hidden = |arg: &&Arg| !arg.is_hide_set() && !arg.is_global_set();
        let help = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
        command.get_arguments().filter(hidden).filter(help)
    };
    table(page, "argument", own().filter(|arg| arg.is_positional()));
    table(page, "option", own().filter(|arg| !arg.is_positional()));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        verb(page, &format!("{path} {}", below.get_name()), below);
    }
}

/// The list of verbs.
fn written() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut page = "\n## Options of every verb\n".to_owned();
    table(&mut page, "option", cli.get_arguments().filter(|arg| arg.is_global_set()));
    page.push_str("\n## Verbs\n");
    for below in cli.get_subcommands().filter(|below| below.get_name() != "help") {
        verb(&mut page, &format!("longshore {}", below.get_name()), below);
    }
    page
}

/// The variables that any option reads.
fn variables(command: &Command, found: &mut BTreeSet<String>) {
    let named = command.get_arguments().filter_map(Arg::get_env);
    found.extend(named.map(|variable| variable.to_string_lossy().into_owned()));
    command.get_subcommands().for_each(|below| variables(below, found));
}

#[test]
fn the_page_has_every_verb_and_option_as_the_program_takes_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, list) = page.split_once(BEGIN).expect("the page has a place for the list");
    let written = written();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{written}")).unwrap();
    } else {
        assert!(list == written, "docs/cli.md is not what the program takes; {}", BEGIN.trim());
    }
    let mut found = BTreeSet::new();
    variables(&Cli::command(), &mut found);
    for variable in found {
        assert!(head.contains(&format!("| `{variable}` |")), "docs/cli.md has no {variable}");
    }
}
