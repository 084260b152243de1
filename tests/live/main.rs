//! Privileged tests: real interpreters run programs that know their own truth, the real binary watches them.
//!
//! A test that can't run here is ignored and says why (`SKIPPED name: why`); with `PYLOW_REQUIRE_BPF=1` missing rights or
//! a missing interpreter are failures. Nothing sleeps: everything waits for a line, a file or an exit, with a deadline.
//! Interpreters: see `interpreter.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is told by a panic")]

mod interpreter;
mod pylow;
mod stack;
mod target;

mod capture;
mod counts;
mod dump;
mod errors;
mod life;
mod samples;
mod triage;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use interpreter::Interpreter;
use libtest_mimic::{Arguments, Failed, Trial};

/// What a test returns: `?` on anything, or a message of its own.
type Outcome = Result<(), Failed>;

/// The tests of one run, with what this machine offers.
struct Suite {
    interpreters: Vec<Arc<Interpreter>>,
    /// Why no test can run here.
    unable: Option<String>,
    trials: Vec<Trial>,
}

impl Suite {
    /// One trial for each interpreter that `fits`.
    fn on(&mut self, name: &str, fits: impl Fn(&Interpreter) -> bool, test: fn(&Interpreter) -> Outcome) {
        let fitting: Vec<_> = self.interpreters.iter().filter(|it| fits(it)).cloned().collect();
        for interpreter in fitting {
            let name = format!("{name}::{}", interpreter.name);
            self.add(name, move || test(&interpreter));
        }
    }

    /// One trial on the newest and one on the oldest interpreter that `fits`: the two ends of what CPython did.
    fn on_both_ends(&mut self, name: &str, fits: impl Fn(&Interpreter) -> bool, test: fn(&Interpreter) -> Outcome) {
        let minors: Vec<_> = self.interpreters.iter().filter(|it| fits(it)).map(|it| it.minor).collect();
        let (oldest, newest) = (minors.iter().min().copied(), minors.iter().max().copied());
        let mut seen = Vec::new();
        for interpreter in self.interpreters.clone() {
            let end = Some(interpreter.minor) == oldest || Some(interpreter.minor) == newest;
            if end && fits(&interpreter) && !seen.contains(&interpreter.minor) {
                seen.push(interpreter.minor);
                self.add(format!("{name}::{}", interpreter.name), move || test(&interpreter));
            }
        }
    }

    /// One trial on the interpreter most machines have.
    fn once(&mut self, name: &str, test: fn(&Interpreter) -> Outcome) {
        let usual = self.interpreters.iter().find(|it| it.is_systems()).or(self.interpreters.first()).cloned();
        if let Some(interpreter) = usual {
            self.add(name.to_owned(), move || test(&interpreter));
        }
    }

    fn add(&mut self, name: String, test: impl FnOnce() -> Outcome + Send + 'static) {
        let ignored = self.unable.is_some();
        if let Some(why) = &self.unable {
            say(&format!("SKIPPED {name}: {why}"));
        }
        self.trials.push(Trial::test(name, test).with_kind("live").with_ignored_flag(ignored));
    }
}

fn main() {
    let mut arguments = Arguments::from_args();
    // They measure: one at a time.
    arguments.test_threads = Some(1);
    let required = std::env::var_os("PYLOW_REQUIRE_BPF").is_some_and(|value| value == "1");
    let interpreters: Vec<_> = interpreter::found().into_iter().map(Arc::new).collect();
    let unable = missing_right().or_else(|| interpreters.is_empty().then(|| "no CPython on this machine".to_owned()));
    if let Some(why) = unable.as_ref().filter(|_| required) {
        say(&format!("PYLOW_REQUIRE_BPF is set, but: {why}"));
        std::process::exit(101);
    }
    let mut suite = Suite { interpreters, unable, trials: Vec::new() };
    samples::add_to(&mut suite);
    life::add_to(&mut suite);
    counts::add_to(&mut suite);
    capture::add_to(&mut suite);
    triage::add_to(&mut suite);
    dump::add_to(&mut suite);
    errors::add_to(&mut suite);
    libtest_mimic::run(&arguments, suite.trials).exit();
}

/// What keeps BPF from working here, in words.
fn missing_right() -> Option<String> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    // include/uapi/linux/capability.h: CAP_PERFMON and CAP_BPF.
    if effective >> 38 & 1 == 0 || effective >> 39 & 1 == 0 {
        return Some("needs root, or CAP_BPF and CAP_PERFMON".to_owned());
    }
    (!Path::new("/sys/kernel/btf/vmlinux").exists()).then(|| "this kernel has no BTF".to_owned())
}

#[expect(clippy::print_stderr, reason = "a test program speaks to its runner")]
fn say(line: &str) {
    eprintln!("{line}");
}
