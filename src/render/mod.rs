//! Turns report blocks into bytes: text for people, JSON for programs, SVG for browsers. Knows no command.

pub mod escape;
pub mod json;
pub mod svg;
pub mod text;
