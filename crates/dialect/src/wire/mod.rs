//! What the stages read of a dialect's bytes without parsing them whole: the few fields of a
//! request, and of an answer its usage, whether it is complete, and whether it failed.

mod answer;
mod error;
mod request;
mod usage;

pub use answer::{is_answer, is_preamble, read_events};
pub use error::ErrorText;
pub use request::fields;
pub use usage::usage;

pub(crate) use usage::member_value;
