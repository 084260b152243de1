//! The serialised form of an event stream.
