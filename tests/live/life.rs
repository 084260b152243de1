//! Processes that fork, exec, exit, and live in containers.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Failed;
use tempfile::TempDir;

use crate::interpreter::Interpreter;
use crate::pylow::{Pylow, text, timed};
use crate::samples::compare_truth;
use crate::stack::Stacks;
use crate::target::{Target, program_path, until};
use crate::{Outcome, Suite};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.on_both_ends("fork_with_children", |_| true, fork_with_children);
    suite.on_both_ends("target_exits", |_| true, target_exits);
    suite.on_both_ends("target_execs", |_| true, target_execs);
    suite.on_both_ends("container", |_| true, container);
    suite.once("own_command", own_command);
    suite.on_both_ends("own_command_forks", |_| true, own_command_forks);
    suite.once("own_command_by_wrapper", own_command_by_wrapper);
    suite.once("own_command_by_wrapper_child", own_command_by_wrapper_child);
    suite.once("own_command_none", own_command_none);
    suite.once("own_command_is_brief", own_command_is_brief);
}

/// With `--children`: a child forked before and one forked after the attach, each under its own name.
fn fork_with_children(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let mut target = Target::start(interpreter, "prefork.py", &[])?;
    let pid = target.pid.to_string();
    let arguments = ["flame", &pid, "--children", "--frequency", "499", "--duration", "4", "--output", text(&output)];
    let mut pylow = Pylow::start(&arguments)?;
    pylow.attached()?;
    target.go()?;
    target.wait_for("done")?;
    let finished = pylow.finish()?;
    finished.expect_code(0)?;
    let stacks = Stacks::read(&output)?;
    stacks.expect_complete(&["<module>"], 200)?;
    for function in ["work_of_early_child", "work_of_late_child"] {
        if stacks.weight_through(function) < 20 {
            return Err(format!("{function} is missing\n{}{finished}", stacks.head()).into());
        }
    }
    Ok(())
}

/// The target ends midway: so does pylow, with a report of what it saw, and says so.
fn target_exits(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let mut target = Target::start(interpreter, "ends.py", &["exit"])?;
    let pid = target.pid.to_string();
    let arguments = ["flame", &pid, "--frequency", "499", "--duration", "50", "--output", text(&output)];
    let mut pylow = Pylow::start(&arguments)?;
    pylow.attached()?;
    burn(target.pid, Duration::from_millis(500))?;
    target.go()?;
    let (finished, took) = timed(|| pylow.finish())?;
    finished.expect_code(0)?;
    if took > Duration::from_secs(30) {
        return Err(format!("went on for {took:?} after the target's end").into());
    }
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    if !["exited", "ended", "gone"].iter().any(|word| said.contains(word)) {
        return Err(format!("nothing said of the target's end\n{finished}").into());
    }
    let stacks = Stacks::read(&output)?;
    match stacks.weight_through("before_exec") > 20 {
        true => Ok(()),
        false => Err(format!("what it did is missing\n{}{finished}", stacks.head()).into()),
    }
}

/// The target becomes another program: the new one is found again, and no name of the old one is used for it.
fn target_execs(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let mut target = Target::start(interpreter, "ends.py", &["exec"])?;
    let pid = target.pid.to_string();
    let arguments = ["flame", &pid, "--frequency", "499", "--duration", "50", "--output", text(&output)];
    let mut pylow = Pylow::start(&arguments)?;
    pylow.attached()?;
    burn(target.pid, Duration::from_millis(500))?;
    target.go()?;
    target.wait_for("ready")?;
    burn(target.pid, Duration::from_millis(1500))?;
    target.go()?;
    let finished = pylow.finish()?;
    finished.expect_code(0)?;
    let stacks = Stacks::read(&output)?;
    for function in ["before_exec", "after_exec"] {
        if stacks.weight_through(function) < 20 {
            return Err(format!("{function} is missing\n{}{finished}", stacks.head()).into());
        }
    }
    Ok(())
}

