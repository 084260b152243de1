//! All that is known of CPython outside `bpf/lib/python.bpf.h`. No other module compares a Python version.

pub mod layout;
