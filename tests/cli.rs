//! The command line without rights: help, usage errors, the README, and that one flag means one thing.

#![allow(clippy::unwrap_used, reason = "a failed test is told by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Output};

use pylow::command::COMMANDS;

fn pylow(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pylow")).args(words).env("NO_COLOR", "1").output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn help_lists_every_command_once_in_its_group() {
    let help = stdout(&pylow(&["--help"]));
    for entry in COMMANDS {
        let line = format!("  {:9}  {}\n", entry.name, entry.about);
        assert_eq!(help.matches(&line).count(), 1, "{line:?} in\n{help}");
        assert!(help.contains(&format!("{}:\n", entry.group.title())));
    }
}

#[test]
fn every_command_has_help_with_examples() {
    for entry in COMMANDS {
        let output = pylow(&[entry.name, "--help"]);
        assert!(output.status.success());
        let help = stdout(&output);
        assert!(!entry.examples.is_empty(), "{} has no example", entry.name);
        for (line, _) in entry.examples {
            assert!(help.contains(line), "{line} is not in the help of {}", entry.name);
        }
    }
}

#[test]
fn examples_parse() {
    for entry in COMMANDS {
        for (line, _) in entry.examples {
            let words: Vec<&str> = line.split_whitespace().collect();
            pylow::cli::root().try_get_matches_from(words).unwrap_or_else(|err| panic!("{line}: {err}"));
        }
    }
}

#[test]
fn aliases_lead_to_one_command() {
    let mut seen = BTreeMap::new();
    for entry in COMMANDS {
        for name in std::iter::once(&entry.name).chain(entry.aliases) {
            assert_eq!(seen.insert(*name, entry.name), None, "`{name}` names two commands");
        }
    }
}

#[test]
fn one_flag_means_one_thing() {
    let mut meanings: BTreeMap<String, (String, String)> = BTreeMap::new();
    for entry in COMMANDS {
        let command = (entry.augment)(clap::Command::new(entry.name));
        for flag in command.get_arguments() {
            let Some(long) = flag.get_long() else { continue };
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            let (by, known) = meanings.entry(long.to_owned()).or_insert((entry.name.to_owned(), help.clone()));
            assert_eq!(*known, help, "--{long} of {} and {by}", entry.name);
        }
    }
}

#[test]
fn readme_has_the_table_of_commands() {
    let readme = fs::read_to_string("README.md").unwrap();
    assert!(readme.contains(&pylow::cli::readme_table()), "`pylow generate readme` writes another table");
}

#[test]
fn usage_errors_say_what_to_do() {
    let no_target = pylow(&["pycpu"]);
    assert_eq!(no_target.status.code(), Some(2));
    assert!(stderr(&no_target).contains("hint: `pylow doctor`"), "{}", stderr(&no_target));
    for words in [
        &["pycpu", "1", "--duration", "soon"][..],
        &["pycpu", "1", "--no-such-flag"],
        &["pycpu", "1", "--name", "x"],
        &["flame", "1", "--output", "picture.png"],
        &["flame", "1", "--event", "syscall:no_such_call"],
        &["flame", "1", "--off-cpu", "--idle"],
        &["no-such-command"],
        &[],
    ] {
        let output = pylow(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty());
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_closed_pipe_is_success() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pylow"))
        .args(["pycpu", "--replay", "tests/golden/pycpu/events.jsonl"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn what_is_no_record_is_refused() {
    let output = pylow(&["pycpu", "--replay", "Cargo.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: cannot replay Cargo.toml\n  "), "{}", stderr(&output));
}

#[test]
fn man_pages_and_completions_know_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap();
    assert!(pylow(&["generate", "man", path]).status.success());
    let shells = ["bash", "zsh", "fish"].map(|shell| stdout(&pylow(&["generate", shell])));
    for entry in COMMANDS {
        assert!(directory.path().join(format!("pylow-{}.1", entry.name)).is_file(), "no man page of {}", entry.name);
        assert!(shells.iter().all(|completion| completion.contains(entry.name)));
    }
}
