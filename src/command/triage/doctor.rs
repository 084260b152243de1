//! `pylow doctor [PID]`: what this kernel, these rights and this interpreter allow.

use clap::Args;

use crate::command::args::TargetArgs;
use crate::command::{Direct, Env, Named};
use crate::error::{ErrorKind, Result};
use crate::event;
use crate::probe::kernel;
use crate::report::{Align, Block, Cell, Check, Checks, Table, Title};
use crate::session;
use crate::target::{self, Target};
use crate::units;

/// Arguments.
#[derive(Args)]
pub struct Doctor {
    #[command(flatten)]
    target: TargetArgs,
}

impl Named for Doctor {
    const NAME: &'static str = "doctor";
    const ABOUT: &'static str = "Say what this kernel, these rights and a process allow, and what to do about the rest";
    const EXAMPLES: &'static [(&'static str, &'static str)] = &[
        ("pylow doctor", "check kernel and rights, list the Python processes of this machine"),
        ("pylow doctor 4821", "check what can be seen of process 4821"),
    ];
}

impl Direct for Doctor {
    fn run(&self, env: &mut Env<'_>) -> Result<()> {
        env.sink.block(Block::Checks(kernel_checks(env)?))?;
        env.sink.block(Block::Checks(rights_checks()?))?;
        match self.target.selection() {
            Some(selection) => {
                let mut trouble = None;
                for target in session::targets(&selection)? {
                    match target {
                        Ok(target) => env.sink.block(Block::Checks(target_checks(&target)))?,
                        Err(err) => trouble = Some(err),
                    }
                }
                trouble.map_or(Ok(()), Err)
            }
            None => {
                let python = target::select::python_processes()?;
                env.sink.block(Block::Table(processes(python.found)))?;
                if python.hidden > 0 {
                    env.sink.block(Block::Checks(hidden_processes(python.hidden)))?;
                }
                Ok(())
            }
        }
    }
}

fn kernel_checks(env: &Env<'_>) -> Result<Checks> {
    let btf = if kernel::has_btf() { "BTF yes" } else { "BTF no" };
    let checks = kernel::abilities(env.btf.as_deref()).into_iter().map(|ability| {
        let used_by = format!("used by {}", ability.used_by);
        match ability.tried {
            Ok(()) => yes(ability.name, format!("loaded and attached ({used_by})")),
            Err(err) if err.kind() == ErrorKind::NotPermitted => {
                no(ability.name, format!("not permitted ({used_by})"), err.next_step())
            }
            Err(err) => no(ability.name, format!("{} ({used_by})", err.message()), err.next_step()),
        }
    });
    Ok(Checks {
        subject: "kernel".into(),
        summary: format!("{}   {btf}", kernel::release()?),
        checks: fixes_once(checks.collect()),
    })
}

/// A way out that holds for several lines in a row is said in the last of them.
fn fixes_once(mut checks: Vec<Check>) -> Vec<Check> {
    for index in 1..checks.len() {
        if checks[index - 1].fix == checks[index].fix {
            checks[index - 1].fix = None;
        }
    }
    checks
}

fn rights_checks() -> Result<Checks> {
    let capabilities = kernel::capabilities()?;
    let missing = capabilities.iter().filter(|capability| !capability.held).count();
    let summary = if missing == 0 { "everything pylow can use".to_owned() } else { format!("{missing} missing") };
    let checks = capabilities.into_iter().map(|capability| {
        if capability.held {
            yes(capability.name, capability.purpose.to_owned())
        } else {
            no(
                capability.name,
                format!("needed to {}", capability.purpose),
                Some("run as root, or grant it: setcap(8)".to_owned()),
            )
        }
    });
    Ok(Checks { subject: "rights".into(), summary, checks: fixes_once(checks.collect()) })
}

fn target_checks(target: &Target) -> Checks {
    let mut checks = Vec::new();
    let mut summary = target.process.command.clone();
    if let Some(layout) = &target.layout {
        summary = format!("CPython {}, {}", layout.version, layout.image_path);
        checks.push(yes("stacks", format!("offsets verified: {}", layout.evidence)));
        let gils = layout.gils.len();
        checks.push(if gils == 0 {
            no("GIL waits", "the GIL was not found in this interpreter".into(), None)
        } else {
            yes("GIL waits", format!("{gils} GIL{} found", if gils == 1 { "" } else { "s" }))
        });
    }
    Checks { subject: format!("PID {}", target.tgid), summary, checks }
}

fn hidden_processes(hidden: usize) -> Checks {
    let evidence = format!("{} of the processes may not be looked into", units::count(hidden as u64));
    let fix = "run as root to list the Python processes among them too".to_owned();
    Checks { subject: "processes".into(), summary: String::new(), checks: vec![no("hidden", evidence, Some(fix))] }
}

fn processes(found: Vec<event::Process>) -> Table {
    let columns = [("PID", Align::Right), ("python", Align::Left), ("threads", Align::Right), ("command", Align::Left)];
    let rows = found.into_iter().map(|process| {
        let python = process.python.unwrap_or_default();
        vec![
            Cell { text: process.tgid.to_string(), value: process.tgid.into() },
            Cell { text: python.clone(), value: python.into() },
            Cell { text: process.threads.to_string(), value: process.threads.into() },
            Cell { text: process.command.clone(), value: process.command.into() },
        ]
    });
    Table {
        title: Title::section("PYTHON PROCESSES"),
        columns: columns.map(|(name, align)| (name.to_owned(), align)).to_vec(),
        rows: rows.collect(),
        hidden: 0,
    }
}

fn yes(ability: &str, evidence: String) -> Check {
    Check { ability: ability.into(), ok: true, evidence, fix: None }
}

fn no(ability: &str, evidence: String, fix: Option<String>) -> Check {
    Check { ability: ability.into(), ok: false, evidence, fix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fix_for_several_lines_is_said_in_the_last() {
        let fix = |text: &str| Some(text.to_owned());
        let checks = vec![
            no("a", String::new(), fix("x")),
            no("b", String::new(), fix("x")),
            yes("c", String::new()),
            no("d", String::new(), fix("x")),
            no("e", String::new(), fix("y")),
        ];
        let fixes: Vec<_> = fixes_once(checks).into_iter().map(|check| check.fix).collect();
        assert_eq!(fixes, [None, fix("x"), None, fix("x"), fix("y")]);
        assert!(fixes_once(Vec::new()).is_empty());
    }
}