/// A chroot on a file system only the target sees, with an interpreter of its own, in pid and mount namespaces of its
/// own: found and walked, and every stack is the program's.
fn container(interpreter: &Interpreter) -> Outcome {
    let root = TempDir::new()?;
    let prefix = interpreter.prefix();
    let library = format!("lib/python3.{}", interpreter.minor);
    let mut script = format!("set -e; mount -t tmpfs pylow {0}; cd {0}; mkdir -p proc dev;", text(root.path()));
    script += "touch dev/null; mount --bind /dev/null dev/null;";
    let home = prefix.join(&library);
    let home = home.parent().and_then(Path::parent).ok_or("no prefix")?;
    copy_into(&mut script, &interpreter.program)?;
    for file in shared_libraries(&interpreter.program)? {
        copy_into(&mut script, Path::new(&file))?;
    }
    script += &format!("mkdir -p .{0}/{library}; cd {0}/{library};", text(home));
    script += "tar -c --exclude=test --exclude=site-packages --exclude=dist-packages --exclude=__pycache__ \
               --exclude='config-*' . | tar -x -C ";
    script += &format!("{}{}/{library}; cd {0};", text(root.path()), text(home));
    script += &format!("cp {} {} .;", text(&program_path("stack_truth.py")), text(&program_path("contact.py")));
    script += &format!("exec chroot . {} /stack_truth.py", text(&interpreter.program));

    let mut command = interpreter.command_of("unshare");
    command.env("PYTHONHOME", home).args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &script]);
    let mut target = Target::launch(command)?;
    let launcher = target.pid;
    target.pid = until("the child of unshare", || child_of(launcher))?;
    if Path::new(&format!("/proc/{}/root", target.pid)).read_link()? != *root.path() {
        return Err("the target is not in its chroot".into());
    }
    compare_truth(target)
}

/// `pylow flame -- python program`: started by pylow, seen from its start, reported at its end.
fn own_command(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let program = "def hot():\n    return sum(i * i for i in range(3000000))\nfor _ in range(4): hot()";
    let python = text(&interpreter.program);
    let arguments = ["flame", "--frequency", "499", "--output", text(&output), "--", python, "-c", program];
    let finished = Pylow::start(&arguments)?.finish()?;
    finished.expect_code(0)?;
    let stacks = Stacks::read(&output)?;
    match stacks.weight_through("hot") * 10 > stacks.total() * 7 {
        true => Ok(()),
        false => Err(format!("`hot` is not most of it\n{}{finished}", stacks.head()).into()),
    }
}

/// A program that forks in its first line, when its interpreter has hardly come up: the child is seen from its start.
fn own_command_forks(interpreter: &Interpreter) -> Outcome {
    let program = "import os, time\ndef work_of_child():\n    while time.process_time() < 0.5: pass\n\
                   if os.fork() == 0: work_of_child()\nelse: os.wait()";
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    for _ in 0..3 {
        let mut command = interpreter.command_of(env!("CARGO_BIN_EXE_pylow"));
        command.args(["flame", "--children", "--frequency", "199", "--output", text(&output), "--"]);
        command.args([text(&interpreter.program), "-c", program]);
        let finished = Pylow::launch(&mut command)?.finish()?;
        finished.expect_code(0)?;
        let stacks = Stacks::read(&output)?;
        // Half a second at 199 Hz; what is missing ran before the child's interpreter was found.
        let seen = stacks.weight_through("work_of_child");
        if seen < 60 {
            return Err(format!("{seen} of about 99 samples in the child\n{}{finished}", stacks.head()).into());
        }
    }
    Ok(())
}

/// A shell or `env` that becomes the Python.
fn own_command_by_wrapper(interpreter: &Interpreter) -> Outcome {
    let python = text(&interpreter.program);
    let program = "def hot():\n    return sum(i * i for i in range(3000000))\nfor _ in range(4): hot()";
    let script = format!("exec {python} -c \"{program}\"");
    for command in [&["sh", "-c", &script][..], &["env", "A=b", python, "-c", program]] {
        expect_hot(&[], command)?;
    }
    Ok(())
}

/// A shell that starts the Python and stays: with `--children` that is followed too.
fn own_command_by_wrapper_child(interpreter: &Interpreter) -> Outcome {
    let program = "def hot():\n    return sum(i * i for i in range(3000000))\nfor _ in range(4): hot()";
    let script = format!("{} -c \"{program}\"; true", text(&interpreter.program));
    expect_hot(&["--children"], &["sh", "-c", &script])
}

