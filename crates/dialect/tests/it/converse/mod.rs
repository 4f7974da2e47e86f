//! Bedrock's Converse, where the golden cases do not go.

mod answers;
mod requests;
mod streams;
