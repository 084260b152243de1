//! Compiles every `bpf/*.bpf.c` and writes its skeleton to OUT_DIR, with `objects.rs`: the list of them all.
//! Needs clang and nothing else of the host: no bpftool, no kernel or system headers.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is how a build script speaks")]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libbpf_cargo::SkeletonBuilder;

/// What the generator's code is not held to.
const GENERATED: &str = "#[allow(clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used, clippy::expect_used, \
                         missing_docs, dead_code, unused_imports, non_camel_case_types)]";

fn main() -> ExitCode {
    match generate() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("{err}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), Box<dyn Error>> {
    for watched in ["bpf", "vmlinux"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut names = Vec::new();
    for entry in fs::read_dir("bpf")? {
        names.extend(entry?.file_name().to_str().and_then(|name| name.strip_suffix(".bpf.c")).map(str::to_owned));
    }
    names.sort();
    for name in &names {
        skeleton(name, &out)?;
    }
    fs::write(out.join("objects.rs"), objects(&names, &out))?;
    Ok(())
}

fn skeleton(name: &str, out: &Path) -> Result<(), Box<dyn Error>> {
    let flags =
        ["-isystem", "vmlinux", "-I", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"];
    let mut builder = SkeletonBuilder::new();
    builder.source(format!("bpf/{name}.bpf.c")).clang_args(flags.map(OsString::from)).rustfmt("/nonexistent");
    if let Some(clang) = env::var_os("CLANG") {
        builder.clang(clang);
    }
    let hint = "the build needs clang, libelf-dev and zlib1g-dev: `make deps`";
    builder
        .build_and_generate(out.join(format!("{name}.skel.rs")))
        .map_err(|err| format!("cannot compile bpf/{name}.bpf.c: {err:#}\nhint: {hint}").into())
}

/// `abi` has types only; every other object becomes a variant of `Object` and an arm of its loader.
fn objects(names: &[String], out: &Path) -> String {
    let (mut modules, mut variants, mut labels, mut arms) =
        (String::new(), String::new(), String::new(), String::new());
    for name in names {
        let file = out.join(format!("{name}.skel.rs"));
        modules += &format!("{GENERATED} pub(in crate::probe) mod {name} {{ include!({file:?}); }}\n");
        if name == "abi" {
            continue;
        }
        let variant = name[..1].to_uppercase() + &name[1..];
        let builder = format!("skeleton::{name}::{variant}SkelBuilder::default()");
        variants += &format!("/// `bpf/{name}.bpf.c`\n{variant},\n");
        labels += &format!("Self::{variant} => {name:?},\n");
        arms += &format!("Self::{variant} => loader.load({builder}, self.name(), slot),\n");
    }
    format!(
        "pub(in crate::probe) mod skeleton {{ {modules} }}
/// The BPF objects pylow is made of, one for each `bpf/*.bpf.c` with programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {{ {variants} }}
impl Object {{
    /// File name without `.bpf.c`.
    pub fn name(self) -> &'static str {{ match self {{ {labels} }} }}
    pub(super) fn load<'o>(self, loader: &Loader<'_>, slot: &'o mut MaybeUninit<OpenObject>) -> Result<Box<dyn Skel<'o> + 'o>> {{
        match self {{ {arms} }}
    }}
}}
"
    )
}
