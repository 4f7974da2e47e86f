//! Bedrock's Converse, where the golden cases do not go.

mod answers;
mod streams;
