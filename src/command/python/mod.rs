//! Python code.

mod pycpu;

pub use pycpu::Pycpu;
