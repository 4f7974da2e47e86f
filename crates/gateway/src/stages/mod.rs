//! The stages of the pipeline that live in this crate, one file each. The cache and the
//! flights are `paceline-cache`.

pub(crate) mod admit;
mod answer;
mod attempt;
pub(crate) mod coded;
mod continued;
mod digest;
pub(crate) mod hedge;
pub(crate) mod keep_alive;
pub(crate) mod line;
mod prefill;
pub(crate) mod prepare;
pub(crate) mod record;
pub(crate) mod routes;
pub(crate) mod send;
pub(crate) mod stored;
mod translate;
mod verdict;