fn expect_hot(options: &[&str], command: &[&str]) -> Outcome {
    let directory = TempDir::new()?;
    let output = directory.path().join("x.folded");
    let mut arguments = vec!["flame", "--frequency", "499", "--output", text(&output)];
    arguments.extend(options.iter().chain(&["--"]).chain(command));
    let finished = Pylow::start(&arguments)?.finish()?;
    finished.expect_code(0)?;
    let stacks = Stacks::read(&output)?;
    match stacks.weight_through("hot") * 10 > stacks.total() * 7 {
        true => Ok(()),
        false => Err(format!("`hot` is not most of it\n{}{finished}", stacks.head()).into()),
    }
}

/// Commands that can't be started, or are no Python: each its own message.
fn own_command_none(_: &Interpreter) -> Outcome {
    for (command, code, words) in [
        (&["no-such-command"][..], 2, ["error: cannot start `no-such-command`", "No such file", "hint: "]),
        (&["/etc/passwd"], 3, ["error: cannot start `/etc/passwd`", "ermission denied", ""]),
        (&["/bin/true"], 5, ["error: no Python was seen in `/bin/true`", "--children", "hint: "]),
        (&["sleep", "3"], 4, ["error: `sleep 3` is no Python", "is not a Python process", "hint: "]),
    ] {
        let finished = Pylow::start(&[&["flame", "--"], command].concat())?.finish()?;
        finished.expect_code(code)?;
        finished.expect_stderr(&words)?;
    }
    Ok(())
}

/// A Python that ends at once: no error, whatever was seen of it.
fn own_command_is_brief(interpreter: &Interpreter) -> Outcome {
    let python = text(&interpreter.program);
    let finished = Pylow::start(&["triage", "--", python, "-c", "pass"])?.finish()?;
    finished.expect_code(0)?;
    match finished.stdout.contains("ended") {
        true => Ok(()),
        false => Err(format!("nothing said of its end\n{finished}").into()),
    }
}

/// Waits until a process has used this much more CPU time.
fn burn(pid: u32, more: Duration) -> Outcome {
    let used = move || {
        // proc(5): utime and stime are fields 14 and 15, counted after the command name in parentheses; 100 Hz.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit(')').next()?.split_whitespace().collect();
        Some(Duration::from_millis(10 * (fields[11].parse::<u64>().ok()? + fields[12].parse::<u64>().ok()?)))
    };
    let start = used().ok_or("the target is gone")?;
    until("CPU time used by the target", || used().filter(|now| *now >= start + more)).map(|_| ())
}

/// Adds the commands that copy one file to its place below the current directory.
fn copy_into(script: &mut String, file: &Path) -> Outcome {
    let directory = file.parent().ok_or("no directory")?;
    *script += &format!("mkdir -p .{0}; cp -L {1} .{0}/;", text(directory), text(file));
    Ok(())
}

/// What the loader would map, the loader itself included. An interpreter on its own C library is asked with it.
fn shared_libraries(program: &Path) -> Result<Vec<String>, Failed> {
    let output = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut files: Vec<String> =
        text.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect();
    let header = Command::new("readelf").args(["-l", crate::pylow::text(program)]).output()?;
    let header = String::from_utf8_lossy(&header.stdout).into_owned();
    let loader = header.split("interpreter: ").nth(1).and_then(|rest| rest.split(']').next());
    files.extend(loader.map(str::to_owned));
    // The C library opens it by name when a thread ends.
    let cache = Command::new("ldconfig").arg("-p").output()?;
    let cache = String::from_utf8_lossy(&cache.stdout).into_owned();
    files.extend(cache.lines().filter(|line| line.contains("libgcc_s.so.1")).filter_map(path_of_library));
    files.sort();
    files.dedup();
    Ok(files)
}

/// `/lib/libx.so` of ldconfig's `libx.so (libc6,x86-64) => /lib/libx.so`.
fn path_of_library(line: &str) -> Option<String> {
    Some(line.split(" => ").nth(1)?.trim().to_owned())
}

fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
