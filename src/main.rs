//! The `pylow` program; everything is in the library.

fn main() -> std::process::ExitCode {
    pylow::cli::main()
}
