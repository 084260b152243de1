//! The command line: global flags, grouped help, exit codes. The only place that prints and exits.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::command::args::Format;
use crate::command::{COMMANDS, Entry, Env, Group};
use crate::error::{Error, Result};
use crate::render::escape::visible;
use crate::render::json::Json;
use crate::render::text::{Style, Text};
use crate::report::Sink;

mod progress;

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let matches = match root().try_get_matches() {
        Ok(matches) => matches,
        Err(err) => {
            // Nothing is left to report to when even this can't be written.
            let _ = err.print();
            return ExitCode::from(if err.use_stderr() { 2 } else { 0 });
        }
    };
    match dispatch(&matches) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Error(err)) => {
            // Names in it may come from the target.
            for line in err.to_string().lines() {
                let _ = writeln!(io::stderr(), "{}", visible(line));
            }
            ExitCode::from(err.kind().exit_code())
        }
    }
}

/// Why the program ends without success.
enum Failure {
    /// The reader of our output went away, which is its good right.
    ClosedPipe,
    Error(Error),
}

impl From<Error> for Failure {
    fn from(err: Error) -> Self {
        if err.is_closed_pipe() { Self::ClosedPipe } else { Self::Error(err) }
    }
}

/// The whole command line, made from the table.
pub fn root() -> clap::Command {
    let mut root = clap::Command::new("pylow")
        .version(env!("CARGO_PKG_VERSION"))
        .about("See where a running Python process spends its time, without touching it")
        .after_help(grouped_help())
        .help_template("{about}\n\n{usage-heading} {usage}\n\n{after-help}\n\nOptions:\n{options}")
        .subcommand_required(true)
        .disable_help_subcommand(true)
        .arg(
            Arg::new("format")
                .long("format")
                .global(true)
                .value_parser(value_parser!(Format))
                .default_value("text")
                .help("How to write the report"),
        )
        .arg(
            Arg::new("quiet")
                .long("quiet")
                .short('q')
                .global(true)
                .action(ArgAction::SetTrue)
                .help("No progress, no banner"),
        )
        .arg(
            Arg::new("btf")
                .long("btf")
                .global(true)
                .hide(true)
                .value_name("FILE")
                .value_parser(value_parser!(PathBuf))
                .help("Kernel type information to use instead of the running kernel's"),
        )
        .subcommand(generate_command());
    for entry in COMMANDS {
        let command = clap::Command::new(entry.name)
            .about(entry.about)
            .visible_aliases(entry.aliases.iter().copied())
            .after_help(examples(entry));
        // The arguments' own doc comment is for readers of the code.
        root = root.subcommand((entry.augment)(command).about(entry.about).long_about(None));
    }
    root
}

/// Hidden: writes man pages, completions and the README's table for packagers.
fn generate_command() -> clap::Command {
    clap::Command::new("generate")
        .hide(true)
        .about("Write man pages, completions, or the table of commands")
        .arg(Arg::new("what").required(true).value_parser(["man", "bash", "zsh", "fish", "readme", "commands"]))
        .arg(
            Arg::new("dir")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("For `man`: where the pages go"),
        )
}

fn grouped_help() -> String {
    let width = COMMANDS.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for group in Group::ALL {
        text.push_str(&format!("{}:\n", group.title()));
        for entry in COMMANDS.iter().filter(|entry| entry.group == group) {
            text.push_str(&format!("  {:width$}  {}\n", entry.name, entry.about));
        }
        text.push('\n');
    }
    text.push_str("`pylow triage PID` is the first command to run; `pylow COMMAND --help` has examples.");
    text
}

fn examples(entry: &Entry) -> String {
    let mut text = String::from("Examples:");
    for (line, what) in entry.examples {
        text.push_str(&format!("\n  {line}\n      {what}"));
    }
    text
}

fn dispatch(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, sub)) = matches.subcommand() else { return Err(Error::usage("no command given").into()) };
    if name == "generate" {
        return Ok(generate(sub)?);
    }
    let entry =
        COMMANDS.iter().find(|entry| entry.name == name).ok_or_else(|| Error::usage(format!("no command `{name}`")))?;
    let quiet = sub.get_flag("quiet");
    let mut sink = sink(sub.get_one::<Format>("format").copied().unwrap_or_default());
    let mut monitor = progress::Progress::new(quiet);
    let btf = sub.get_one::<PathBuf>("btf").cloned();
    let mut env = Env { sink: sink.as_mut(), monitor: &mut monitor, btf, quiet };
    Ok((entry.run)(sub, &mut env)?)
}

fn sink(format: Format) -> Box<dyn Sink> {
    let stdout = io::stdout();
    match format {
        Format::Json => Box::new(Json::new(stdout)),
        Format::Text => {
            let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let width = progress::terminal_width().unwrap_or(Style::default().width);
            Box::new(Text::new(stdout, Style { colour, width }))
        }
    }
}

fn generate(matches: &ArgMatches) -> Result<()> {
    let mut out = io::stdout().lock();
    let what = matches.get_one::<String>("what").map(String::as_str).unwrap_or_default();
    match what {
        "man" => return man_pages(matches.get_one::<PathBuf>("dir").map_or(Path::new("."), PathBuf::as_path)),
        "bash" => clap_complete::generate(clap_complete::Shell::Bash, &mut root(), "pylow", &mut out),
        "zsh" => clap_complete::generate(clap_complete::Shell::Zsh, &mut root(), "pylow", &mut out),
        "fish" => clap_complete::generate(clap_complete::Shell::Fish, &mut root(), "pylow", &mut out),
        "readme" => out.write_all(readme_table().as_bytes())?,
        _ => {
            for entry in COMMANDS {
                writeln!(out, "{}", entry.name)?;
            }
        }
    }
    Ok(())
}

fn man_pages(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    Ok(clap_mangen::generate_to(root(), dir)?)
}

/// The README's table of commands.
pub fn readme_table() -> String {
    let mut text = String::from("| command | what it answers |\n|---|---|\n");
    for group in Group::ALL {
        text.push_str(&format!("| **{}** | |\n", group.title()));
        for entry in COMMANDS.iter().filter(|entry| entry.group == group) {
            text.push_str(&format!("| `pylow {}` | {} |\n", entry.name, entry.about));
        }
    }
    text
}
