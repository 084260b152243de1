//! Compiles every `bpf/*.bpf.c` and writes its skeleton to OUT_DIR, with `objects.rs`: the list of them all.
//! Needs clang and nothing else of the host: no bpftool, no kernel or system headers.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

fn main() {
    for watched in ["bpf", "vmlinux"] {
        println!("cargo:rerun-if-changed={watched}");
    }
    println!("cargo:rerun-if-env-changed=CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let mut names: Vec<String> = fs::read_dir("bpf")
        .expect("the folder bpf is part of the source")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".bpf.c").map(str::to_owned))
        .collect();
    names.sort();
    for name in &names {
        skeleton(name, &out);
    }
    fs::write(out.join("objects.rs"), objects(&names, &out)).expect("OUT_DIR is writable");
}

fn skeleton(name: &str, out: &Path) {
    let flags =
        ["-isystem", "vmlinux", "-I", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror"];
    let mut builder = SkeletonBuilder::new();
    builder.source(format!("bpf/{name}.bpf.c")).clang_args(flags.map(OsString::from)).rustfmt("/nonexistent");
    if let Some(clang) = env::var_os("CLANG") {
        builder.clang(clang);
    }
    if let Err(err) = builder.build_and_generate(out.join(format!("{name}.skel.rs"))) {
        panic!(
            "cannot compile bpf/{name}.bpf.c: {err:?}\nhint: the build needs clang, libelf-dev and zlib1g-dev (`make deps`)"
        );
    }
}

/// `abi` has types only; every other object becomes a variant of `Object` and an arm of its loader.
fn objects(names: &[String], out: &Path) -> String {
    let (mut modules, mut variants, mut labels, mut arms) =
        (String::new(), String::new(), String::new(), String::new());
    for name in names {
        let file = out.join(format!("{name}.skel.rs"));
        writeln!(modules, "#[allow(clippy::all, clippy::undocumented_unsafe_blocks, missing_docs, dead_code, unused_imports, unreachable_pub, non_camel_case_types)]\npub(in crate::probe) mod {name} {{ include!({file:?}); }}").expect("write to a string");
        if name == "abi" {
            continue;
        }
        let variant = name[..1].to_uppercase() + &name[1..];
        writeln!(variants, "/// `bpf/{name}.bpf.c`\n{variant},").expect("write to a string");
        writeln!(labels, "Self::{variant} => {name:?},").expect("write to a string");
        writeln!(
            arms,
            "Self::{variant} => loader.load(skeleton::{name}::{variant}SkelBuilder::default(), self.name(), slot),"
        )
        .expect("write to a string");
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
