//! What can't be done: each case its own message, hint and exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::interpreter::Interpreter;
use crate::pylow::{Finished, Pylow, text};
use crate::target::Target;
use crate::{Outcome, Suite};

pub(crate) fn add_to(suite: &mut Suite) {
    suite.once("error_dead_pid", dead_pid);
    suite.once("error_pid_1", pid_1);
    suite.once("error_not_python", not_python);
    suite.once("error_no_rights", no_rights);
    suite.once("error_no_btf", no_btf);
    suite.once("error_usage", usage);
    // From 3.15 on an interpreter refuses to start when `Py_Version` is not its own.
    let doctored = |it: &Interpreter| (11..15).contains(&it.minor) && it.is_static();
    suite.on("error_unknown_version", doctored, unknown_version);
}

fn dead_pid(_: &Interpreter) -> Outcome {
    let mut child = Command::new("true").spawn()?;
    let pid = child.id().to_string();
    child.wait()?;
    let finished = flame(&pid)?;
    finished.expect_code(5)?;
    expect_shape(&finished, &[&pid])
}

fn pid_1(_: &Interpreter) -> Outcome {
    let finished = flame("1")?;
    match fs::read_link("/proc/1/exe") {
        Ok(program) if program.to_string_lossy().contains("python") => Ok(()), // a container around one
        Ok(program) => {
            finished.expect_code(4)?;
            expect_shape(&finished, &["not a Python process", text(&program)])
        }
        // Some sandboxes keep even root from looking at their first process.
        Err(_) => {
            finished.expect_code(3)?;
            expect_shape(&finished, &["not permitted", "process 1"])
        }
    }
}

fn not_python(_: &Interpreter) -> Outcome {
    let mut child = Command::new("sleep").arg("60").spawn()?;
    let finished = flame(&child.id().to_string());
    child.kill()?;
    child.wait()?;
    let finished = finished?;
    finished.expect_code(4)?;
    expect_shape(&finished, &["not a Python process", "sleep", "pylow doctor"])
}

/// As nobody, who may not even read the directory of the binary: on a copy.
fn no_rights(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let copy = directory.path().join("pylow");
    fs::copy(env!("CARGO_BIN_EXE_pylow"), &copy)?;
    let target = Target::start(interpreter, "faults.py", &["idle"])?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", text(&copy)]);
    let finished = Pylow::launch(command.args(["flame", &target.pid.to_string(), "--duration", "1"]))?.finish()?;
    finished.expect_code(3)?;
    expect_shape(&finished, &["not permitted", "root", "CAP_"])
}

fn no_btf(interpreter: &Interpreter) -> Outcome {
    let target = Target::start(interpreter, "faults.py", &["idle"])?;
    let arguments = ["flame", &target.pid.to_string(), "--duration", "1", "--btf", "/nonexistent"];
    let finished = Pylow::start(&arguments)?.finish()?;
    finished.expect_code(4)?;
    expect_shape(&finished, &["BTF", "CONFIG_DEBUG_INFO_BTF"])
}

fn usage(_: &Interpreter) -> Outcome {
    for arguments in [&["flame"][..], &["flame", "no-number"], &["nonsense"], &["flame", "1", "--frequency", "x"]] {
        let finished = Pylow::start(arguments)?.finish()?;
        finished.expect_code(2)?;
        finished.expect_stderr(&["error:"])?;
    }
    Ok(())
}

/// A copy whose own version words say 3.99.
fn unknown_version(interpreter: &Interpreter) -> Outcome {
    let directory = TempDir::new()?;
    let program = directory.path().join("python3.99");
    let mut bytes = fs::read(&interpreter.program)?;
    doctor(&mut bytes, interpreter.minor)?;
    fs::write(&program, &bytes)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let mut command = interpreter.command_of(&program);
    command.env("PYTHONHOME", interpreter.prefix());
    let target = Target::launch(command_with(command, "faults.py", "idle"))?;
    let finished = flame(&target.pid.to_string())?;
    finished.expect_code(4)?;
    expect_shape(&finished, &["3.99", "3.15"])
}

fn command_with(mut command: Command, program: &str, argument: &str) -> Command {
    command.arg(crate::target::program_path(program)).arg(argument);
    command
}

/// Sets `Py_Version` (Include/cpython/pylifecycle.h, 3.11+) and the version in `_Py_DebugOffsets`
/// (Include/internal/pycore_debug_offsets.h, 3.13+) to 3.99.0 final.
fn doctor(bytes: &mut [u8], minor: u8) -> Outcome {
    const DOCTORED: u32 = 0x0363_00f0;
    const COOKIE: &[u8] = b"xdebugpy";
    let old = [minor, 3];
    let cookies = bytes.windows(COOKIE.len()).enumerate().filter(|(_, window)| *window == COOKIE);
    let mut places: Vec<_> = cookies.map(|(at, _)| at + COOKIE.len()).collect();
    places.push(version_place(bytes)?);
    // The code that writes the cookie holds it too.
    places.retain(|at| bytes[at + 2..at + 4] == old);
    if places.is_empty() {
        return Err(format!("no version word of 3.{minor} found").into());
    }
    for at in places {
        bytes[at..at + 4].copy_from_slice(&DOCTORED.to_le_bytes());
    }
    Ok(())
}

/// Where the file holds the word of the dynamic symbol `Py_Version`.
fn version_place(bytes: &[u8]) -> Result<usize, libtest_mimic::Failed> {
    use object::{Object, ObjectSegment, ObjectSymbol};
    let file = object::File::parse(bytes)?;
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("Py_Version")).ok_or("no Py_Version")?;
    let address = symbol.address();
    let mut segments = file.segments();
    let segment = segments.find(|it| (it.address()..it.address() + it.size()).contains(&address));
    let segment = segment.ok_or("Py_Version is in no segment")?;
    Ok((segment.file_range().0 + address - segment.address()) as usize)
}

fn flame(pid: &str) -> Result<Finished, libtest_mimic::Failed> {
    let directory = TempDir::new()?;
    let output: &Path = &directory.path().join("x.svg");
    Pylow::start(&["flame", pid, "--duration", "1", "--output", text(output)])?.finish()
}

/// `error: what`, indented reasons, `hint: what to do`; nothing on standard output but a banner.
fn expect_shape(finished: &Finished, words: &[&str]) -> Outcome {
    finished.expect_stderr(words)?;
    let lines: Vec<_> = finished.stderr.lines().collect();
    let error = lines.iter().any(|line| line.starts_with("error: "));
    let hint = lines.iter().any(|line| line.starts_with("hint: "));
    match error && hint {
        true => Ok(()),
        false => Err(format!("not `error:` and `hint:`\n{finished}").into()),
    }
}
